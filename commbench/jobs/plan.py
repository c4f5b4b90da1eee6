"""The search for a bucket plan in the reference job: one launch, one rank's part in it, and what comes of it."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from commbench import __version__, store
from commbench.backends import base
from commbench.errors import CommbenchError, FolderError, SpecError
from commbench.jobs import runfolder, train
from commbench.lab import launch as lab
from commbench.measure import launch, probe
from commbench.model.bucket_advice import Advice, ddp
from commbench.records import Machine, Measurement, Run
from commbench.records.recommendation import NAME as RECOMMENDATION
from commbench.records.recommendation import encode
from commbench.spec.train import TrainSpec
from commbench.training.plans import Costs, Session
from commbench.training.text import standard_library
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Trials
from commbench.tune.plans import NAME, OP, Plan, Planned, ddp_plans, found, fsdp_plans, race, recommend
from commbench.tune.search import Report, Search
from commbench.units import format_time
from commbench.world import World
from commbench.world.discover import Place
from commbench.world.join import join
from commbench.world.rollcall import RollCall

if TYPE_CHECKING:
    from commbench.lab.client import Lab
    from commbench.model.step import Backward
    from commbench.training.job import Job

_START_UP = 180.0
_CURVES = 0.25  # of what is left of the budget, for the collectives
_ALONE = 5  # steps with nothing sent, where the spec asks for none
_LEAST = 10  # trials: the first one, four of the default and of one other plan, and one to spare
_ROUNDS = 6  # of the collectives, each of which takes about a step, idle and beside computing together
Say = Callable[[str], None]
After = Callable[[Session, Planned | None], None]


class PlanRequest(NamedTuple):
    """What the command line asked for. budget: seconds from when all ranks have met. only: the one plan that is raced
    against the default; None: all candidates. started: by `start`, which tells what is refused in the ranks."""

    spec: TrainSpec
    out: Path
    created: str  # UTC, ISO 8601
    command: tuple[str, ...]
    budget: float
    seed: int = 0
    resume: bool = False
    only: Settings | None = None
    started: bool = False


class Surroundings(NamedTuple):
    """What surrounds the measurements; the same facts whatever plans are raced."""

    machine: Machine
    text_sha256: str
    parameters: int
    modules: tuple[str, ...]


def check(request: PlanRequest) -> None:
    """Everything that can be refused before any rank is started; what an earlier search concluded is taken away.

    Raises FolderError, MissingLibrary, SpecError or StoreError.
    """
    train.check(train.TrainRequest(request.spec, request.out, request.created, request.command))
    for name in (NAME, "run.json"):
        if (request.out / name).exists() and not request.resume:
            raise store.already(request.out)
    if (request.out / "run.json").exists():
        runfolder.check_spec(request.out, request.spec.canonical())
    runfolder.check_room(request.out)
    runfolder.forget(request.out, NAME)


def read(folder: Path) -> Planned:
    """The search in a folder. Raises FolderError where there is none."""
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Planned)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; commbench tune SPEC --out {folder} writes it") from None
    except (msgspec.DecodeError, UnicodeDecodeError, SpecError) as error:
        raise FolderError(f"{path} is damaged: {error}") from None


def exit_code(planned: Planned) -> int:
    """0: a plan is recommended, or the default is kept on evidence; 3: nothing could be decided."""
    return 0 if found(planned).decided else 3


def start(
    request: PlanRequest, ranks: int, launcher: str, arguments: Sequence[str], say: Say, net: "Lab | None" = None
) -> int:
    """Starts the ranks, on this machine or in a lab, with `arguments` and --out; judges by the folder alone."""
    backends = (request.spec.backend,)
    arguments = [*arguments, "--out", str(request.out)]
    command = lab.argv(net, launcher, ranks, arguments, backends)
    journal = request.out / "journal.jsonl"
    ended = launch.run(
        command,
        lambda: journal.stat().st_size if journal.exists() else 0,
        _START_UP + request.budget + 3 * request.spec.deadline,
        runfolder.unless_refused(request.out, say),
        ranks,
    )
    runfolder.check_refused(request.out)
    if not (request.out / RECOMMENDATION).exists():
        runfolder.check_room(request.out)
        raise ended.failure("the search for a plan", command, runfolder.kept(request.out))
    return exit_code(read(request.out))


def work(
    request: PlanRequest, place: Place | None, say: Say, after: After | None = None, tell: Say | None = None
) -> int:
    """One rank's part, inside a launch. Returns the exit code, the same on every rank. `after`: what else the ranks
    do with the job once the search is over. `tell`: how far it is, where that is not for `say`, too."""
    world, rollcall = join(place, (request.spec.backend,), say)
    try:
        return _work(request, world, rollcall, place, (tell or say) if world.rank == 0 else lambda _: None, after)
    except CommbenchError as error:
        if world.rank == 0 and request.started and isinstance(error, SpecError | FolderError):
            runfolder.refuse(request.out, error)
        if rollcall and world.rank == 0:  # the others wait for rank 0's word
            say(str(error))
            rollcall.dismiss(error.exit_code)
        raise
    except Exception as error:
        if rollcall:
            train.report(rollcall, world, error, say)
        raise


def _work(
    request: PlanRequest,
    world: World,
    rollcall: RollCall | None,
    place: Place | None,
    say: Say,
    after: After | None,
) -> int:
    guard: train.Guard = rollcall.step if rollcall else lambda what, seconds: nullcontext()
    spec = request.spec
    with guard("start-up", _START_UP):
        from commbench.training.job import Job

        backend = base.load(spec.backend)(world)
        identities, machine = probe.meet(world, place)
        if rollcall:
            rollcall.name([f"rank {r} (host {i.host}, pid {i.pid})" for r, i in enumerate(identities)])
        text = standard_library(spec.text)
        train.same(world, text.sha256, "text (other versions of Python have other sources)")
        job = Job(spec, text, world.rank, world.size, backend.device)
    machine = msgspec.structs.replace(machine, facts={**machine.facts, **backend.facts})
    around = Surroundings(machine, text.sha256, job.parameters, _modules(job))
    book = runfolder.Book(request.out, _run(request, machine), request.resume) if world.rank == 0 else None
    session = Session(spec, world, guard, job)
    planned = search(request, session, around, book, say)
    if after:
        after(session, planned)
    del session, job  # what holds process groups goes before the process does
    code = 0
    if planned and book:
        book.close()
        write(request.out, planned)
        code = exit_code(planned)
    code = int(world.share(str(code).encode()).decode())
    if rollcall:
        rollcall.close()
    backend.close()
    world.close()
    return code


def _modules(job: "Job") -> tuple[str, ...]:
    return tuple(f"blocks.{k}" for k in range(len(job.model.blocks)))


def _run(request: PlanRequest, machine: Machine) -> Run:
    return Run(
        format=store.FORMAT,
        name=request.spec.name,
        created=request.created,
        commbench=__version__,
        seed=request.seed,
        spec=request.spec.canonical(),
        machine=machine,
        command=request.command,
    )


def write(folder: Path, planned: Planned) -> None:
    """plan.json, then recommendation.json: each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    store.write_atomically(folder / NAME, msgspec.json.format(msgspec.json.encode(planned), indent=1))
    store.write_atomically(folder / RECOMMENDATION, encode(recommend(planned)))


