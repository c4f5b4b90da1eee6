"""The search for faster settings: rank 0's part of it inside a launch, and the start of such launches."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from commbench import store
from commbench.errors import FolderError, LaunchError, SpecError
from commbench.jobs import runfolder
from commbench.jobs.inside import Bench, Conduct, begin, keep_faults, note_resume
from commbench.jobs.request import Request, Say, same_spec
from commbench.lab import launch as lab
from commbench.measure import launch
from commbench.model.messages import Job, sizes, weights
from commbench.records import Measurement, Run
from commbench.records import recommendation as records
from commbench.records.recommendation import Recommendation, Rule
from commbench.spec import grid
from commbench.spec.tune import TuneSpec, with_sizes
from commbench.tune.evidence import Trials
from commbench.tune.explain import Explanation, explain
from commbench.tune.recommend import Race, decided, racing, recommend
from commbench.tune.search import Report, Search
from commbench.tune.verdicts import Options, choices
from commbench.units import format_bytes, format_time

if TYPE_CHECKING:
    from commbench.lab.client import Lab

NAME = "search.json"
_TELLS = 10.0  # seconds between two lines about how far it is
_AGAIN = 5  # launches that may end by a trial that hangs
_START_UP = 120.0  # seconds in which nothing is journalled


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """search.json: what the search cost and what it leaves open. undecided: no size was compared to an end."""

    format: int = 1
    report: Report
    undecided: bool


class Asked(NamedTuple):
    """A search as the command line asked for it. `held`: rules in force; `job`: what the searched settings are for."""

    spec: TuneSpec
    request: Request
    held: tuple[Rule, ...] = ()
    job: Job | None = None


class Tuned(NamedTuple):
    """A finished search, read from its folder."""

    run: Run
    measurements: Sequence[Measurement]
    race: Race
    searched: Searched
    recommendation: Recommendation

    @property
    def code(self) -> int:
        return 3 if self.searched.undecided else 0


def of_job(spec: TuneSpec) -> tuple[TuneSpec, Job]:
    """The search with the sizes of the job, where it asks for those, and what the job sends. ReadError, SpecError:
    nothing is told there of the spec's collectives."""
    from commbench.jobs.messages import messages  # readers are many

    job = messages(Path(spec.job), spec.job_ranks)
    if not spec.sizes_of_job:
        return spec, job
    ops = spec.sweep.cases[0].op
    found = sorted({nbytes for op in ops for nbytes in sizes(job.messages, op)})
    if not found:
        raise SpecError(f"{spec.job}: the job sends no {' and no '.join(ops)}; write sizes in {spec.source}")
    return with_sizes(spec, found), job


# ---- inside a launch ---------------------------------------------------------------------------------------


def conduct(asked: Asked, tell: Say, started: bool = False) -> Conduct:
    """Rank 0's part: races the candidates, then writes what they prove. `tell`: how far it is. `started`: by `start`,
    which tells what is refused here."""

    def search(bench: Bench) -> int:
        out = bench.request.out
        try:
            race = racing(asked.spec, bench.machine)
            journal = open_journal(bench)
            try:
                return _race(asked, bench, race, journal, tell)
            except SpecError:
                if not bench.request.resume and all(row.control for row in journal.measurements):
                    runfolder.discard(out)
                raise
        except (SpecError, FolderError) as error:
            if started:
                runfolder.refuse(out, error)
            raise

    return search


def open_journal(bench: Bench) -> store.Journal:
    """The journal, new or gone on with. FolderError where the trials in it are of another spec, layout or version."""
    request, machine = bench.request, bench.machine
    journal = begin(request, machine)
    bench.opened(journal)
    if request.resume and journal.measurements:
        runfolder.check_versions(request.out, journal.run.machine, machine)
        note_resume(journal, request, machine)
    return journal


def _race(asked: Asked, bench: Bench, race: Race, journal: store.Journal, tell: Say) -> int:
    spec, request, machine = asked.spec, bench.request, bench.machine
    cases = grid.cases(spec.sweep, machine.host_of)
    plan = Search(
        cases,
        race,
        ranks=machine.size,
        seed=spec.sweep.seed,
        options=spec.options,
        budget=spec.budget,
        trial=spec.sweep.stop.max_time,
        weights=weights(cases, asked.job.messages, machine.size) if asked.job else None,
        trials=Trials(journal.measurements),
        thorough=spec.thorough,
    )
    runfolder.forget(request.out, NAME)
    bench.control(None)
    bench.run(plan, _Rounds(journal, plan), _Teller(plan, spec.budget, tell))
    keep_faults(request.out)
    found = recommend(journal.run, journal.measurements, race, spec.options, digest(request.out), asked.held)
    code = conclude(request.out, plan.report(), plan.trials, spec.options, found)
    journal.close()
    return code


