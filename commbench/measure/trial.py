"""One start of a job that is not ours: its own process group, a deadline, its steps, and nothing left behind.

A job tells its steps through `StepRecorder` (files in the folder that COMMBENCH_STEPS names), or in its output, where
a pattern finds them. Nobody knows what a stranger's job starts: every process that it makes inherits COMMBENCH_TRIAL,
a word that no other process has, and by it those are found that left the process group (torchrun's and mpirun's do).
"""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from commbench.errors import LaunchError, StoreError
from commbench.measure import launch
from commbench.measure.guard import kill_marked
from commbench.measure.told import STEPS, Step, beside, in_files, in_output
from commbench.measure.witness import Witness
from commbench.stats.trials import Restart, Side

TOKEN = "COMMBENCH_TRIAL"
SEED = "COMMBENCH_SEED"
LOG = "output.log"
_GRACE = 5.0  # seconds between asking a job to end and killing it
_LEFT = 10.0  # seconds in which killed processes are gone
_LOOK = 0.3  # seconds until the ranks are looked for
_LOOK_AGAIN = 1.5  # times as late for the next look, until they are all there: it takes time from the job
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
        told = named["seconds"] if "seconds" in named else match[1]
        if told is None:  # the group is optional, and this line has no figure
            return None
        return Step(
            number=int(named["step"]) if named.get("step") else None,
            seconds=float(told) * self.unit,
            loss=float(named["loss"]) if named.get("loss") else None,
        )


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
        if wanted.pattern:
            made |= in_output(ended.steps) | beside(wanted.folder, wanted.watched)
            made |= ended.seen if made.get("seen") is None else {}
        else:
            made |= in_files(wanted.folder, wanted.watched)
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
    seen: dict[str, Any]  # what the ranks were given, where somebody looked


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
        # A job that writes no files is looked at from outside.
        self._witness = Witness(f"{TOKEN}={self._token}", wanted.watched) if wanted.pattern else None
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
        look = _LOOK
        try:
            while self._process.poll() is None:
                time.sleep(0.02)
                now = time.monotonic()
                if now - since > 0.5 and (found := self._life()) != life:
                    life, since = found, now
                if self._witness and look and now - self._began > look:
                    look = 0.0 if self._witness.look() else _LOOK_AGAIN * look
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
        seen = self._witness.told if self._witness else {}
        return _Ended(self._process.returncode, wall, stopped, self._steps, words, self._odd, seen)

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
