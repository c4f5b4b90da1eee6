"""Rules files of Open MPI: the classic one (4.1 to 5.0) and JSON (6.0).

Classic, by coll_tuned_dynamic_file.c: number of collectives; for each its id and its number of communicator sizes; for
each size its number of rules; for each rule bytes, algorithm, fan in and out, segment. The nearest lower key counts, so
a size above and below what was measured gets a rule of its own: algorithm 0, which is tuned's own decision.
"""

import json
from itertools import groupby

from commbench import knobs
from commbench.emit.target import Line, Place, number, only, plain, rules_for, why
from commbench.errors import SpecError
from commbench.records.recommendation import Recommendation, Rule

# op -> (name in variables, id in the file, name in JSON). commbench's reduce_scatter is MPI_Reduce_scatter_block.
COLLECTIVES = {
    "all_gather": ("allgather", 0, "allgather"),
    "all_reduce": ("allreduce", 2, "allreduce"),
    "all_to_all": ("alltoall", 3, "alltoall"),
    "broadcast": ("bcast", 7, "bcast"),
    "gather": ("gather", 9, "gather"),
    "reduce": ("reduce", 11, "reduce"),
    "reduce_scatter": ("reduce_scatter_block", 13, "reducescatterblock"),
    "scatter": ("scatter", 15, "scatter"),
}
# What must be set for the file to be read at all; it is no part of a rule.
HAN = "coll_han_priority"
SWITCHES = ("coll_tuned_use_dynamic_rules", HAN)
REACH = (
    f"{HAN}=0 holds for the whole process: over several hosts Open MPI 5 asks han before tuned, and would never look "
    "at the rules. So sizes and collectives without a rule lose han too, and may be slower than by default; commbench "
    "verify shows what it does to a job"
)
_DEFAULT = (0, 0, 0)
_OWN = "tuned's own decision"


def choice(rule: Rule, form: str) -> tuple[int, int, int]:
    """(algorithm, fan in and out, segment size in bytes) of a rule; one that only takes han away leaves it to tuned."""
    if rule.op not in COLLECTIVES:
        raise SpecError(f"{form} has no {rule.op}; it knows {', '.join(COLLECTIVES)}")
    base = f"coll_tuned_{COLLECTIVES[rule.op][0]}_algorithm"
    names = (base, f"{base}_tree_fanout", f"{base}_chain_fanout", f"{base}_segmentsize")
    settings = only(rule, (*names, *SWITCHES), form)
    if settings.get(HAN) == "0" and not set(settings) - set(SWITCHES):
        return _DEFAULT
    algorithm, tree, chain, segment = (settings.get(name, "0") for name in names)
    knob = knobs.table().get(f"OMPI_MCA_{base}")
    numbers = dict(choice.split(":")[::-1] for choice in knob.choices if ":" in choice) if knob else {}
    chosen = number(base, numbers.get(algorithm, algorithm))
    if not chosen:
        raise SpecError(f"{form} needs an algorithm; for {rule.op} from {rule.min_bytes} bytes {base} is not set")
    if tree != "0" and chain != "0" and tree != chain:
        raise SpecError(f"{form} has one fan in and out; {rule.op} has {tree} for trees and {chain} for chains")
    fan = number(names[1], tree) or number(names[2], chain)
    return chosen, fan, number(names[3], segment)


def by_launch(name: str, value: str) -> str:
    """How a setting that only a whole process can have is measured as such."""
    setting = f"{{OMPI_MCA_{name.removeprefix('OMPI_MCA_')}: {value}}}"
    return f"to race it for whole processes, give commbench tune a spec with catalogue: false, candidates: [{setting}]"


def switches(recommendation: Recommendation, rules: list[Rule]) -> dict[str, str]:
    """What a whole process needs in order to obey these rules, beside what each implies. SpecError: they disagree."""
    found: dict[str, str] = {}
    for rule in rules:
        for name, value in plain(rule).items():
            if name in SWITCHES and found.setdefault(name, value) != value:
                raise SpecError(f"{name} is {found[name]} in one rule and {value} in another; a process has one value")
    if recommendation.machine.get("hosts", "1") != "1":
        found.setdefault(HAN, "0")
    return found


