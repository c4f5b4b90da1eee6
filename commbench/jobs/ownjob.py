"""The search for bucket sizes in the user's own job: a trial is a start of the job, a round starts every candidate."""

import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from commbench import __version__, store
from commbench.errors import LaunchError, SpecError
from commbench.jobs import runfolder
from commbench.measure import trial
from commbench.measure.guard import guarded
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.records import recommendation as records
from commbench.records.recommendation import BucketPlan, Recommendation
from commbench.spec.ownjob import OwnJob
from commbench.stats.trials import Restart
from commbench.training import place
from commbench.training.apply import FILE
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Trials
from commbench.tune.plans import NAME, OP, Plan, Planned, caps_of, found, race, recommend, settings_of
from commbench.tune.relaunch import Launch, Launches
from commbench.tune.verdicts import LOOKS, Options
from commbench.units import format_bytes, format_time

_LEAST = 1 + 2 * LOOKS[0]  # starts: one to look, then the default and one candidate in each round
_SLOW = 3.0  # a start that takes so many times the slowest before it hangs
_SPARE = 10.0  # seconds added to that
_PATIENCE = 60.0  # seconds without a step or a line of output
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the job itself; a rank, as mpirun and srun tell it
_SEARCH = "COMMBENCH_SEARCH"  # in the environment of everything that a search starts: a word that no other search has
Say = Callable[[str], None]


class Request(NamedTuple):
    """What the command line asked for."""

    spec: OwnJob
    out: Path
    created: str  # UTC, ISO 8601
    command: tuple[str, ...]
    resume: bool = False

    @property
    def canonical(self) -> dict[str, Any]:
        """What decides the run, as plain JSON. Not the budget: a search may be gone on with."""
        spec = self.spec
        own = {"command": spec.command, "caps": spec.caps, "skip": spec.skip, "rounds": spec.rounds, "seed": spec.seed}
        plain: dict[str, Any] = msgspec.json.decode(
            msgspec.json.encode({"model": spec.name, "backend": "job", "parallel": "ddp", **own})
        )
        return plain


def check(request: Request) -> None:
    """Everything that can be refused before the job is started; what an earlier search concluded is taken away.

    FolderError: a run is there already, or one of another spec. StoreError: the folder cannot be written.
    """
    for name in (NAME, "run.json"):
        if (request.out / name).exists() and not request.resume:
            raise store.already(request.out)
    if (request.out / "run.json").exists():
        runfolder.check_spec(request.out, request.canonical)
    runfolder.check_room(request.out)
    runfolder.forget(request.out, NAME)


def tune(request: Request, say: Say, environment: Mapping[str, str]) -> Planned:
    """Starts the job until an answer is there or the budget is spent; writes plan.json, then recommendation.json.
    Whatever ends this process, the job ends with it.

    LaunchError: the job itself does not run, or records no steps. SpecError: the budget has no room for a comparison.
    FolderError: the trials that are there are of other ranks or libraries. StoreError: the folder cannot be written.
    """
    word = uuid.uuid4().hex
    with guarded(f"{_SEARCH}={word}"):
        return _search(request, say, {**environment, _SEARCH: word})


def _search(request: Request, say: Say, environment: Mapping[str, str]) -> Planned:
    spec, began = request.spec, time.monotonic()
    plans = (Plan(name="default"), *map(_plan, spec.caps))
    case = Case(op=OP, backend="job", nbytes=0)
    first = _first(request, case, environment)
    say(f"a start takes {format_time(first.wall_seconds)}; {len(plans) - 1} candidates")
    book = runfolder.Book(request.out, _run(request, first), request.resume)
    launches = Launches(
        [case],
        {OP: race(plans)},
        seed=spec.seed,
        options=Options(rounds=spec.rounds),
        budget=spec.budget,
        launch=first.wall_seconds,
        spent=time.monotonic() - began,
        trials=Trials(book.trials),
    )
    slowest = first.wall_seconds
    while launch := launches.ask():
        deadline = _SLOW * slowest + _SPARE
        one = _start(request, launch, environment, deadline, first.world or 1)
        if one.code in _KILLED:  # by somebody, or for want of memory: the second start tells
            one = _start(request, launch, environment, deadline, first.world or 1)
        slowest = max(slowest, 0.0 if one.why else one.wall_seconds)
        row = _measured(launch, one, first, spec.skip)
        say(f"round {launch.round + 1}, {_name(plans, launch.settings)}: {row.why or format_time(row.seconds[0])}")
        if row.status != "ok" and not launch.settings:
            raise LaunchError(f"the job as it is fails: {row.why}; its output is in {request.out}")
        book.add(row)
        launches.tell([row])
    book.close()
    planned = Planned(
        name=spec.name,
        created=request.created,
        commbench=__version__,
        spec=request.canonical,
        seed=spec.seed,
        machine=_machine(first),
        command=request.command,
        text_sha256="",
        parameters=0,
        dtype="+".join(first.dtypes),
        plans=plans,
        trials=book.compared,
        budget=spec.budget,
        seconds=time.monotonic() - began,
        search=launches.report(),
    )
    store.write_atomically(request.out / NAME, msgspec.json.format(msgspec.json.encode(planned), indent=1) + b"\n")
    store.write_atomically(request.out / records.NAME, records.encode(recommend(planned)))
    return planned


