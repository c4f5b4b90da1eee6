"""Who takes part in the race: the algorithms that the catalogue of knobs offers for a collective, and segment sizes."""

from collections.abc import Sequence

import msgspec

from commbench import knobs
from commbench.backends import mpi_tool
from commbench.backends.mpi_tool import THEIRS, about
from commbench.collectives import COLLECTIVES
from commbench.errors import SpecError, nearest
from commbench.model.cost import ANY, Network, cost
from commbench.records.recommendation import Numerics
from commbench.units import format_bytes

Settings = tuple[tuple[str, str], ...]

_SEGMENTS = (16 * 1024, 128 * 1024, 1024 * 1024)

# library -> (the variable of a collective's algorithm, its name in the catalogue, how each library calls collectives)
_VARIABLE = {
    "openmpi": {op: f"coll_tuned_{name}_algorithm" for op, name in THEIRS.items()},
    "mpich": {op: f"MPIR_CVAR_{name.upper()}_INTRA_ALGORITHM" for op, name in THEIRS.items()},
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


# Collectives of which a message can be cut into parts that know nothing of each other, one a process group.
SPLIT = ("all_reduce", "reduce", "broadcast")
# Gloo: torch gives a process group 2 threads, and a message one group.
_GLOO = (("threads", ("1", "4", "8")), ("groups", ("2", "4")))
# NCCL, by launch. Never LL128: where the hardware does not keep its order, data is wrong.
_NCCL_PROTOCOLS = ("LL", "Simple")
_NCCL_ALGORITHMS = {
    "all_reduce": ("Ring", "Tree", "NVLS", "NVLSTree", "CollnetDirect", "CollnetChain"),
    "all_gather": ("Ring", "NVLS", "PAT"),
    "reduce_scatter": ("Ring", "NVLS", "PAT"),
}
_NCCL_ALONE = (("NCCL_MIN_CTAS", ("16", "32")), ("NCCL_MAX_CTAS", ("4", "8", "16")), ("NCCL_BUFFSIZE", ("8388608",)))


def candidates(library: str, op: str, ranks: int) -> tuple[Candidate, ...]:
    """The default and every other choice the catalogue has, for a group of `ranks`.

    SpecError: a library without a catalogue of algorithms, a collective whose algorithm it does not let choose.
    """
    if library == "gloo":
        split = op in SPLIT
        return (DEFAULT, *(chosen(((name, v),)) for name, vs in _GLOO for v in vs if split or name != "groups"))
    if library == "nccl":
        return (DEFAULT, *_nccl(op))
    if library not in _VARIABLE:
        raise SpecError(f"no algorithms are known of {library!r}; {nearest(library, (*_VARIABLE, 'gloo', 'nccl'))}")
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
        plain = Candidate(
            name, ((variable, value or name),), _MODEL.get(name, name), level=knob.level, numerics=numerics
        )
        found.append(plain)
        size = f"{variable}_segmentsize"
        if name in _SEGMENTED and _CATALOGUED[library] + size in knobs.table():
            found += [_segmented(plain, size, segment) for segment in _SEGMENTS]
    return tuple(found)


def _nccl(op: str) -> list[Candidate]:
    """Untested on this project's CPU machines. NCCL's rooted collectives know the ring alone."""
    pairs = [
        (("NCCL_ALGO", algorithm), ("NCCL_PROTO", protocol))
        for algorithm in _NCCL_ALGORITHMS.get(op, ("Ring",))
        for protocol in _NCCL_PROTOCOLS
        if protocol == "Simple" or algorithm in ("Ring", "Tree")
    ]
    return [chosen(pair) for pair in pairs] + [chosen(((name, v),)) for name, values in _NCCL_ALONE for v in values]


def at_start(name: str) -> bool:
    """Whether a setting is a variable that a library reads when its process starts: only a new launch turns it."""
    return name.startswith(("NCCL_", "GLOO_")) or mpi_tool.at_start(name)


def concerns(settings: Settings, op: str) -> bool:
    """Whether settings can mean anything to a collective: MPI's variables name theirs."""
    named = {about(name.removeprefix("OMPI_MCA_"))[1] for name, _ in settings} - {""}
    return not named or named == {THEIRS.get(op)}


# Variables of how bytes travel, whatever is computed with them.
_CARRYING = ("OMPI_MCA_btl", "OMPI_MCA_pml", "GLOO_SOCKET", "NCCL_SOCKET", "NCCL_NSOCKS", "threads")


def _neutral(name: str) -> bool:
    """Whether a setting is known to leave the bits of a result alone."""
    knob = knobs.find(name) or knobs.find(f"OMPI_MCA_{name}")
    return name.startswith(_CARRYING) or (knob is not None and not knob.numerics and not at_start(name))


def chosen(settings: Settings) -> Candidate:
    """Settings that somebody wrote down, as a candidate."""
    return Candidate(
        " ".join(f"{name}={value}" for name, value in settings),
        tuple(sorted(settings)),
        level="process" if any(at_start(name) for name, _ in settings) else "communicator",
        numerics="neutral" if all(_neutral(name) for name, _ in settings) else "bitwise-changing",
    )


_HAN = ("coll_han_priority", "0")


def over_hosts(found: Sequence[Candidate], library: str, hosts: int) -> tuple[Candidate, ...]:
    """Over several hosts Open MPI (since 5.0) asks its component han before tuned: settings of tuned need it away, and
    without it alone there is another default to try: by launch where others are, so that it holds for a process."""
    if library != "openmpi" or hosts < 2:
        return tuple(found)
    by_launch = any(at_start(name) for one in found for name, _ in one.settings)
    alone = chosen(((f"OMPI_MCA_{_HAN[0]}", _HAN[1]),) if by_launch else (_HAN,))
    out = [DEFAULT, msgspec.structs.replace(alone, name="without han", numerics="bitwise-changing")]
    for one in found:
        if any(name.startswith("coll_tuned_") for name, _ in one.settings) and _HAN[0] not in dict(one.settings):
            one = msgspec.structs.replace(one, settings=tuple(sorted((*one.settings, _HAN))))
        out.append(one)
    return tuple(dict.fromkeys(out))


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
