"""A training job's messages, from what it left behind: profiler traces, train.json, step files, or its shapes alone."""

import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from commbench.errors import FolderError, ReadError
from commbench.jobs.runs import load_runs
from commbench.model.bucket_advice import DDP_CAPS, MIB
from commbench.model.messages import Job, ddp_buckets, of_buckets, of_workload
from commbench.model.workload import merge
from commbench.records import Workload
from commbench.spec import values as v
from commbench.spec.document import Field, Kind, read, show
from commbench.training.record import FORMAT, NAME, Trained
from commbench.training.recorder import read_steps
from commbench.units import parse_bytes

SHAPES = Kind(
    "file of shapes", "gradients and ranks", "gradients: [{name: wte, nbytes: 4MiB}]", "ranks=8", "tuning/shapes"
)
_MOST = 2**26  # bytes of train.json or of DDP's logging data
_DDP = "ddp-*.json"
_STEPS = "steps-*.jsonl"
_ALL = "how much of the communication is hidden is not told: all of it counts, so the gain is the most it can be"


def messages(path: Path, ranks: int | None = None) -> Job:
    """What the job at `path` sends in a step.

    path   a trace, a folder of the traces of one job's ranks or an imported run folder; train.json or its folder; a
           folder of step files with DDP's logging data (commbench.StepRecorder); shapes of a model (.yaml, .json)
    ranks  of a group, where the job does not tell it

    ReadError, FolderError or SpecError where nothing can be known from it: which file, what is wrong, what to do.
    """
    if path.is_dir():
        if (path / NAME).exists():
            return _trained(path / NAME)
        if next(path.glob(_DDP), None) or next(path.glob(_STEPS), None):
            return _steps(path)
        return _traces(path, ranks)
    if path.suffix in (".yaml", ".yml"):
        return _shapes(path, ranks)
    if path.name == NAME:
        return _trained(path)
    if path.match(_DDP) or path.match(_STEPS):
        raise ReadError(f"{path}: is of one rank; name its folder: {path.parent}")
    return _shapes(path, ranks) if path.suffix == ".json" and _has_shapes(path) else _traces(path, ranks)


# ---- traces -------------------------------------------------------------------------------------------------


def _traces(path: Path, ranks: int | None) -> Job:
    loaded = load_runs(path)
    found = [(one.where or one.run.name, part) for one in loaded for part in one.parts if isinstance(part, Workload)]
    if not found:
        raise ReadError(
            f"{path}: holds no profiler trace; give traces, {NAME} of commbench train, a folder with {_STEPS} and "
            f"{_DDP} of StepRecorder, or a model's shapes as .yaml"
        )
    if len(found) > 1:
        try:
            merge([part for _, part in found])
            why = "they lie in several folders"
        except ReadError as error:
            why = str(error)
        names = ", ".join(name for name, _ in found[:3]) + (", ..." if len(found) > 3 else "")
        raise FolderError(f"{path}: holds {len(found)} jobs ({names}), for {why}; name one of them")
    workload = found[0][1]
    steps = max((len(rank.steps) for rank in workload.ranks), default=0)
    count = len(workload.ranks)
    about = f"{path}: traces of {count} rank{'s' * (count != 1)}, {steps} step{'s' * (steps != 1)}"
    return of_workload(workload, about, ranks)


# ---- jobs that were recorded --------------------------------------------------------------------------------


