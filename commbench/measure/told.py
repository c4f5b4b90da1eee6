"""What a start of a job told: the steps that a pattern finds in its output, the files of its StepRecorder."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from commbench.records.recommendation import FLAGS

STEPS = "COMMBENCH_STEPS"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step as one rank, or the log, tells it."""

    number: int | None = None
    seconds: float
    loss: float | None = None
    tokens: float | None = None


def in_output(steps: Sequence[Step]) -> dict[str, Any]:
    """Fields of a Restart from what the pattern found. ValueError where it found nothing, or nothing that makes sense.

    Where every rank prints each step, and the pattern tells which, the slowest counts.
    """
    if not steps:
        raise ValueError("--step-regex found no step in its output")
    if any(step.number is None for step in steps):
        _sensible(steps)
        return {"seconds": tuple(s.seconds for s in steps), "losses": _losses([s.loss] for s in steps)}
    found: dict[int, list[Step]] = {}
    for step in steps:
        found.setdefault(step.number or 0, []).append(step)
    return _together([found[number] for number in sorted(found)])


def in_files(folder: Path, watched: Sequence[str]) -> dict[str, Any]:
    """Fields of a Restart from the files of StepRecorder, one a rank. ValueError says what is wrong with them."""
    paths = sorted(folder.glob("steps-*.jsonl"))
    if not paths:
        raise ValueError(
            "it recorded no step: use commbench.StepRecorder in the job, or find them in its output with --step-regex"
        )
    ranks = [_read(path) for path in paths]
    worlds = {rank.world for rank in ranks} - {None}
    if len(worlds) > 1:
        raise ValueError(f"its ranks disagree about their number: {', '.join(map(str, sorted(worlds, key=str)))}")
    world = worlds.pop() if worlds else None
    if world is not None and world != len(ranks):
        raise ValueError(f"{len(ranks)} of {world} ranks recorded steps: let the launcher pass {STEPS} on (mpirun -x)")
    numbers = [[step.number for step in rank.steps] for rank in ranks]
    if not all(numbers):
        raise ValueError("it recorded no step")
    if any(own != numbers[0] for own in numbers):
        counts = ", ".join(map(str, sorted({len(own) for own in numbers})))
        raise ValueError(f"its ranks recorded different steps ({counts} of them)")
    if len(set(numbers[0])) < len(numbers[0]):
        raise ValueError("it recorded a step twice: did the job begin again by itself?")
    together = _together([list(steps) for steps in zip(*(rank.steps for rank in ranks), strict=True)])
    return together | _surroundings(ranks, world, watched) | _made(folder)


def beside(folder: Path, watched: Sequence[str]) -> dict[str, Any]:
    """What the files tell of a start whose steps were found in its output; nothing of ranks that did not all write."""
    try:
        ranks = [_read(path) for path in sorted(folder.glob("steps-*.jsonl"))]
    except ValueError:
        return _made(folder)
    if {rank.world for rank in ranks} != {len(ranks)}:
        return _made(folder)
    return _surroundings(ranks, len(ranks), watched) | _made(folder)


class _Rank(NamedTuple):
    steps: list[Step]
    environment: dict[str, str] | None
    world: int | None
    facts: dict[str, str]


class _Line(msgspec.Struct):
    """A line of a step file: the first may tell the surroundings, later ones a step each; more fields are allowed."""

    step: int | None = None
    seconds: float | None = None
    loss: float | None = None
    tokens: float | None = None
    environment: dict[str, str] | None = None
    world: int | None = None
    facts: dict[str, str] | None = None


def _read(path: Path) -> _Rank:
    """A rank's file; a torn last line is dropped."""
    steps, environment, world, facts = [], None, None, dict[str, str]()
    decode = msgspec.json.Decoder(_Line).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                found = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ValueError(f"{path.name}:{number}: no step: {error}") from None
            environment = found.environment if found.environment is not None else environment
            world = found.world or world
            facts = found.facts or facts
            if found.seconds is not None:
                steps.append(Step(number=found.step, seconds=found.seconds, loss=found.loss, tokens=found.tokens))
    return _Rank(steps, environment, world, facts)


def _surroundings(ranks: Sequence[_Rank], world: int | None, watched: Sequence[str]) -> dict[str, Any]:
    """What the ranks saw, and the facts that all of them tell alike."""
    told = [rank.environment for rank in ranks if rank.environment is not None]
    seen = {name: tuple(sorted({own.get(name, "") for own in told})) for name in watched}
    shared = set.intersection(*(set(rank.facts.items()) for rank in ranks))
    return {"world": world, "seen": seen if len(told) == len(ranks) else None, "facts": dict(sorted(shared))}


class _Gradient(msgspec.Struct):
    dtype: str


def _made(folder: Path) -> dict[str, Any]:
    """What DDP or FSDP2 made of the model, as rank 0 told it after some steps (`StepRecorder`); nothing is made up."""
    ddp, fsdp2 = (_document(folder / name) for name in ("ddp-0.json", "fsdp2-0.json"))
    applied = {name: _text(value) for name, value in fsdp2.items()}
    if "gradient_as_bucket_view" in ddp:  # DDP tells it always, the others where they are set
        for name in FLAGS:
            applied[name] = _text(bool(ddp.get(name)))
        applied["hook"] = _text(ddp.get("comm_hook", ""))
    try:
        sizes = ddp.get("rebuilt_bucket_sizes", ddp.get("bucket_sizes", ""))
        buckets = tuple(int(size) for size in sizes.split(",") if size.strip())
        gradients = msgspec.convert(ddp.get("gradients", []), tuple[_Gradient, ...])
    except (AttributeError, ValueError):  # msgspec's errors are ValueErrors
        buckets, gradients = (), ()
    return {"buckets": buckets, "applied": applied, "dtypes": tuple(sorted({one.dtype for one in gradients}))}


def _document(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError):
        return {}


def _text(value: object) -> str:
    """As a plan's entries are written: true, 2, blocks.0+blocks.1,blocks.2."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _together(steps: Sequence[Sequence[Step]]) -> dict[str, Any]:
    """One figure a step: its slowest rank, the mean loss, all tokens."""
    _sensible([one for ranks in steps for one in ranks])
    tokens = [one.tokens for ranks in steps for one in ranks if one.tokens is not None]
    return {
        "seconds": tuple(max(one.seconds for one in ranks) for ranks in steps),
        "losses": _losses([one.loss for one in ranks] for ranks in steps),
        "tokens": round(sum(tokens)) if tokens else None,
    }


def _sensible(steps: Iterable[Step]) -> None:
    for k, step in enumerate(steps):
        if not (math.isfinite(step.seconds) and step.seconds > 0):
            number = k if step.number is None else step.number
            raise ValueError(f"step {number} took {step.seconds:g} s, which is no time")


def _losses(steps: Iterable[Sequence[float | None]]) -> tuple[float | None, ...]:
    found = []
    for ranks in steps:
        told = [loss for loss in ranks if loss is not None]
        mean = sum(told) / len(told) if told else None
        found.append(mean if mean is not None and math.isfinite(mean) else None)
    return tuple(found) if any(loss is not None for loss in found) else ()
