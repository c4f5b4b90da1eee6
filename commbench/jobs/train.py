"""The reference training job: one rank's part of it inside a launch, and the start of such a launch."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from commbench import __version__, store
from commbench.backends import base
from commbench.errors import CommbenchError, FolderError, LaunchError, MissingLibrary
from commbench.lab import launch as lab
from commbench.measure import launch, probe
from commbench.spec.train import HOOKS, TrainSpec
from commbench.training.apply import FILE, chosen, kwargs, sharding
from commbench.training.record import NAME, Alone, Gradient, RankResult, Trained
from commbench.training.recorder import FOLDER, StepRecorder
from commbench.training.text import Text, standard_library
from commbench.world import World
from commbench.world.discover import Place
from commbench.world.join import join
from commbench.world.rollcall import RollCall

if TYPE_CHECKING:
    from commbench.lab.client import Lab
    from commbench.training.job import Job, Times

_START_UP = 180.0  # seconds in which every rank has loaded its libraries and met the others
Say = Callable[[str], None]
Guard = Callable[[str, float], AbstractContextManager[None]]


class TrainRequest(NamedTuple):
    """What the command line asked for."""

    spec: TrainSpec
    out: Path
    created: str  # UTC, ISO 8601
    command: tuple[str, ...]


def check(request: TrainRequest, ranks: int | None = None) -> None:
    """Everything that can be refused before any rank is started; `ranks`: how many there will be, None: the launcher's.

    Raises FolderError, MissingLibrary, or CommbenchError for a recommendation of another job.
    """
    if probe.installed("torch").endswith("missing"):
        raise MissingLibrary("training needs PyTorch: pip install torch")
    if request.spec.backend == "nccl" and not probe.gpus():
        raise MissingLibrary(
            f"this spec trains over NCCL, but this machine has no NVIDIA GPU ({probe.installed('torch')}); for CPU "
            "ranks add --set backend=gloo"
        )
    if (request.out / NAME).exists() or any(request.out.glob("steps-*.jsonl")):
        raise FolderError(f"{request.out} already holds a training run; choose another --out")
    _settings(request.spec, ranks)


def read(folder: Path) -> Trained:
    """The result in a folder. Raises FolderError where there is none."""
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Trained)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; commbench train SPEC --out {folder} writes it") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is damaged: {error}") from None


def exit_code(trained: Trained) -> int:
    """0; 1 where the settings are not in effect or a loss is no number."""
    return int(trained.in_effect is False or any(rank.last_loss is None for rank in trained.ranks))


def start(
    request: TrainRequest, ranks: int, launcher: str, arguments: Sequence[str], say: Say, net: "Lab | None" = None
) -> int:
    """Starts the ranks, on this machine or in a lab; judges by the folder alone."""
    backends = (request.spec.backend,)
    arguments = [*arguments, "--out", str(request.out)]
    command = lab.argv(net, launcher, ranks, arguments, backends)
    steps = Path(os.environ.get(FOLDER) or request.out) / "steps-0.jsonl"
    ended = launch.run(
        command,
        lambda: steps.stat().st_size if steps.exists() else 0,
        60.0 + 3 * request.spec.deadline + request.spec.alone * request.spec.deadline,
        say,
        ranks,
    )
    if not (request.out / NAME).exists():
        raise LaunchError(
            f"the training ended early (exit {ended.code} of {os.path.basename(command[0])}): {ended.why}; steps up "
            f"to there are in {steps.parent}"
        )
    return exit_code(read(request.out))


def work(request: TrainRequest, place: Place | None, say: Say) -> int:
    """One rank's part, inside a launch. Returns the exit code, the same on every rank."""
    world, rollcall = join(place, (request.spec.backend,), say)
    try:
        return _work(request, world, rollcall, place)
    except CommbenchError as error:
        if rollcall and world.rank == 0:  # the others wait for rank 0's word
            say(str(error))
            rollcall.dismiss(error.exit_code)
        raise
    except Exception as error:
        if rollcall:
            report(rollcall, world, error, say)
        raise


