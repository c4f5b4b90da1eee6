"""Step times of a training job, one JSON line a step, from two lines in the user's own code.

    from commbench import StepRecorder
    rec = StepRecorder()                      # does nothing unless COMMBENCH_STEPS names a folder
    for batch in data:
        with rec.step(tokens=4096) as step:   # or, at the end of the loop's body: rec.tick(loss, tokens)
            step.loss = train(batch)

Rank r writes steps-r.jsonl: a line about its start (its part of the environment, the number of ranks, facts of its
host), then a line a step. Each line is one write to the kernel, so a killed process loses nothing that it had finished;
nothing is synced to the disc, because that would be part of the step. Neither torch nor MPI is loaded.
"""

import math
import os
import time
import warnings
from pathlib import Path
from typing import Any, SupportsFloat

import msgspec

from commbench.allowlist import environment
from commbench.errors import CommbenchError, ReadError, StoreError
from commbench.training.place import facts
from commbench.world.discover import discover

FOLDER = "COMMBENCH_STEPS"
_PASSES = 20  # backward passes whose ready times are kept
_encode = msgspec.json.Encoder().encode


class Step:
    """One step while it runs. `loss`, `tokens` and `more` may be set until its end."""

    __slots__ = ("_began", "_recorder", "loss", "more", "tokens")

    def __init__(self, recorder: "StepRecorder", loss: SupportsFloat | None, tokens: int | None) -> None:
        self._recorder, self.loss, self.tokens = recorder, loss, tokens
        self.more: dict[str, Any] = {}

    def __enter__(self) -> "Step":
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # a step that ended by an exception is no step
            loss = None if self.loss is None else float(self.loss)  # a tensor of a GPU waits for its step here
            self._recorder.write(time.perf_counter() - self._began, loss, self.tokens, self.more)


