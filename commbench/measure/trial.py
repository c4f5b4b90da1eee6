"""One start of a job that is not ours: its own process group, a deadline, its steps, and nothing left behind.

A job tells its steps through `StepRecorder` (files in the folder that COMMBENCH_STEPS names), or in its output, where
a pattern finds them. Nobody knows what a stranger's job starts: every process that it makes inherits COMMBENCH_TRIAL,
a word that no other process has, and by it those are found that left the process group (torchrun's and mpirun's do).
"""

import collections
import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from commbench.errors import LaunchError, StoreError
from commbench.measure import launch
from commbench.measure.guard import kill_marked
from commbench.stats.trials import Restart, Side

TOKEN = "COMMBENCH_TRIAL"
STEPS = "COMMBENCH_STEPS"
SEED = "COMMBENCH_SEED"
LOG = "output.log"
_GRACE = 5.0  # seconds between asking a job to end and killing it
_LEFT = 10.0  # seconds in which killed processes are gone
_LINE = 65536  # characters of a line of output
_LOG_BYTES = 64 * 2**20
_MOST_STEPS = 1_000_000
_RAISED = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Interrupt): \S")  # torchrun prints twenty lines of its own below it


class Pattern(NamedTuple):
    """What finds a step in the job's output: group `seconds` (or the only one), and `step` and `loss` where named.

    `unit`: seconds of one of what it finds.
    """

    regex: "re.Pattern[str]"
    unit: float = 1.0

    def find(self, line: str) -> "Step | None":
        """ValueError where a match is no number."""
        match = self.regex.search(line)
        if not match:
            return None
        named = match.groupdict()
        return Step(
            number=int(named["step"]) if named.get("step") else None,
            seconds=float(named.get("seconds") or match[1]) * self.unit,
            loss=float(named["loss"]) if named.get("loss") else None,
        )


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step as one rank, or the log, tells it."""

    number: int | None = None
    seconds: float
    loss: float | None = None
    tokens: float | None = None


class Limits(NamedTuple):
    """Seconds: of the whole start, and without a new step or line of output."""

    deadline: float
    patience: float


class Wanted(NamedTuple):
    """One start that is asked for. `settings`: variables of this side; `watched`: those whose values are recorded."""

    side: Side
    round: int
    argv: Sequence[str]
    environment: Mapping[str, str]
    watched: Sequence[str]
    folder: Path
    pattern: Pattern | None = None


def restart(wanted: Wanted, limits: Limits) -> Restart:
    """Starts the job, waits for its end, reads its steps. What goes wrong with it is `why` of the answer.

    LaunchError where there is no such program, StoreError where the folder cannot be written.
    """
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        log = (wanted.folder / LOG).open("wb")
    except OSError as error:
        raise StoreError(f"{wanted.folder}: {error.strerror or error}; the restarts are kept there") from error
    with log, tempfile.TemporaryDirectory(prefix="commbench-", ignore_cleanup_errors=True) as session:
        ended = _Job(wanted, log, session).wait(limits)
    made: dict[str, Any] = {"side": wanted.side, "round": wanted.round, "wall_seconds": ended.wall}
    try:
        made |= in_output(ended.steps) if wanted.pattern else in_files(wanted.folder, wanted.watched)
        trouble = ""
    except ValueError as error:
        trouble = str(error)
    return Restart(**made, code=None if ended.stopped else ended.code, why=_why(ended, made, trouble))


class _Ended(NamedTuple):
    code: int
    wall: float
    stopped: str
    steps: list[Step]
    words: str  # what the job said last, its own error before all else
    odd: str  # what the pattern found and is no number


def _why(ended: _Ended, made: Mapping[str, Any], trouble: str) -> str:
    """The first thing that makes a start no answer, with what the job said last."""
    said = f"; its last words: {ended.words}" if ended.words else "; it printed nothing"
    steps = len(made.get("seconds", ()))
    if ended.stopped:
        return f"{ended.stopped}, after {steps} steps{said}"
    if ended.code < 0:
        return f"ended by signal {-ended.code}, after {steps} steps{said}"
    if ended.code:
        return f"exit code {ended.code}, after {steps} steps{said}"
    if ended.odd:
        return f"--step-regex found {ended.odd!r}, which is no time"
    return trouble


class _Job:
    """A running start: the process, the thread that listens to it, and what was heard."""

    def __init__(self, wanted: Wanted, log: IO[bytes], session: str) -> None:
        self._wanted, self._log = wanted, log
        self._token = uuid.uuid4().hex
        self._tail: collections.deque[str] = collections.deque(maxlen=3)
        self._raised = ""
        self._steps: list[Step] = []
        self._odd, self._heard, self._logged = "", 0, 0
        self._began = time.monotonic()
        environment = {launch.SESSION: session, **wanted.environment}
        environment |= {TOKEN: self._token, STEPS: str(wanted.folder.absolute()), SEED: str(wanted.round)}
        try:
            self._process = subprocess.Popen(
                wanted.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                preexec_fn=launch.die_with_parent if sys.platform == "linux" else None,
                env=environment,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise LaunchError(f"{wanted.argv[0]}: cannot be started: {reason}") from None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said, contextlib.suppress(ValueError):
            while line := said.readline(_LINE):
                self._heard += len(line)
                if self._logged < _LOG_BYTES:
                    with contextlib.suppress(OSError):
                        self._logged += self._log.write(line.encode(errors="replace"))
                if any(map(str.isalnum, line)):
                    self._tail.append(line.strip()[:300])
                if not self._raised and _RAISED.search(line):  # those of the other ranks are its echo
                    self._raised = line.strip()[:300]
                self._look(line)

    def _look(self, line: str) -> None:
        if self._wanted.pattern is None or len(self._steps) >= _MOST_STEPS:
            return
        try:
            step = self._wanted.pattern.find(line)
        except ValueError:
            self._odd = self._odd or line.strip()[:120]
            return
        if step:
            self._steps.append(step)

    def wait(self, limits: Limits) -> _Ended:
        """Waits for the end or for a limit; no process of the job is left when this returns, whatever happens."""
        stopped = ""
        life, since = self._life(), time.monotonic()
        try:
            while self._process.poll() is None:
                time.sleep(0.02)
                now = time.monotonic()
                if now - since > 0.5 and (found := self._life()) != life:
                    life, since = found, now
                if now - self._began > limits.deadline:
                    stopped = f"not done in {limits.deadline:.3g} s"
                elif now - since > limits.patience:
                    stopped = f"no step and no output for {limits.patience:.3g} s"
                if stopped:
                    break
            wall = time.monotonic() - self._began
        finally:
            self._end()
            self._listener.join(2.0)
        words = self._raised or " | ".join(self._tail)
        return _Ended(self._process.returncode, wall, stopped, self._steps, words, self._odd)

    def _life(self) -> int:
        """A number that grows while the job prints or writes steps."""
        sizes = 0
        for path in self._wanted.folder.glob("steps-*.jsonl"):
            with contextlib.suppress(OSError):
                sizes += path.stat().st_size
        return self._heard + sizes

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        until = time.monotonic() + _LEFT
        while kill_marked(f"{TOKEN}={self._token}".encode()) and time.monotonic() < until:
            time.sleep(0.02)


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
    told = [rank.environment for rank in ranks if rank.environment is not None]
    seen = {name: tuple(sorted({own.get(name, "") for own in told})) for name in watched}
    return {
        **_together([list(steps) for steps in zip(*(rank.steps for rank in ranks), strict=True)]),
        "world": world,
        "seen": seen if len(told) == len(ranks) else None,
        "buckets": _buckets(folder),
    }


class _Rank(NamedTuple):
    steps: list[Step]
    environment: dict[str, str] | None
    world: int | None


class _Line(msgspec.Struct):
    """A line of a step file: the first may tell the surroundings, later ones a step each; more fields are allowed."""

    step: int | None = None
    seconds: float | None = None
    loss: float | None = None
    tokens: float | None = None
    environment: dict[str, str] | None = None
    world: int | None = None


def _read(path: Path) -> _Rank:
    """A rank's file; a torn last line is dropped."""
    steps, environment, world = [], None, None
    decode = msgspec.json.Decoder(_Line).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                found = decode(line)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path.name}:{number}: no step: {error}") from None
            environment = found.environment if found.environment is not None else environment
            world = found.world or world
            if found.seconds is not None:
                steps.append(Step(number=found.step, seconds=found.seconds, loss=found.loss, tokens=found.tokens))
    return _Rank(steps, environment, world)


def _buckets(folder: Path) -> tuple[int, ...]:
    """Bytes of DDP's buckets, as rank 0 told them after some steps (`StepRecorder.ddp`); () where it did not."""
    try:
        told = msgspec.json.decode((folder / "ddp-0.json").read_bytes(), type=dict[str, msgspec.Raw])
        sizes = next((told[name] for name in ("rebuilt_bucket_sizes", "bucket_sizes") if name in told), b'""')
        return tuple(int(size) for size in msgspec.json.decode(sizes, type=str).split(",") if size.strip())
    except (OSError, ValueError, msgspec.MsgspecError):
        return ()


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