def report(rollcall: RollCall, world: World, error: Exception, say: Say) -> None:
    """An error ends the whole job. It may be the echo of a rank that died, which the roll call names first."""
    time.sleep(1.0)
    text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if world.rank == 0:
        say(f"rank 0 raised {text}; {_where(error)}")
        rollcall.dismiss(LaunchError.exit_code)
    rollcall.report(f"{text}; {_where(error)}")
    time.sleep(10.0)  # rank 0 names this rank and tells everybody to leave; this process too
    world.abort(LaunchError.exit_code)


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _work(request: TrainRequest, world: World, rollcall: RollCall | None, place: Place | None) -> int:
    guard: Guard = rollcall.step if rollcall else lambda what, seconds: nullcontext()
    spec = request.spec
    with guard("start-up", _START_UP):
        backend = base.load(spec.backend)(world)
        identities, machine = probe.meet(world, place)
        if rollcall:
            rollcall.name([f"rank {r} (host {i.host}, pid {i.pid})" for r, i in enumerate(identities)])
        text = standard_library(spec.text)
        same(world, text.sha256, "text (other versions of Python have other sources)")
        settings = _settings(spec, world.size)
        same(world, str(settings), "recommendation")
    result = _train(request, world, guard, text, settings, backend.device)
    told = world.gather(msgspec.json.encode(result.rank))
    code = 0
    if world.rank == 0:
        trained = Trained(
            name=spec.name,
            created=request.created,
            commbench=__version__,
            spec=spec.canonical(),
            machine=msgspec.structs.replace(machine, facts={**machine.facts, **backend.facts}),
            command=request.command,
            text_sha256=text.sha256,
            applied=settings.kwargs | ({"hook": settings.hook} if settings.hook else {}),
            origin=settings.origin,
            ranks=tuple(msgspec.json.decode(part, type=RankResult) for part in told),
            **result.facts,
        )
        request.out.mkdir(parents=True, exist_ok=True)
        store.write_atomically(request.out / NAME, msgspec.json.format(msgspec.json.encode(trained), indent=1))
        code = exit_code(trained)
    code = int(world.share(str(code).encode()).decode())
    if rollcall:
        rollcall.close()
    backend.close()
    world.close()
    return code


def same(world: World, mine: str, what: str) -> None:
    """Raises LaunchError on all ranks where one of them has something else than rank 0."""
    told = world.gather(mine.encode())
    differ = [rank for rank, other in enumerate(told) if other.decode() != mine]
    if differing := world.share(",".join(map(str, differ)).encode()).decode():
        raise LaunchError(f"ranks {differing} have another {what} than rank 0; start all of them alike")


class _Settings(NamedTuple):
    """Arguments of DDP or FSDP2, the hook, and where they are from."""

    kwargs: dict[str, Any]
    hook: str
    origin: str


def _settings(spec: TrainSpec, ranks: int | None) -> _Settings:
    """A recommendation replaces what the spec says of the same: caps, groups of modules, the hook.

    Raises as `ddp_kwargs`, and CommbenchError where this job cannot do what the plan says.
    """
    sharded = spec.parallel == "fsdp2"
    plan = chosen(ranks=ranks, sharded=sharded)
    own = msgspec.to_builtins(spec.fsdp) if sharded else spec.ddp.kwargs()
    if plan is None:
        return _Settings(own, spec.ddp.hook, "spec")
    asked = sharding(plan, [f"blocks.{k}" for k in range(spec.layers)]) if sharded else kwargs(plan)
    if any(key.startswith("bucket_cap") for key in asked):
        own = {key: value for key, value in own.items() if not key.startswith("bucket_cap")}
    if plan.hook not in ("", *HOOKS):
        raise CommbenchError(f"the plan of {plan.model} has the hook {plan.hook}; this job has {', '.join(HOOKS)}")
    if plan.hook == "bf16" and spec.backend == "gloo":
        raise CommbenchError(f"the plan of {plan.model} has the hook bf16, which torch refuses over gloo")
    return _Settings(own | asked, plan.hook or spec.ddp.hook, os.environ[FILE])