class StepRecorder:
    """Writes steps of this rank to `folder` (default: $COMMBENCH_STEPS; where that is not set, nothing is written).

    `rank` and `size` are those of the launcher unless given. Raises StoreError where the folder cannot be written, and
    LaunchError where launchers contradict each other. A disc that fills up later costs a warning, never the job.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, rank: int | None = None, size: int | None = None
    ) -> None:
        self._file, self._next, self._last = -1, 0, 0.0
        self._passes: list[list[int]] = []
        chosen = folder or os.environ.get(FOLDER)
        if not chosen:
            return
        place = discover(os.environ) if rank is None or size is None else None
        self._rank = rank if rank is not None else place.rank if place else 0
        world = size if size is not None else place.size if place else 1
        self._folder = Path(chosen)
        path = self._folder / f"steps-{self._rank}.jsonl"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            _mend(self._file)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; let {FOLDER} name a folder that can be written") from None
        self._append({"environment": environment(os.environ)[0], "world": world, "facts": facts()})

    @property
    def active(self) -> bool:
        """Whether steps are written."""
        return self._file >= 0

    def step(self, loss: SupportsFloat | None = None, tokens: int | None = None) -> Step:
        """Times what is inside `with`. `tokens` are those of this rank; the loss may be set inside."""
        return Step(self, loss, tokens)

    def tick(self, loss: SupportsFloat | None = None, tokens: int | None = None, **more: Any) -> None:
        """The end of a step that began at the tick before. The first one only starts the clock: nobody knows when
        its step began."""
        if self._file < 0:
            return
        value = None if loss is None else float(loss)
        now = time.perf_counter()
        if self._last:
            self.write(now - self._last, value, tokens, more)
        self._last = now

    def write(self, seconds: float, loss: float | None, tokens: int | None, more: dict[str, Any]) -> None:
        """One line. A loss that is no number is null, with its name in `loss_is`."""
        if self._file < 0:
            return
        line: dict[str, Any] = {"step": self._next, "seconds": seconds, "loss": loss, "tokens": tokens}
        if loss is not None and not math.isfinite(loss):
            line |= {"loss": None, "loss_is": str(loss)}
        self._next += 1
        self._append(line | more)

    def _append(self, line: dict[str, Any]) -> None:
        data = _encode(line) + b"\n"
        try:
            if os.write(self._file, data) == len(data):
                return
            why = "the disc is full"
        except OSError as error:
            why = str(error.strerror)
        self.close()
        warnings.warn(f"commbench records no more steps in {self._folder}: {why}", RuntimeWarning, stacklevel=4)

    def ddp(self, model: Any) -> None:
        """Writes to ddp-RANK.json what DistributedDataParallel says of itself: the bucket sizes that it really uses.

        DDP makes its final buckets after the first step: call it after some steps, or after each. Beside its words
        stand `gradients` (name, nbytes, elements, dtype, device of each parameter) and `backward_ns`, a row for each
        of the first 20 calls: when the gradients of the last backward pass were ready, in nanoseconds after its
        beginning (`reducer.get_backward_stats`), which torch measures where it logs. Raises CommbenchError where
        `model` is another thing.
        """
        if self._file < 0 or len(self._passes) >= _PASSES:
            return
        try:
            told: dict[str, Any] = dict(model._get_ddp_logging_data())
            gradients = _gradients(model)
        except AttributeError:
            kind = type(model).__name__
            raise CommbenchError(f"StepRecorder.ddp takes a DistributedDataParallel, and this is a {kind}") from None
        ready = list(getattr(model.reducer, "get_backward_stats", list)())
        self._passes.append(ready if len(ready) == len(gradients) else [])
        told |= {"gradients": gradients, "backward_ns": [row for row in self._passes if row]}
        self._write("ddp", told)

    def sharded(self, told: dict[str, Any]) -> None:
        """Writes to fsdp2-RANK.json what FSDP2 made of the model: `modules` (the groups, each its names joined by +),
        `prefetch` and `reshard_after_forward`."""
        if self._file >= 0:
            self._write("fsdp2", told)

    def _write(self, name: str, told: dict[str, Any]) -> None:
        path = self._folder / f"{name}-{self._rank}.json"
        try:
            path.with_suffix(".part").write_bytes(_encode(told))
            path.with_suffix(".part").replace(path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None

    def close(self) -> None:
        """Nothing is written from here on."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _mend(file: int) -> None:
    """Cuts off the half line that a killed process left."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - 65536)
        cut = os.pread(file, end - begin, begin).rfind(b"\n")
        if cut >= 0 or begin == 0:
            keep = begin + cut + 1
            if keep < os.fstat(file).st_size:
                os.ftruncate(file, keep)
            return
        end = begin


def _gradients(model: Any) -> list[dict[str, Any]]:
    """Those of a DDP model, in the order of its reducer."""
    left_out = model.parameters_to_ignore
    return [
        {
            "name": name,
            "nbytes": p.numel() * p.element_size(),
            "elements": p.numel(),
            "dtype": str(p.dtype).removeprefix("torch."),
            "device": p.device.type,
        }
        for name, p in model.module.named_parameters()
        if p.requires_grad and name not in left_out
    ]


class Recorded(msgspec.Struct, frozen=True):
    """A step's line in a steps file: seconds, the loss of this rank, its tokens.

    `loss_is` names a loss that was no number. Times of the reference job (seconds; ready_us: microseconds after the
    beginning of the backward pass, in the order of the model's parameters) are None for other jobs.
    """

    step: int
    seconds: float
    loss: float | None = None
    tokens: int | None = None
    loss_is: str = ""
    forward_s: float | None = None
    backward_s: float | None = None
    optimizer_s: float | None = None
    exposed_s: float | None = None
    ready_us: tuple[float, ...] | None = None


class _Start(msgspec.Struct):
    environment: dict[str, str]


def _is_start(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=_Start)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def read_steps(folder: Path) -> dict[int, list[Recorded]]:
    """rank -> its steps; empty where nothing was recorded.

    A torn last line is dropped. Where a rank was started again (a line about its start, or its steps begin at 0 again)
    the last start counts. Raises ReadError, with file and line, where a line is no step.
    """
    found: dict[int, list[Recorded]] = {}
    decode = msgspec.json.Decoder(Recorded).decode
    for path in folder.glob("steps-*.jsonl"):
        rank = path.stem.removeprefix("steps-")
        if not (rank.isascii() and rank.isdigit()):
            raise ReadError(f"{path}: the name of a file of steps is steps-RANK.jsonl")
        steps = found.setdefault(int(rank), [])
        try:
            *lines, _ = path.read_bytes().split(b"\n")
        except OSError as error:
            raise ReadError(f"{path}: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            try:
                step = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if not _is_start(line):
                    raise ReadError(f"{path}:{number}: is no step: {error}") from None
                steps.clear()
                continue
            if step.step < 0 or step.seconds < 0:
                raise ReadError(f"{path}:{number}: step {step.step} of {step.seconds} s: neither can be negative")
            if steps and step.step <= steps[-1].step:
                steps.clear()
            steps.append(step)
    return dict(sorted(found.items()))