class _Rounds:
    """The sink of a search: each trial is journalled with the number of its round."""

    def __init__(self, journal: store.Journal, plan: Search) -> None:
        self._journal, self._plan = journal, plan

    def append(self, rows: Sequence[Measurement]) -> None:
        self._journal.append(self._plan.numbered(rows))


class _Teller:
    """Now and then a line about how far the search is."""

    def __init__(self, plan: Search, budget: float, say: Say) -> None:
        self._plan, self._budget, self._say, self._spoke = plan, budget, say, time.monotonic()
        self._trials = 0

    def __call__(self, rows: Sequence[Measurement]) -> None:
        self._trials += 1
        if rows and time.monotonic() - self._spoke > _TELLS:
            self._spoke = time.monotonic()
            case = rows[0].case
            self._say(
                f"{self._trials} trials in {format_time(self._plan.spent)} of {format_time(self._budget)}; "
                f"now {case.op} {format_bytes(case.nbytes)}, round {self._plan.round + 1}"
            )


def digest(folder: Path) -> str:
    """SHA-256 of the journal that a recommendation comes from."""
    return hashlib.sha256((folder / "journal.jsonl").read_bytes()).hexdigest()


def conclude(folder: Path, report: Report, trials: Trials, options: Options, found: Recommendation) -> int:
    """Writes search.json, then recommendation.json; returns the exit code."""
    searched = Searched(report=report, undecided=not decided(choices(trials, options)))
    store.write_atomically(folder / NAME, msgspec.json.format(msgspec.json.encode(searched)) + b"\n")
    store.write_atomically(folder / records.NAME, records.encode(found))
    return 3 if searched.undecided else 0


# ---- outside -----------------------------------------------------------------------------------------------


def start(asked: Asked, ranks: int, launcher: str, arguments: Sequence[str], say: Say, net: "Lab | None" = None) -> int:
    """Starts the ranks; judges by the run folder alone. A trial that hangs ends the launch and is void: the next
    launch goes on without it.

    SpecError, FolderError, StoreError: what was asked for cannot be, and no rank was started or nothing was tried.
    LaunchError: the ranks ended early.
    """
    request, backends = asked.request, asked.spec.sweep.backends
    make_ready(request)
    clock, journal = time.monotonic(), request.out / "journal.jsonl"
    resume = request.resume
    for _ in range(_AGAIN):
        left = asked.spec.budget - (time.monotonic() - clock)
        options = ["--out", str(request.out), "--started", "--budget", f"{max(left, 0.1):.1f}s"]
        command = lab.argv(net, launcher, ranks, [*arguments, *options, *(["--resume"] if resume else [])], backends)
        before = _hung(request.out)
        patience = _START_UP + 3 * asked.spec.sweep.deadline
        grown = lambda: journal.stat().st_size if journal.exists() else 0  # noqa: E731
        ended = launch.run(command, grown, patience, runfolder.unless_refused(request.out, say), ranks)
        runfolder.check_refused(request.out)
        if (request.out / records.NAME).exists():
            return read(request.out, asked.spec).code
        runfolder.check_room(request.out)
        hung = _hung(request.out)
        if len(hung) <= len(before):
            raise ended.failure("the search", command, runfolder.kept(request.out))
        say(f"{hung[-1]}; going on without it")
        resume = True
    raise LaunchError(f"{_AGAIN} launches ended by a trial that hangs; {runfolder.kept(request.out)}")


def make_ready(request: Request) -> None:
    """Refuses what can be refused before any rank is started, and takes away what an earlier search concluded.

    FolderError: there is a run already, or one of another spec. StoreError: the folder cannot be written.
    """
    if (request.out / "run.json").exists():
        if not request.resume:
            raise store.already(request.out)
        same_spec(request)
    runfolder.check_room(request.out)
    runfolder.forget(request.out, NAME)


def _hung(folder: Path) -> list[str]:
    if not (folder / "run.json").exists():
        return []
    return [f"{m.case.op} {format_bytes(m.case.nbytes)}: {m.why}" for m in store.load(folder)[1] if m.status == "hung"]


def explained(tuned: Tuned, asked: Asked) -> Explanation | None:
    """What the rules are worth to the job; None where none was told."""
    if asked.job is None:
        return None
    job = asked.job
    return explain(
        tuned.measurements,
        job.messages,
        job.step_us,
        asked.spec.options,
        rules=tuned.recommendation.rules,
        exposed_us=job.exposed_us,
    )


def read(folder: Path, spec: TuneSpec) -> Tuned:
    """A finished search. FolderError where the folder holds none."""
    path = folder / NAME
    try:
        searched = msgspec.json.decode(path.read_bytes(), type=Searched)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; the search has not ended (--resume goes on with it)") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is damaged: {error}") from None
    run, measurements = store.load(folder)
    return Tuned(run, measurements, racing(spec, run.machine), searched, records.read(folder))