def _json(path: Path, decode: Callable[[bytes], Any], what: str) -> Any:
    try:
        if path.stat().st_size > _MOST:
            raise ReadError(f"{path}: is larger than {_MOST >> 20} MiB, so it is no {what}")
        return decode(path.read_bytes())
    except OSError as error:
        raise ReadError(f"{path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReadError(f"{path}: is no {what}: {error}; record the job again") from None


def _trained(path: Path) -> Job:
    made: Trained = _json(path, msgspec.json.Decoder(Trained).decode, f"{NAME} of commbench train")
    if made.format > FORMAT:
        raise ReadError(f"{path}: format {made.format} is newer than this commbench reads ({FORMAT}); update commbench")
    _no_hook(path, made.told)
    if not made.buckets:
        raise ReadError(f"{path}: {made.unproved or 'it has no buckets'}; take a profiler trace of the job")
    count = _ranks(path, len(made.ranks))
    exposed = _exposed_us([rank.exposed_s for rank in made.ranks if rank.exposed_s is not None], count)
    return Job(
        of_buckets(_checked(path, made.buckets), count),
        _step_us(path, [rank.seconds for rank in made.ranks]),
        f"{path}: {len(made.buckets)} buckets of DDP on {count} ranks",
        exposed,
        () if exposed is not None else (_ALL,),
    )


def _steps(folder: Path) -> Job:
    """DDP's logging data tell the buckets, the step files the times."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    told = {path: _json(path, decode, "logging data of DDP") for path in sorted(folder.glob(_DDP))}
    if not told:
        raise ReadError(f"{folder}: no {_DDP} tells DDP's buckets; call rec.ddp(model) after some steps of the job")
    first, *others = told
    buckets, size = _told_buckets(first, told[first]), _ranks(first, told[first].get("world_size"))
    for other in others:
        if (_told_buckets(other, told[other]), told[other].get("world_size")) != (buckets, size):
            raise ReadError(f"{other}: other buckets or ranks than in {first.name}: not one job; record it again")
    recorded = [steps for steps in read_steps(folder).values() if steps]
    if len(recorded) > size:
        raise ReadError(f"{folder}: steps of {len(recorded)} ranks in a job of {size}: not one job; record it again")
    waits = [[step.exposed_s for step in steps if step.exposed_s is not None] for steps in recorded]
    exposed = _exposed_us([median(each) for each in waits if each], len(recorded))
    notes = () if exposed is not None else (_ALL,)
    if not told[first].get("has_rebuilt_buckets"):
        notes = (*notes, "DDP had not made its final buckets when it was asked: ask it after some steps")
    return Job(
        of_buckets(buckets, size),
        _step_us(folder, [median(step.seconds for step in steps) for steps in recorded]),
        f"{folder}: {len(buckets)} buckets of DDP on {size} ranks",
        exposed,
        notes,
    )


def _told_buckets(path: Path, told: dict[str, Any]) -> tuple[int, ...]:
    """Bytes of DDP's buckets, the final ones where there are."""
    _no_hook(path, told)
    text = told.get("rebuilt_bucket_sizes") or told.get("bucket_sizes")
    if not isinstance(text, str) or not re.fullmatch(r"\s*\d{1,16}([,\s]+\d{1,16})*\s*", text, re.ASCII):
        raise ReadError(f"{path}: rebuilt_bucket_sizes is {show(text)}, not a list of bytes; record the job again")
    return _checked(path, tuple(int(word) for word in re.findall(r"\d+", text)))


def _no_hook(path: Path, told: dict[str, Any]) -> None:
    if hook := told.get("comm_hook"):
        raise ReadError(f"{path}: the hook {show(hook)} sends something else than buckets; take a profiler trace")


def _checked(path: Path, buckets: tuple[int, ...]) -> tuple[int, ...]:
    if wrong := [size for size in buckets if not 0 < size < 2**50]:
        raise ReadError(f"{path}: a bucket of {wrong[0]} bytes is none; record the job again")
    return buckets


def _ranks(path: Path, told: object) -> int:
    if not isinstance(told, int) or isinstance(told, bool) or told < 2:
        raise ReadError(f"{path}: a job on {show(told)} ranks sends nothing; record one on two or more")
    return told


def _step_us(path: Path, seconds: list[float]) -> float | None:
    """Of the slowest rank; None where no step was recorded."""
    if wrong := [one for one in seconds if not 0 <= one < 1e9]:
        raise ReadError(f"{path}: a step of {wrong[0]} s is none; record the job again")
    return 1e6 * max(seconds, default=0.0) or None


def _exposed_us(seconds: list[float], ranks: int) -> float | None:
    """Of the rank that waits least: it came last, so it waits for the transfer and not for another rank."""
    return 1e6 * max(min(seconds), 0.0) if seconds and len(seconds) == ranks else None


# ---- shapes -------------------------------------------------------------------------------------------------


def _has_shapes(path: Path) -> bool:
    """A .json is a trace unless its first key says otherwise: a trace can be gigabytes long."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return b'"traceEvents"' not in head and re.search(rb'"(gradients|framework)"\s*:', head) is not None


def _bytes(field: Field) -> int:
    try:
        return parse_bytes(field.value if isinstance(field.value, str) else show(field.value))
    except ValueError as error:
        raise field.error(str(error)) from None


def _word(field: Field) -> str:
    if not isinstance(field.value, str) or not field.value:
        raise field.error(f"{show(field.value)} is no name")
    return field.value


def _cap(field: Field) -> float:
    value = field.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 2**20:
        raise field.error(f"{show(value)} is not a number of MiB above 0 and up to {2**20}")
    return float(value)


_GRADIENT: dict[str, v.Reader] = {"name": _word, "nbytes": _bytes, "dtype": _word}
_KEYS: dict[str, v.Reader] = {
    "framework": v.choice(("ddp",), "framework"),
    "ranks": v.whole(2, 2**20),
    "bucket_cap_mb": _cap,
    "bucket_cap_mb_list": lambda field: tuple(map(_cap, field.entries())),
}


def _shapes(path: Path, ranks: int | None) -> Job:
    """DDP's buckets of a model that need not run: gradients in the order of the parameters."""
    top = read(str(path), (), SHAPES)
    fields = top.mapping(("gradients", *_KEYS))
    found = {key: _KEYS[key](field) for key, field in fields.items() if key in _KEYS}
    if "gradients" not in fields or not isinstance(fields["gradients"].value, list) or not fields["gradients"].value:
        raise top.child("gradients").error("write a list, in the order of the parameters: [{name: wte, nbytes: 4MiB}]")
    gradients = []
    for entry in fields["gradients"].entries():
        each = entry.mapping(tuple(_GRADIENT))
        if "nbytes" not in each:
            raise entry.child("nbytes").error("is missing; say how many bytes the gradient has")
        gradients.append({key: _GRADIENT[key](field) for key, field in each.items()})
    if "bucket_cap_mb" in found and "bucket_cap_mb_list" in found:
        raise fields["bucket_cap_mb_list"].error("goes without bucket_cap_mb: keep one of them")
    size = found.get("ranks", ranks)
    if size is None:
        raise top.child("ranks").error("is missing; say how many ranks train the model")
    caps = found.get("bucket_cap_mb_list") or ((found["bucket_cap_mb"],) if "bucket_cap_mb" in found else ())
    buckets = ddp_buckets(
        [one["nbytes"] for one in gradients],
        [int(cap * MIB) for cap in caps] or DDP_CAPS,
        [one.get("dtype", "") for one in gradients],
    )
    return Job(
        of_buckets(buckets, size),
        None,
        f"{path}: {len(buckets)} buckets that DDP makes of {len(gradients)} gradients",
        None,
        (_ALL, "the length of a step is not known from shapes"),
    )