# -- on all ranks: the same calls in the same order; rank 0 decides ------------------------------------------------


def search(
    request: PlanRequest,
    session: Session,
    around: Surroundings,
    book: runfolder.Book | None,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> Planned | None:
    """The whole search; its result is on rank 0, and None elsewhere, as the book. SpecError: too small a budget."""
    began, spec = clock(), request.spec
    backward = session.backward(spec.alone or _ALONE) if spec.parallel == "ddp" else None
    modelled = bool(session.share(backward is not None))
    first = session.trial(())  # connects, shows the default's losses, and tells what a step takes
    step = median(first.seconds) if first else 0.0
    trial = session.trial_seconds(step)
    if first:  # rank 0: an error ends all ranks
        _afford(request.budget, clock() - began, trial, _ROUNDS * len(session.sizes()) * step if modelled else 0.0)
    costs = session.costs(_CURVES * (request.budget - (clock() - began)), clock) if modelled else None
    advice = ddp(backward, costs.cost, lists=_lists()) if backward and costs else None
    runner: Search | None = None
    plans: tuple[Plan, ...] = ()
    if first is not None and book is not None:  # rank 0
        _told(say, backward, costs, advice)
        plans = _plans(spec, advice, len(around.modules))
        if request.only is not None:
            plans = _alone(plans, request.only)
        plans = (*plans, *_before(plans, book.trials))
        left = request.budget - (clock() - began)
        runner = Search(
            [session.case()],
            {OP: race(plans)},
            ranks=around.machine.size,
            seed=request.seed,
            budget=max(left, _LEAST * trial),
            trial=trial,
            clock=clock,
            trials=Trials(book.trials),
            thorough=request.only is not None,
        )
    spent = clock() - began
    try:
        raced(session, runner, book)
    except SpecError:  # a trial takes longer than its steps told
        if book:
            book.give_up()
        _afford(request.budget, spent, runner.spent if runner else 0.0, 0.0)
        raise
    if runner is None or book is None:
        return None
    seconds = clock() - began
    return _planned(request, around, backward, costs, advice, plans, book.compared, seconds, runner.report())


def raced(session: Session, runner: Search | None, book: runfolder.Book | None) -> None:
    """Makes the trials that the search asks for; rank 0 has the search and the book."""
    while asked := session.share([case.settings for case in runner.ask()] if runner else []):
        for one in asked:
            settings: Settings = tuple((name, value) for name, value in one)
            measured = session.trial(settings)
            if measured is not None and runner is not None and book is not None:
                (numbered,) = runner.numbered((measured,))
                runner.tell((measured,))
                book.add(numbered)


def _afford(budget: float, spent: float, trial: float, curves: float) -> None:
    """SpecError where the budget is no honest comparison's: four trials of the default and of one other plan, after
    the collectives."""
    least = int(spent + curves + _LEAST * trial) + 1
    if budget < least:
        raise SpecError(
            f"a budget of {format_time(budget)} is too small for one honest comparison of two plans: a trial takes "
            f"{format_time(trial)} here; the smallest that would do is --budget {least}s"
        )


def _alone(plans: Sequence[Plan], settings: Settings) -> tuple[Plan, Plan]:
    """The default, which is seldom the one that the model puts first, and the plan that is looked at again."""
    known = {one.settings: one for one in plans}
    return known[()], known.get(settings, Plan(name="as recommended", settings=settings))


def _before(plans: Sequence[Plan], trials: Sequence[Measurement]) -> tuple[Plan, ...]:
    """Plans that a search which was cut off had tried: this one saw other curves, and may have other candidates."""
    mine = {one.settings for one in plans}
    others = dict.fromkeys(trial.case.settings for trial in trials if trial.case.settings not in mine)
    return tuple(Plan(name="as before: " + " ".join(f"{k}={v}" for k, v in one), settings=one) for one in others)


def _lists() -> bool:
    """Whether this torch knows bucket_cap_mb_list."""
    return tuple(int(part) for part in metadata.version("torch").split(".")[:2]) >= (2, 12)


def _plans(spec: TrainSpec, advice: Advice | None, blocks: int) -> tuple[Plan, ...]:
    if spec.parallel == "fsdp2":
        return fsdp_plans(blocks)
    return ddp_plans(advice, spec.ddp.kwargs(), spec.ddp.hook)


def _told(say: Say, backward: "Backward | None", costs: Costs | None, advice: Advice | None) -> None:
    if not backward or not costs or not advice:
        say("no model orders the plans here: they are raced as they come")
        return
    loaded = float(costs.cost.at([costs.cost.largest])[1][0])
    say(
        f"computing alone {format_time(backward.seconds + backward.rest)} a step; all gradients at once "
        f"{format_time(costs.cost.alone.seconds[-1])} idle, {format_time(loaded)}"
        f" beside computing, which it slows {costs.cost.gamma:.2f} times; {advice.keep or 'plans are raced'}"
    )


def _planned(
    request: PlanRequest,
    around: Surroundings,
    backward: "Backward | None",
    costs: Costs | None,
    advice: Advice | None,
    plans: tuple[Plan, ...],
    trials: tuple[Measurement, ...],
    seconds: float,
    report: Report,
) -> Planned:
    return Planned(
        name=request.spec.name,
        created=request.created,
        commbench=__version__,
        spec=request.spec.canonical(),
        seed=request.seed,
        command=request.command,
        **around._asdict(),
        backward=backward,
        cost=costs.cost if costs else None,
        slowdowns=costs.slowdowns if costs else (),
        wrong=costs.wrong if costs else 0,
        keep=advice.keep if advice else "",
        tail=advice.tail if advice else None,
        floor=advice.floor if advice else None,
        notes=advice.notes if advice else (),
        plans=plans,
        trials=trials,
        budget=request.budget,
        seconds=seconds,
        search=report,
    )