def spans(rules: list[Rule], form: str) -> list[tuple[int, tuple[int, int, int], str]]:
    """(from how many bytes, what, why): the rules of one op and number of ranks, with the default in the gaps."""
    found: list[tuple[int, tuple[int, int, int], str]] = []
    at = 0
    for rule in rules:
        if rule.min_bytes > at:
            found.append((at, _DEFAULT, f"{_OWN}: not measured, or the default is best"))
        what = choice(rule, form)
        found.append((rule.min_bytes, what, why(rule) if what != _DEFAULT else f"{_OWN}, without han. {why(rule)}"))
        at = rule.max_bytes + 1
    return [*found, (at, _DEFAULT, f"{_OWN}: larger than what was measured")]


def _grouped(recommendation: Recommendation) -> list[tuple[str, dict[int, list[Rule]]]]:
    rules = rules_for(recommendation, "openmpi")
    if len({(rule.op, rule.ranks, rule.nodes) for rule in rules}) > len({(rule.op, rule.ranks) for rule in rules}):
        raise SpecError("Open MPI's rules know no number of hosts, and the recommendation has rules for several")
    if all(choice(rule, "the rules file") == _DEFAULT for rule in rules):
        raise SpecError(f"a rules file cannot say {HAN}=0, and no rule has more than that; {by_launch(HAN, '0')}")
    return [
        (op, {ranks: list(those) for ranks, those in groupby(some, key=lambda rule: rule.ranks)})
        for op, some in ((op, list(group)) for op, group in groupby(rules, key=lambda rule: rule.op))
    ]


def classic(recommendation: Recommendation, _: Place) -> list[Line]:
    """The text file. Key 1 is there because in some releases the first key stands for smaller communicators too."""
    grouped = _grouped(recommendation)
    lines = [Line(str(len(grouped)), "number of collectives")]
    for op, by_ranks in grouped:
        name, identity, _json = COLLECTIVES[op]
        keys: dict[int, list[tuple[int, tuple[int, int, int], str]]] = {1: [(0, _DEFAULT, "not measured")]}
        for ranks, rules in by_ranks.items():
            keys[ranks] = spans(rules, "the rules file")
            keys.setdefault(ranks + 1, [(0, _DEFAULT, "not measured")])
        lines += [Line(str(identity), f"MPI_{name.capitalize()}"), Line(str(len(keys)), "numbers of ranks that follow")]
        for ranks in sorted(keys):
            lines.append(Line(str(ranks), "ranks, and more up to the next number"))
            lines.append(Line(str(len(keys[ranks])), "rules that follow: bytes algorithm fan segment"))
            lines += [Line(f"{size} {' '.join(map(str, what))}", reason) for size, what, reason in keys[ranks]]
    return lines


def document(recommendation: Recommendation, _: Place) -> list[Line]:
    """JSON, version 3. A rule that does not match leaves Open MPI's own decision, so the gaps need none."""
    reasons: list[Line] = []
    collectives = {}
    for op, by_ranks in _grouped(recommendation):
        sets = []
        for ranks, rules in by_ranks.items():
            rows = []
            for rule in rules:
                algorithm, fan, segment = choice(rule, "the rules file")
                if not algorithm:
                    reasons.append(Line("", f"{_OWN}, without han. {why(rule)}"))
                    continue
                row = {"msg_size_min": rule.min_bytes, "msg_size_max": rule.max_bytes, "alg": algorithm}
                row |= {"faninout": fan} if fan else {}
                row |= {"seg_size": segment} if segment else {}
                rows.append(row)
                reasons.append(Line("", why(rule)))
            sizes = {"comm_size_min": ranks, "comm_size_max": ranks}
            if rows:
                sets.append({**sizes, "comm_rank_distribution": "any", "rules": rows})
        if sets:
            collectives[COLLECTIVES[op][2]] = sets
    text = json.dumps({"rule_file_version": 3, "module": "tuned", "collectives": collectives}, indent=2)
    return [*(Line(line) for line in text.splitlines()), *reasons]
