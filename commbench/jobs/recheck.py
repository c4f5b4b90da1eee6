"""Is what was recommended still true? The same sizes again, with the default and the recommended settings alone."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from commbench import store
from commbench.errors import FolderError
from commbench.jobs import plan as planned
from commbench.jobs.tune import Tuned
from commbench.records import recommendation as records
from commbench.records.recommendation import Difference
from commbench.spec import Axes, Stop, SweepSpec, Warmup
from commbench.spec.train import TrainSpec
from commbench.spec.tune import TuneSpec
from commbench.tune.candidates import Settings
from commbench.tune.plans import Planned, found
from commbench.tune.recheck import Rechecked, Word, cases_of, recheck
from commbench.tune.verdicts import USUAL

_BUDGET = 300.0  # seconds: few candidates, one or two at a size


def spec_of(folder: Path, budget: float = _BUDGET, seed: int = 0) -> TuneSpec:
    """A search among what a folder recommends. FolderError where there is nothing to look at again."""
    old = records.read(folder)
    rules = [rule for rule in old.rules if rule.settings]
    if not rules:
        reason = f"keep the default: {old.keep_default}" if old.keep_default else "it has no rule for a collective"
        raise FolderError(f"{folder}: nothing to check again: {reason}")
    run, then = store.load(folder)
    each = [(rule, cases_of(rule, then)) for rule in rules]
    if lost := next((rule for rule, cases in each if not cases), None):
        raise FolderError(f"{folder}: its journal does not hold what the rule for {lost.op} rests on; tune again")
    first = each[0][1][0]
    blocks = tuple(
        Axes(
            backend=(cases[0].backend,),
            op=(rule.op,),
            sizes=tuple(case.nbytes for case in cases),
            dtype=(cases[0].dtype,),
            redop=(cases[0].redop,),
            groups=(cases[0].groups,),
            mode=(cases[0].mode,),
        )
        for rule, cases in each
    )
    sweep = SweepSpec(
        name=f"{old.name or first.op}-recheck",
        source=str(folder),
        cases=blocks,
        stop=msgspec.convert(run.spec["stop"], type=Stop),
        warmup=msgspec.convert(run.spec["warmup"], type=Warmup),
        seed=seed,
    )
    return TuneSpec(
        name=sweep.name,
        source=str(folder),
        sweep=sweep,
        budget=budget,
        candidates=tuple(dict.fromkeys(rule.settings for rule in rules)),
        catalogue=False,
    )


def plan_of(folder: Path) -> tuple[TrainSpec, Settings]:
    """The training spec and the plan that a folder recommends. FolderError where it recommends none."""
    old = planned.read(folder)
    choice = found(old).choice
    if choice is None or not choice.settings:
        raise FolderError(f"{folder}: nothing to check again: {records.read(folder).keep_default}")
    if "steps" not in old.spec:
        raise FolderError(f"{folder}: a plan of your own job is checked again by commbench verify {folder} -- CMD")
    return msgspec.convert({**old.spec, "source": str(folder)}, type=TrainSpec), choice.settings


def plan_holds(now: Planned, settings: Settings) -> tuple[Word, str]:
    """Whether a plan still saves time, by a race of it against the default."""
    seen = found(now)
    one = seen.judged.get(settings)
    if one is None:
        why = seen.void.get(settings)
        return ("gone", f"it cannot be used: {why}") if why else ("unsure", "it was not tried")
    told = f"{one.ratio.change:+.1%} of the step in {one.ratio.trials} trials"
    if one.verdict == "faster":
        return "holds", told
    return ("gone", f"no longer faster: {told}") if one.ratio.low > -USUAL.margin else ("unsure", f"not proved: {told}")


def rechecked(folder: Path, now: Tuned) -> tuple[Rechecked, ...]:
    """An answer for each rule of the folder. FolderError: the ranks are others, so it was another question."""
    old = records.read(folder)
    _, then = store.load(folder)
    ranks = str(now.run.machine.size)
    if (before := old.machine.get("ranks", ranks)) != ranks:
        raise FolderError(f"{folder} was made with {before} ranks, this is a job of {ranks}: give it -n {before}")
    return recheck(old, then, now.measurements)


def changed(folder: Path, now: Tuned) -> Sequence[Difference]:
    """What is not as it was: the reason to look again."""
    old, new = records.read(folder), now.recommendation
    return (*records.differences(old.machine, new.machine), *records.differences(old.versions, new.versions))
