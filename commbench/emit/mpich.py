"""MPICH's decision tree in JSON, for MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE.

The file replaces all decisions and a collective that is not in it aborts. So it starts from the tree that the library
has compiled in, and branches for what was measured are put before its own. Grammar: src/mpi/coll/src/csel.c; what an
algorithm demands: src/mpi/coll/coll_algorithms.txt. The library maps the file and reads up to the next zero byte, which
is not there when the file fills its last page.
"""

import json
import re
import shutil
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from commbench.emit.target import Line, Place, number, only, rules_for, why
from commbench.errors import MissingLibrary, SpecError
from commbench.records.recommendation import Recommendation, Rule

Tree = dict[str, Any]
SWITCHES = ("MPIR_CVAR_DEVICE_COLLECTIVES",)
REACH = (
    "MPIR_CVAR_..._DEVICE_COLLECTIVE=0 holds for the whole process: MPICH's device (shared memory, one leader a host) "
    "chooses before the rules are asked. So sizes of these collectives without a rule lose its choice too, and may be "
    "slower than by default; commbench verify shows what it does to a job"
)
_PAGE = 4096
_LARGEST = 2**31 - 1  # sizes are read by atoi


class _Collective(NamedTuple):
    name: str  # in MPICH
    size: str  # the condition that counts nbytes as commbench does
    guards: dict[str, tuple[str, ...]]  # algorithm -> what it demands
    parameters: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # algorithm -> variables that become keys below it


# For another demand the library's own tree stays. (condition, its opposite)
_GUARDS = {
    "commutative": ("is_commutative=yes", "is_commutative=no"),
    "builtin": ("is_op_built_in=yes", "is_op_built_in=no"),
    "parent": ("comm_hierarchy=parent", "comm_hierarchy=any"),
    "pow2": ("comm_size=pow2", "comm_size=any"),
    "enough": ("count=any", "count<pow2"),
}
COLLECTIVES = {
    "all_reduce": _Collective(
        "allreduce",
        "avg_msg_size",
        {
            "smp": ("commutative", "parent"),
            "recursive_doubling": (),
            "recursive_multiplying": ("commutative",),
            "reduce_scatter_allgather": ("enough", "builtin"),
            "recexch": (),
            "ring": ("commutative",),
            "k_reduce_scatter_allgather": ("commutative",),
        },
        {
            "recursive_multiplying": ("RECURSIVE_MULTIPLYING_KVAL",),
            "recexch": ("RECEXCH_KVAL", "RECEXCH_SINGLE_PHASE_RECV"),
            "k_reduce_scatter_allgather": ("RECEXCH_KVAL", "RECEXCH_SINGLE_PHASE_RECV"),
        },
    ),
    "all_gather": _Collective(
        "allgather",
        "total_msg_size",
        {"brucks": (), "k_brucks": (), "recursive_doubling": ("pow2",), "ring": (), "recexch_doubling": (),
         "recexch_halving": (), "circ_graph": ()},
        {
            "k_brucks": ("BRUCKS_KVAL",),
            "recexch_doubling": ("RECEXCH_KVAL", "RECEXCH_SINGLE_PHASE_RECV"),
            "recexch_halving": ("RECEXCH_KVAL", "RECEXCH_SINGLE_PHASE_RECV"),
        },
    ),
    "reduce_scatter": _Collective(
        "reduce_scatter_block",
        "total_msg_size",
        {"noncommutative": ("pow2",), "recursive_doubling": (), "pairwise": ("commutative",),
         "recursive_halving": ("commutative",)},
    ),
    "broadcast": _Collective(
        "bcast",
        "avg_msg_size",
        {"binomial": (), "scatter_recursive_doubling_allgather": (), "scatter_ring_allgather": (), "smp": ("parent",)},
    ),
    "reduce": _Collective(
        "reduce",
        "avg_msg_size",
        {"binomial": (), "reduce_scatter_gather": ("enough", "builtin"), "smp": ("commutative", "parent")},
    ),
}  # fmt: skip


def installed(program: str = "mpichversion") -> Path | None:
    """The library beside a program (a launcher), beside mpichversion, or in this Python's environment."""
    found = [Path(path) for name in (program, "mpichversion") if (path := shutil.which(name))]
    roots = [root for path in found for root in (path.parent.parent, path.resolve().parent.parent)]
    places = ("lib/libmpi.so.12*", "lib64/libmpi.so.12*", "lib/*/libmpich.so.12*")  # a wheel's, conda's, Debian's
    for root in [*roots, Path(sys.prefix)]:
        for place in places:
            if libraries := sorted(root.glob(place)):
                return libraries[0]
    return None


def builtin(library: Path) -> tuple[Tree, bytes]:
    """The whole decision tree that a libmpi.so has compiled in, and its bytes. MissingLibrary where it has none."""
    try:
        data = library.read_bytes()
    except OSError as error:
        raise MissingLibrary(f"{library}: {error.strerror}; name MPICH's libmpi.so with --library") from error
    trees = [match[0] for match in re.finditer(rb'\{"collective=[^\0]{100,}\}', data)]
    whole = max(trees, key=lambda tree: tree.count(b"collective="), default=b"")
    if whole.count(b"collective=") < 30:
        raise MissingLibrary(f"{library} holds no decisions of MPICH 4 or newer; name MPICH's libmpi.so with --library")
    tree: Tree = json.loads(whole)
    return tree, data