def _first(request: Request, case: Case, environment: Mapping[str, str]) -> Restart:
    """A start that is no trial: it tells what a start takes, on how many ranks, and the buckets of the default."""
    spec = request.spec
    first = _start(request, Launch(0, (), (case,)), environment, spec.budget)
    if first.code is None and first.wall_seconds >= spec.budget:
        raise SpecError(
            f"the job is not done within the budget of {format_time(spec.budget)}; the smallest that would do is "
            f"{_LEAST} times as long as one start of it: give it fewer steps, or a larger --budget"
        )
    if first.why:
        raise LaunchError(f"{spec.command[0]}: {first.why}; its output is in {request.out}")
    if not first.buckets:
        raise LaunchError(
            "the job does not tell its buckets, so nobody could see that a plan took effect: call "
            "recorder.ddp(model) of commbench.StepRecorder after some steps"
        )
    return first


def _run(request: Request, first: Restart) -> Run:
    return Run(
        format=store.FORMAT,
        name=request.spec.name,
        created=request.created,
        commbench=__version__,
        seed=request.spec.seed,
        spec=request.canonical,
        machine=_machine(first),
        command=request.command,
    )


def exit_code(planned: Planned) -> int:
    """0: a plan, or the default on evidence; 3: nothing could be decided."""
    return 0 if found(planned).decided else 3


def _plan(caps: tuple[float, ...]) -> Plan:
    kwargs: dict[str, Any] = {"bucket_cap_mb": caps[0]} if len(caps) == 1 else {"bucket_cap_mb_list": list(caps)}
    return Plan(name=f"cap {', '.join(f'{cap:g}' for cap in caps)} MiB", settings=settings_of(kwargs))


def _name(plans: tuple[Plan, ...], settings: Settings) -> str:
    return next(one.name for one in plans if one.settings == settings)


def _start(
    request: Request, launch: Launch, environment: Mapping[str, str], deadline: float, ranks: int = 1
) -> Restart:
    """One start of the job with a candidate for `ranks`, which it reads by commbench.ddp_kwargs()."""
    serial = sum(1 for _ in request.out.glob("start-*"))
    folder = request.out / f"start-{serial + 1:03d}"
    base = {name: value for name, value in environment.items() if name != FILE}
    if launch.settings:
        path = folder / records.NAME
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise runfolder.cannot_write(folder, request.out, error) from error
        store.write_atomically(path, records.encode(_candidate(request, launch.settings, ranks)))
        base[FILE] = str(path.absolute())
    wanted = trial.Wanted(
        side="recommended" if launch.settings else "default",
        round=launch.round,
        argv=request.spec.command,
        environment=base,
        watched=(),
        folder=folder,
    )
    try:
        found = trial.restart(wanted, trial.Limits(deadline=deadline, patience=min(_PATIENCE, deadline)))
    except OSError as error:  # its log
        raise runfolder.cannot_write(folder, request.out, error) from error
    if found.why:
        runfolder.check_room(request.out)  # a full disc is no fault of the candidate
    return found


def _candidate(request: Request, settings: Settings, ranks: int) -> Recommendation:
    """A candidate in the form in which the job reads it. Nothing of it is proved: it is a question, which may be put on
    any machine."""
    plan = BucketPlan(
        model=request.spec.name,
        ranks=ranks,
        bucket_bytes=caps_of(settings),
        baseline_us=0.0,
        step_us=0.0,
        gain_low=0.0,
        gain=0.0,
        gain_high=0.0,
    )
    return Recommendation(
        name=request.spec.name,
        created=request.created,
        expires=request.created,
        machine={},
        versions={},
        data_sha256="",
        buckets=(plan,),
        notes=("a candidate under trial, not a recommendation",),
    )


def _measured(launch: Launch, one: Restart, first: Restart, skip: int) -> Measurement:
    """A start as a trial: the median of its steps. Void where the candidate was not seen to take effect."""
    case = msgspec.structs.replace(launch.cases[0], settings=launch.settings)
    told = ", ".join(format_bytes(size) for size in one.buckets[:8]) + (" ..." if len(one.buckets) > 8 else "")
    steps = one.seconds[skip:]
    why = one.why
    if not why and one.world != first.world:
        why = f"it ran on {one.world} ranks, the first start on {first.world}"
    if not why and not steps:
        why = f"{len(one.seconds)} steps, of which {skip} do not count: give the job more, or skip fewer"
    if not why and launch.settings and not one.buckets:
        why = "it did not tell its buckets"
    if not why and launch.settings and one.buckets == first.buckets:
        why = f"DDP makes the same buckets as by default ({told}): no other plan, or ddp_kwargs() is not in the job"
    if not why and any(loss is None for loss in one.losses):
        why = "a loss is no number"
    if why:
        return Measurement(case=case, launch=launch.round, ranks=one.world or 0, status="failed", why=why)
    return Measurement(
        case=case,
        launch=launch.round,
        ranks=one.world or 0,
        seconds=(float(f"{median(steps):.6g}"),),
        calls=len(steps),
        wrong=0,  # the job's losses are numbers; nobody knows what its gradients must be
        proof=f"buckets of {told}" if launch.settings else "",
    )


def _machine(first: Restart) -> Machine:
    """Where the ranks ran, as they tell it; how they lie on hosts is their launcher's business and not known here."""
    return Machine(
        hosts=(Host(name="unknown"),),
        host_of=(0,) * (first.world or 1),
        launcher="",
        facts=first.facts or place.facts(),
        warnings=("how the ranks lie on hosts is not known: the job was started by its own command",),
    )
