"""Is what was recommended still true? The same sizes again, with the default and the recommended settings alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from commbench import store
from commbench.errors import FolderError
from commbench.jobs import plan as planned
from commbench.jobs.tune import Tuned
from commbench.records import Run
from commbench.records import recommendation as records
from commbench.records.recommendation import Difference, Recommendation
from commbench.spec import Axes, Stop, SweepSpec, Warmup
from commbench.spec.train import TrainSpec
from commbench.spec.tune import TuneSpec
from commbench.tune.candidates import Settings
from commbench.tune.plans import Planned, found
from commbench.tune.recheck import Rechecked, Word, cases_of, recheck
from commbench.tune.verdicts import USUAL, Options

_BUDGET = 300.0  # seconds: few candidates, one or two at a size


class Held(NamedTuple):
    """What became of a bucket plan."""

    settings: Settings
    word: Word
    why: str


def spec_of(folder: Path, ranks: int, budget: float = _BUDGET, seed: int = 0) -> TuneSpec:
    """A search, on so many ranks, among what a folder recommends. FolderError where there is nothing to look at again,
    or on other ranks than those that were measured."""
    old = records.read(folder)
    rules = [rule for rule in old.rules if rule.settings]
    if not rules:
        reason = f"keep the default: {old.keep_default}" if old.keep_default else "it has no rule for a collective"
        raise FolderError(f"{folder}: nothing to check again: {reason}")
    run, then = store.load(folder)
    _same_ranks(folder, run.machine.size, ranks)
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
        options=_options(run),
        candidates=tuple(dict.fromkeys(rule.settings for rule in rules)),
        catalogue=False,
        thorough=True,
    )


def plan_of(folder: Path, ranks: int) -> tuple[TrainSpec, Settings]:
    """The training spec and the plan that a folder recommends. FolderError where it recommends none, or was measured
    on other ranks than so many."""
    old = planned.read(folder)
    choice = found(old).choice
    if choice is None or not choice.settings:
        raise FolderError(f"{folder}: nothing to check again: {records.read(folder).keep_default}")
    if "steps" not in old.spec:
        raise FolderError(f"{folder}: a plan of your own job is checked again by commbench verify {folder} -- CMD")
    _same_ranks(folder, old.machine.size, ranks)
    return msgspec.convert({**old.spec, "source": str(folder)}, type=TrainSpec), choice.settings


def plan_holds(now: Planned, settings: Settings) -> Held:
    """Whether a plan still saves time, by a race of it against the default."""
    seen = found(now)
    one = seen.judged.get(settings)
    if one is None:
        why = seen.void.get(settings)
        return (
            Held(settings, "gone", f"it cannot be used: {why}") if why else Held(settings, "unsure", "it was not tried")
        )
    told = f"{one.ratio.change:+.1%} of the step in {one.ratio.trials} trials"
    if one.verdict == "faster":
        return Held(settings, "holds", told)
    if one.ratio.low > -USUAL.margin:
        return Held(settings, "gone", f"no longer faster: {told}")
    return Held(settings, "unsure", f"not proved: {told}")


def rechecked(folder: Path, now: Tuned) -> tuple[Rechecked, ...]:
    """An answer for each rule of the folder. FolderError: the ranks are others, so it was another question."""
    run, then = store.load(folder)
    _same_ranks(folder, run.machine.size, now.run.machine.size)
    return recheck(records.read(folder), then, now.measurements, _options(run))


def _same_ranks(folder: Path, before: int, ranks: int) -> None:
    if before != ranks:
        raise FolderError(f"{folder} was made with {before} ranks, this is a job of {ranks}: give it -n {before}")


def _options(run: Run) -> Options:
    """What the old search called a difference and a proof."""
    told = run.spec.get("tune", {})
    return msgspec.convert([told.get(name, usual) for name, usual in USUAL._asdict().items()], type=Options)


def changed(folder: Path, new: Recommendation) -> Sequence[Difference]:
    """What is not as it was: the reason to look again."""
    old = records.read(folder)
    return (*records.differences(old.machine, new.machine), *records.differences(old.versions, new.versions))