def settle(tree: Tree, ranks: int) -> Tree:
    """The tree as a communicator of so many ranks walks it: conditions on its size are decided.

    They must be: below a condition on bytes the library (5.0) reads `comm_size<8` as 8 or fewer.
    """
    found: Tree = {}
    for key, below in tree.items():
        match = re.fullmatch(r"comm_size(<=|<|=)(\d+|pow2|any)", key)
        if match is None:
            found[key] = settle(below, ranks)
            continue
        sign, bound = match.groups()
        holds = {
            "any": True,
            "pow2": ranks & (ranks - 1) == 0,
        }.get(bound, bound.isdigit() and (ranks < int(bound) if sign == "<" else ranks <= int(bound)))
        if holds:
            return settle(below, ranks) if not found else {**found, "comm_size=any": settle(below, ranks)}
    return found


def leaf(rule: Rule, rest: Tree) -> Tree:
    """The algorithm of a rule, below what it demands; where that is not met, the library's own decision."""
    if rule.op not in COLLECTIVES:
        raise SpecError(f"MPICH's decision file: no {rule.op}; known: {', '.join(COLLECTIVES)}")
    one = COLLECTIVES[rule.op]
    prefix = f"MPIR_CVAR_{one.name.upper()}_"
    extra = sorted({name for names in one.parameters.values() for name in names})
    switches = (*SWITCHES, f"{prefix}DEVICE_COLLECTIVE")
    settings = only(rule, (f"{prefix}INTRA_ALGORITHM", *(prefix + name for name in extra), *switches), "the JSON file")
    algorithm = settings.get(f"{prefix}INTRA_ALGORITHM", "auto")
    if algorithm not in one.guards:
        raise SpecError(
            f"MPICH's decision file takes no {algorithm!r} for {one.name}; it takes {', '.join(one.guards)}"
        )
    keys: Tree = {}
    for name in one.parameters.get(algorithm, ()):
        if name.endswith("KVAL"):
            keys[f"k={number(prefix + name, settings.get(prefix + name, '2'))}"] = {}
        else:
            keys[f"single_phase_recv={'yes' if settings.get(prefix + name) in ('1', 'yes') else 'no'}"] = {}
    tree: Tree = {f"algorithm=MPIR_{one.name.capitalize()}_intra_{algorithm}": keys}
    for guard in one.guards[algorithm]:
        yes, no = _GUARDS[guard]
        # What is `any` must come last: the first condition that holds is taken.
        tree = {yes: tree, no: rest} if not yes.endswith("=any") else {no: rest, yes: tree}
    return tree


def _algorithms(tree: Tree) -> list[str]:
    below = [word for part in tree.values() for word in _algorithms(part)]
    return [key for key in tree if key.startswith("algorithm=")] + below


def sizes(rules: list[Rule], own: Tree) -> Tree:
    """Conditions on bytes for the rules of one op and number of ranks; between and beyond them, the library's own."""
    size = COLLECTIVES[rules[0].op].size if rules[0].op in COLLECTIVES else ""
    tree: Tree = {}
    at = 0
    for rule in rules:
        if rule.max_bytes > _LARGEST:
            raise SpecError(f"MPICH's decision file counts to {_LARGEST} bytes; a rule reaches {rule.max_bytes}")
        if rule.min_bytes > at:
            tree[f"{size}<{rule.min_bytes}"] = own
        tree[f"{size}<={rule.max_bytes}"] = leaf(rule, own)
        at = rule.max_bytes + 1
    return {**tree, f"{size}=any": own}


def document(recommendation: Recommendation, place: Place) -> list[Line]:
    """The JSON file, and the reason of each rule."""
    rules = rules_for(recommendation, "mpich")
    if len({(rule.op, rule.ranks, rule.nodes) for rule in rules}) > len({(rule.op, rule.ranks) for rule in rules}):
        raise SpecError("MPICH's decision file knows no number of hosts, and the recommendation has rules for several")
    if place.mpich is None:
        raise MissingLibrary(
            "MPICH is not found here, and the file must hold all its decisions; name libmpi.so with --library"
        )
    tree, data = builtin(place.mpich)
    for word in [word for rule in rules for word in _algorithms(leaf(rule, {}))]:
        if b"\0" + word.encode() + b"\0" not in data:  # it aborts where it meets a word that it does not know
            raise SpecError(f"{place.mpich} does not know {word!r}; this version has it as a variable only")
    for op, those in groupby(rules, key=lambda rule: rule.op):
        name = f"collective={COLLECTIVES[op].name if op in COLLECTIVES else op}"
        if "comm_type=intra" not in tree.get(name, {}):
            raise SpecError(f"{place.mpich}: its decisions have no {name}")
        own = tree[name]["comm_type=intra"]
        chain: Tree = {}
        for ranks, some in groupby(those, key=lambda rule: rule.ranks):
            chain[f"comm_size<{ranks}"] = own
            chain[f"comm_size<={ranks}"] = sizes(list(some), settle(own, ranks))
        tree[name] = {**tree[name], "comm_type=intra": {**chain, "comm_size=any": own}}
    text = json.dumps(tree, indent=1)
    if (len(text) + 1) % _PAGE == 0:
        text += "\n"
    return [*(Line(line) for line in text.split("\n")), *(Line("", why(rule)) for rule in rules)]