class _Result(NamedTuple):
    """What a rank has to tell, and the facts of which rank 0's count."""

    rank: RankResult
    facts: dict[str, Any]


def _train(request: TrainRequest, world: World, guard: Guard, text: Text, settings: _Settings, device: Any) -> _Result:
    from commbench.training.job import Job

    spec = request.spec
    with guard("start-up", _START_UP):
        job = Job(spec, text, world.rank, world.size, device)
        recorder = StepRecorder(os.environ.get(FOLDER) or request.out, world.rank, world.size)
    alone = []
    for k in range(spec.alone + bool(spec.alone)):
        with guard(f"step {k} without communication", spec.deadline):
            world.barrier()
            alone.append(job.alone(k))
    with guard("wrapping the model", _START_UP):
        job.wrap(settings.kwargs, settings.hook)
    steps = []
    for k in range(spec.steps):
        with guard(f"training step {k}", spec.deadline):
            times = job.step(k)
        ready = None if times.ready_s is None else [round(at * 1e6, 1) for at in times.ready_s]
        more = {**times._asdict(), "ready_us": ready}
        for key in ("seconds", "loss", "ready_s"):
            del more[key]
        recorder.write(times.seconds, times.loss, job.tokens, more)
        steps.append(times)
    if spec.parallel == "ddp":
        recorder.ddp(job.model)
    else:
        recorder.sharded(job.sharded())
    recorder.close()
    return _result(spec, job, alone[1:], steps, settings.kwargs)  # the first step alone pays for what is done once


def _result(
    spec: TrainSpec, job: "Job", alone: "Sequence[Times]", steps: "Sequence[Times]", kwargs: dict[str, Any]
) -> _Result:
    kept = steps[spec.warmup :]
    seconds = median(step.seconds for step in kept)
    exposed = [step.exposed_s for step in kept if step.exposed_s is not None]
    alone_us, ready_us = (_medians([step.ready_s for step in some]) for some in (alone, kept))
    buckets = job.buckets(kwargs, len(steps))
    rank = RankResult(
        seconds=seconds,
        forward_s=median(step.forward_s for step in kept),
        backward_s=median(step.backward_s for step in kept),
        optimizer_s=median(step.optimizer_s for step in kept),
        exposed_s=median(exposed) if len(exposed) == len(kept) else None,
        alone=Alone(
            forward_s=median(step.forward_s for step in alone), backward_s=median(step.backward_s for step in alone)
        )
        if alone
        else None,
        tokens_per_s=job.tokens / seconds,
        first_loss=steps[0].loss,
        last_loss=steps[-1].loss,
    )
    why = "FSDP2 communicates inside both passes" if spec.parallel == "fsdp2" else "the host does not see a GPU's clock"
    facts: dict[str, Any] = {
        "parameters": job.parameters,
        "gradients": tuple(
            Gradient(name=name, nbytes=nbytes, alone_us=one, ready_us=other)
            for name, nbytes, one, other in zip(job.names, job.nbytes, alone_us, ready_us, strict=True)
        )
        if alone_us and ready_us
        else tuple(
            Gradient(name=name, nbytes=nbytes, alone_us=alone_us[k] if alone_us else None)
            for k, (name, nbytes) in enumerate(zip(job.names, job.nbytes, strict=True))
        ),
        "buckets": buckets.nbytes,
        "in_effect": buckets.in_effect,
        "unproved": buckets.why,
        "told": buckets.told,
        "exposed": "" if rank.exposed_s is not None else why,
    }
    return _Result(rank, facts)


def _medians(rows: "Sequence[tuple[float, ...] | None]") -> list[float]:
    """Microseconds of each gradient; empty where they were not measured in every step."""
    known = [row for row in rows if row is not None]
    if not known or len(known) < len(rows):
        return []
    return [round(median(column) * 1e6, 1) for column in zip(*known, strict=True)]
