"""The search for settings that a process starts with: every trial is a launch of its own, run from outside."""

import atexit
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from commbench import store
from commbench.errors import FolderError, LaunchError, SpecError
from commbench.jobs import runfolder
from commbench.jobs.inside import Bench, Conduct, Once, begin, keep_faults
from commbench.jobs.request import Say
from commbench.jobs.tune import Asked, conclude, digest, make_ready, open_journal
from commbench.lab import launch as lab
from commbench.layouts import expand
from commbench.measure import launch
from commbench.records import Case, Machine, Measurement
from commbench.spec import grid
from commbench.spec.tune import TuneSpec
from commbench.tune.candidates import at_start
from commbench.tune.effect import logged
from commbench.tune.evidence import Trials
from commbench.tune.recommend import Race, racing, recommend
from commbench.tune.relaunch import Launch, Launches, for_all
from commbench.tune.rules import find
from commbench.tune.verdicts import describe
from commbench.units import format_time

if TYPE_CHECKING:
    from commbench.lab.client import Lab

TRIAL = "trial.json"  # in the run folder: the cases of the launch that runs now
_START_UP = 120.0  # seconds in which nothing is journalled
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the launcher, a rank: by whom? A second launch tells
_SLOW = 5.0  # a launch hangs when it tells nothing for so many times what the default's longest took


def needed(spec: TuneSpec) -> bool:
    """Whether a candidate can only be turned by a new launch: then the whole race is run by launches."""
    by_catalogue = spec.catalogue and spec.sweep.backends == ("nccl",)
    return by_catalogue or any(at_start(name) for settings in spec.candidates for name, _ in settings)


# ---- inside a launch ---------------------------------------------------------------------------------------


def prepare(variables: Sequence[str], backends: Sequence[str]) -> dict[str, str]:
    """What a rank puts into its environment before any library is loaded: NAME=VALUE words of its command line, which
    every launcher brings to every host; for NCCL also that it writes a log, with the default as with the others."""
    found = dict(word.split("=", 1) for word in variables)
    if "nccl" not in backends:
        return found
    log = logged(tempfile.gettempdir())
    atexit.register(Path(log["NCCL_DEBUG_FILE"]).unlink, missing_ok=True)
    return {**log, **found}


def conduct() -> Conduct:
    """Rank 0's part of one launch: the cases of trial.json, into the journal."""

    def measure(bench: Bench) -> int:
        folder = bench.request.out
        cases = msgspec.json.decode((folder / TRIAL).read_bytes(), type=tuple[Case, ...])
        journal = _begun(bench) if cases else _first(bench)
        bench.control(None)
        bench.run(Once(cases), journal, lambda rows: None)
        keep_faults(folder)
        journal.close()
        return 0

    return measure


def _begun(bench: Bench) -> store.Journal:
    journal = begin(bench.request, bench.machine)
    bench.opened(journal)
    return journal


def _first(bench: Bench) -> store.Journal:
    """The launch that measures nothing also sees whether the trials that are there may be gone on with."""
    try:
        return open_journal(bench)
    except FolderError as error:
        runfolder.refuse(bench.request.out, error)
        raise


# ---- outside -----------------------------------------------------------------------------------------------


def start(asked: Asked, ranks: int, launcher: str, arguments: Sequence[str], say: Say, net: "Lab | None" = None) -> int:
    """Runs the race. The first launch measures nothing: it tells the machine, and what a start costs.

    SpecError, FolderError: what was asked for cannot be. LaunchError: the ranks do not start with the defaults.
    """
    request, spec = asked.request, asked.spec
    make_ready(request)
    starter = _Starter(asked, ranks, launcher, arguments, say, net)
    began = request.now()
    new = not (request.out / "run.json").exists()
    patience = _START_UP + 3 * spec.sweep.deadline
    ended = starter.run(Launch(0, (), ()), patience, resume=not new)
    runfolder.check_refused(request.out)
    if not (request.out / "run.json").exists() or ended.stopped:
        raise ended.failure("the first launch", [launcher], runfolder.kept(request.out))
    first = request.now() - began
    run, measured = store.load(request.out)
    race = racing(spec, run.machine)
    cases = grid.cases(spec.sweep, run.machine.host_of)
    try:
        plan = Launches(
            cases,
            race,
            seed=spec.sweep.seed,
            options=spec.options,
            budget=spec.budget,
            launch=first + len(cases) * spec.sweep.stop.max_time,
            spent=first,
            trials=Trials(measured),
        )
    except SpecError:
        if new:  # nothing was measured: the same command with a larger budget starts anew
            runfolder.discard(request.out, TRIAL)
        raise
    usual = 0.0
    while one := plan.ask():
        before = plan.spent
        limit = min(patience, max(spec.sweep.deadline, _SLOW * usual)) if usual else patience
        plan.tell(_launched(starter, one, run.machine, limit))
        usual = usual if one.settings else max(usual, plan.spent - before)
        say(f"round {one.round + 1}: {describe(one.settings)}; {format_time(plan.spent)} of {format_time(spec.budget)}")
    (request.out / TRIAL).unlink(missing_ok=True)
    return _conclude(asked, race, plan)


