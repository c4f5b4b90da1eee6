"""Who takes part in the race: the algorithms that the catalogue of knobs offers for a collective, and segment sizes."""

from collections.abc import Sequence

import msgspec

from commbench import knobs
from commbench.collectives import COLLECTIVES
from commbench.errors import SpecError, nearest
from commbench.model.cost import ANY, Network, cost
from commbench.records.recommendation import Numerics
from commbench.units import format_bytes

Settings = tuple[tuple[str, str], ...]

_SEGMENTS = (16 * 1024, 128 * 1024, 1024 * 1024)

# library -> (the variable of a collective's algorithm, its name in the catalogue, how each library calls collectives)
_OPENMPI = {
    "all_reduce": "allreduce",
    "all_gather": "allgather",
    "reduce_scatter": "reduce_scatter_block",
    "broadcast": "bcast",
    "reduce": "reduce",
    "all_to_all": "alltoall",
    "gather": "gather",
    "scatter": "scatter",
}
_VARIABLE = {
    "openmpi": {op: f"coll_tuned_{name}_algorithm" for op, name in _OPENMPI.items()},
    "mpich": {op: f"MPIR_CVAR_{name.upper()}_INTRA_ALGORITHM" for op, name in _OPENMPI.items()},
}
_CATALOGUED = {"openmpi": "OMPI_MCA_", "mpich": ""}

# Algorithms of the libraries as the cost model calls them. A name that is not here has no formula and comes last.
_MODEL = {
    "basic_linear": "linear", "nonoverlapping": "tree", "non-overlapping": "linear", "binomial": "tree",
    "binary_tree": "tree", "binary": "tree", "in-order_binary": "tree", "split_binary_tree": "tree", "knomial": "tree",
    "pipeline": "chain", "segmented_ring": "ring", "scatter_allgather": "scatter_doubling",
    "scatter_allgather_ring": "scatter_ring", "pairwise": "ring", "brucks": "bruck", "k_brucks": "bruck",
    "modified_bruck": "bruck", "butterfly": "recursive_halving", "sparbit": "bruck", "linear_sync": "linear",
    "reduce_scatter_allgather": "rabenseifner", "reduce_scatter_gather": "rabenseifner", "smp": "tree",
    "k_reduce_scatter_allgather": "rabenseifner", "recexch": "recursive_doubling",
    "recursive_multiplying": "recursive_doubling", "recexch_doubling": "recursive_doubling",
    "recexch_halving": "recursive_doubling", "scatter_recursive_doubling_allgather": "scatter_doubling",
    "scatter_ring_allgather": "scatter_ring",
}  # fmt: skip
# The default by another name, and what needs a library or a kind of data that the collective does not have.
_NOT = {"auto", "ignore", "nb", "ccl", "noncommutative", "default"}
_SEGMENTED = {"segmented_ring", "pipeline", "chain", "binary_tree", "binomial", "split_binary_tree", "binary"}


class Candidate(msgspec.Struct, frozen=True):
    """One setting in the race; none at all is the library's default.

    model, segment: the algorithm as commbench.model.cost knows it. level: the smallest thing it can be chosen for.
    """

    name: str
    settings: Settings = ()
    model: str = ""
    segment: int = 0
    level: str = "communicator"
    numerics: Numerics = "neutral"


DEFAULT = Candidate("default")


def candidates(library: str, op: str, ranks: int) -> tuple[Candidate, ...]:
    """The default and every other choice the catalogue has, for a group of `ranks`.

    SpecError: a library without a catalogue of algorithms, a collective whose algorithm it does not let choose.
    """
    if library not in _VARIABLE:
        raise SpecError(f"no algorithms are known of {library!r}; {nearest(library, _VARIABLE)}")
    variable = _VARIABLE[library].get(op)
    knob = knobs.table().get(_CATALOGUED[library] + variable) if variable else None
    if variable is None or knob is None or not knob.choices:
        raise SpecError(f"{library} lets nobody choose the algorithm of {op}; {nearest(op, _VARIABLE[library])}")
    numerics: Numerics = "bitwise-changing" if COLLECTIVES[op].reduces and knob.numerics else "neutral"
    found = [DEFAULT]
    for choice in knob.choices:
        value, _, name = choice.rpartition(":")
        if name in _NOT or (name == "two_proc" and ranks != 2) or (name == "neighbor" and ranks % 2):
            continue
        chosen = Candidate(
            name, ((variable, value or name),), _MODEL.get(name, name), level=knob.level, numerics=numerics
        )
        found.append(chosen)
        size = f"{variable}_segmentsize"
        if name in _SEGMENTED and _CATALOGUED[library] + size in knobs.table():
            found += [_segmented(chosen, size, segment) for segment in _SEGMENTS]
    return tuple(found)


def _segmented(chosen: Candidate, variable: str, segment: int) -> Candidate:
    return msgspec.structs.replace(
        chosen,
        name=f"{chosen.name} {format_bytes(segment)}",
        settings=tuple(sorted((*chosen.settings, (variable, str(segment))))),
        segment=segment,
    )


def ordered(found: Sequence[Candidate], op: str, ranks: int, nbytes: int, net: Network = ANY) -> tuple[Candidate, ...]:
    """The default first, then the cheapest by the model; what the model does not know comes last."""

    def key(candidate: Candidate) -> tuple[bool, bool, float, str]:
        seconds = cost(net, op, candidate.model, ranks, nbytes, candidate.segment)
        return (bool(candidate.settings), seconds is None, seconds or 0.0, candidate.name)

    return tuple(sorted(found, key=key))
