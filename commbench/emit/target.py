"""What a target is: a function from a recommendation to lines, each with its reason."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from commbench.errors import SpecError
from commbench.records.recommendation import BucketPlan, Recommendation, Rule


class Line(NamedTuple):
    """A line of a file, and why it is there; structure has no reason."""

    text: str
    why: str = ""


class Place(NamedTuple):
    """Where the file goes and what is found there; a path that is written into a file is below `folder`."""

    folder: Path
    name: str
    mpich: Path | None = None  # the library whose own decisions the file for MPICH starts from


class Target(NamedTuple):
    """One kind of file.

    library  whose version must be the recommendation's ("": none)
    kind     rules, buckets or both
    mark     how a comment begins; "": the format has none, so what would be comments goes into a second file
    one_size whether it has room for one bucket size and nothing else of a plan
    """

    write: Callable[[Recommendation, Place], list[Line]]
    library: str
    kind: str
    file: str
    says: str
    mark: str = "#"
    one_size: bool = False


# The library that a setting is of, by how its name begins. Open MPI's are without OMPI_MCA_, as MPI_T has them.
_PREFIXES = {
    "NCCL_": "nccl",
    "RCCL_": "nccl",
    "coll_": "openmpi",
    "OMPI_MCA_": "openmpi",
    "btl_": "openmpi",
    "MPIR_CVAR_": "mpich",
}


def library_of(name: str) -> str:
    """nccl, openmpi, mpich, or "" for a setting that has no variable."""
    return next((library for prefix, library in _PREFIXES.items() if name.startswith(prefix)), "")


def proven(rule: Rule) -> bool:
    """A rule without settings keeps the default; one whose interval holds zero has proved nothing."""
    return bool(rule.settings) and rule.gain_low > 0


def plain(rule: Rule) -> dict[str, str]:
    """Its settings; Open MPI's as its tool interface calls them, without the environment's OMPI_MCA_."""
    return {name.removeprefix("OMPI_MCA_"): value for name, value in rule.settings}


def rules_for(recommendation: Recommendation, library: str) -> list[Rule]:
    """The proven rules of one library, by op, ranks and size. SpecError where none is there, or two contradict."""
    found = [rule for rule in recommendation.rules if any(library_of(name) == library for name, _ in rule.settings)]
    good = sorted(filter(proven, found), key=lambda rule: (rule.op, rule.ranks, rule.nodes or 0, rule.min_bytes))
    if not good:
        reason = "no gain is proven" if found else "no rule is about it"
        raise SpecError(f"nothing to emit for {library}: {reason}; {holds(recommendation)}")
    for one, other in pairwise(good):
        same = (one.op, one.ranks, one.nodes) == (other.op, other.ranks, other.nodes)
        if same and other.min_bytes <= one.max_bytes:
            raise SpecError(f"two rules for {one.op} on {one.ranks} ranks overlap at {other.min_bytes} bytes")
    return good


def plan_of(recommendation: Recommendation) -> BucketPlan:
    """The one proven plan. SpecError where there is none, or more than one."""
    good = [plan for plan in recommendation.buckets if plan.gain_low > 0]
    if not good:
        reason = "no gain of a bucket plan is proven" if recommendation.buckets else "no bucket plan is in it"
        raise SpecError(f"nothing to emit: {reason}; {holds(recommendation)}")
    if len(good) > 1:
        raise SpecError(f"plans for {', '.join(plan.model for plan in good)}; a file holds one: emit from a run of one")
    return good[0]


def holds(recommendation: Recommendation) -> str:
    """What a recommendation has instead, in words."""
    if recommendation.keep_default:
        return f"keep the default: {recommendation.keep_default}"
    names = {library_of(name) or name for rule in recommendation.rules for name, _ in rule.settings}
    parts = [f"rules for {name}" for name in sorted(names)] + [f"a plan for {p.model}" for p in recommendation.buckets]
    return f"the recommendation holds {', '.join(parts) or 'nothing'}"


def why(rule: Rule) -> str:
    """The reason of a rule in one line: time, gain with its interval, the case that shows it."""
    shown = f"{rule.op} on {rule.ranks} ranks: {rule.baseline_us:.4g} us by default, {rule.time_us:.4g} us so"
    evidence = f"; cases {' '.join(rule.evidence[:3])}" if rule.evidence else ""
    return f"{shown}, {share(rule.gain, rule.gain_low, rule.gain_high)} less{evidence}"


def why_plan(plan: BucketPlan) -> str:
    """The reason of a plan in one line."""
    tail = "" if plan.tail_us is None else f"; {plan.tail_us / 1e3:.3g} ms of the tail stay whatever the buckets are"
    times = f"step {plan.baseline_us / 1e3:.4g} ms by default, {plan.step_us / 1e3:.4g} ms so"
    return f"{plan.model}: {times}, {share(plan.gain, plan.gain_low, plan.gain_high)} less{tail}"


def share(value: float, low: float, high: float) -> str:
    """`36.1 % (33.0 to 39.2)`."""
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def number(name: str, text: str) -> int:
    """The value of a setting or fact that counts something. SpecError names it where it is no number."""
    if not re.fullmatch("[0-9]{1,18}", text):
        raise SpecError(f"{name}={text}: not a whole number of 0 or more; tune again with one")
    return int(text)


def only(rule: Rule, known: Sequence[str], form: str) -> dict[str, str]:
    """The settings of a rule. SpecError names one that the form has no place for."""
    settings = plain(rule)
    if foreign := [name for name in settings if name not in known]:
        raise SpecError(
            f"{form} has no place for {foreign[0]}={settings[foreign[0]]} ({rule.op}, {rule.min_bytes} to "
            f"{rule.max_bytes} bytes); without it the gain is not what was measured: tune again without it"
        )
    return settings