class _Starter:
    """Starts the ranks for one trial, wherever they run."""

    def __init__(
        self, asked: Asked, ranks: int, launcher: str, arguments: Sequence[str], say: Say, net: "Lab | None"
    ) -> None:
        self.asked, self._ranks, self._launcher, self._arguments, self._say = asked, ranks, launcher, arguments, say
        self.folder = asked.request.out
        self._net = net

    def run(self, trial: Launch, patience: float, resume: bool = True) -> launch.Launched:
        self.folder.mkdir(parents=True, exist_ok=True)
        store.write_atomically(self.folder / TRIAL, msgspec.json.encode(trial.cases))
        options = ["--out", str(self.folder), "--started", "--trial", str(trial.round), *(["--resume"] * resume)]
        options += [f"--variable={name}={value}" for name, value in trial.environment.items()]
        backends = self.asked.spec.sweep.backends
        command = lab.argv(self._net, self._launcher, self._ranks, [*self._arguments, *options], backends)
        journal = self.folder / "journal.jsonl"
        grown = lambda: journal.stat().st_size if journal.exists() else 0  # noqa: E731
        say = runfolder.unless_refused(self.folder, self._say)
        return launch.run(command, grown, patience, say, self._ranks)


def _launched(starter: _Starter, trial: Launch, machine: Machine, patience: float) -> list[Measurement]:
    """The rows of a launch. Where it gave not all of them its settings are void, at all sizes: a setting that lets a
    job crash or hang cannot be used. LaunchError where that is the default."""
    for _ in range(2):
        ended = starter.run(trial, patience)
        rows = [
            row
            for row in store.load(starter.folder)[1]
            if row.launch == trial.round and row.case.settings == trial.settings and not row.control
        ]
        hung = next((row for row in rows if row.status == "hung"), None)
        if hung is None and {row.case for row in rows} == set(trial.cases):
            return list({(row.case, row.group): row for row in rows}.values())
        runfolder.check_room(starter.folder)  # a full disc is no fault of the settings
        if hung or ended.stopped or ended.code not in _KILLED:
            break
    what = f"round {trial.round + 1}: the launch with {describe(trial.settings)}"
    error = f"{what} ended early (exit {ended.code}): {ended.why}"
    if not trial.settings:
        raise LaunchError(f"{error}; {runfolder.kept(starter.folder)}")
    why = f"its launch hung: {hung.why}" if hung else error
    void = [
        Measurement(case=case, group=index, ranks=len(group), launch=trial.round, status="failed", why=why)
        for case in trial.cases
        for index, group in enumerate(expand(case.groups, machine.host_of))
    ]
    journal = store.reopen(starter.folder, lambda case: len(expand(case.groups, machine.host_of)))
    try:
        journal.append(void)
    finally:
        journal.close()
    return void


def _conclude(asked: Asked, race: Race, plan: Launches) -> int:
    """search.json and recommendation.json: one setting for all sizes, or the default."""
    request, options = asked.request, asked.spec.options
    run, measured = store.load(request.out)
    found = recommend(run, measured, race, options, digest(request.out), asked.held)
    kept, notes = for_all(measured, options)
    rules = find(kept, race, nodes=len(run.machine.hosts), options=options, held=asked.held)
    keep = found.keep_default or "no setting is proved faster somewhere and slower nowhere; a process has one for all"
    notes = (*notes, *found.notes)
    found = msgspec.structs.replace(found, rules=rules, keep_default="" if rules else keep, notes=notes)
    return conclude(request.out, plan.report(), plan.trials, options, found)
