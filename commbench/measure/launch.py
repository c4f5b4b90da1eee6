"""Starts ranks through mpirun, torchrun or srun: an argv list, a process group of its own, a deadline.

The launcher's exit code is never trusted (MPICH was seen to return 0 after a time-out); what counts is the
run folder. No shell, no ssh of our own: reaching other hosts is the launcher's business.
"""

import collections
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from commbench import allowlist
from commbench.errors import CommbenchError, LaunchError, MissingLibrary, SpecError, nearest
from commbench.lab import kernel

_GRACE = 5.0  # seconds between asking the ranks to end and killing them
_TAIL = 60  # lines that are kept: torchrun's report of several hosts is long
_LAB = re.compile(r"^lab: the command on (?P<host>\S+) was the first to end, with code (?P<code>\d+)")
_EXITCODE = re.compile(r"\s*exitcode\s*:\s*-?\d+")  # in torchrun's report of a rank that ended
_PRRTE = re.compile(r"process rank (?P<rank>\d+) with PID \d+ on node (?P<host>[\w.-]+) exited on")
_ALONE = 5.0  # seconds without any rank left, after which a launcher is ended: PRRTE's sometimes waits for ever
# Open MPI 5 names its session folder after mpirun's process number, and does not start where a killed mpirun that had
# the same number left one ("The PMIx server's listener thread failed to start"): each launch gets a place of its own.
SESSION = "PRTE_MCA_prte_local_tmpdir_base"


class Slots(NamedTuple):
    """A host and how many ranks it takes."""

    name: str
    ranks: int


class Died(NamedTuple):
    """A rank that died, and its host as the launcher calls it."""

    rank: int
    host: str
    sentence: str


class Launched(NamedTuple):
    """The launcher's exit code (for the message only), the last lines it printed, and why it was stopped."""

    code: int
    tail: tuple[str, ...]
    stopped: str

    @property
    def why(self) -> str:
        """Why it ended, as far as it can be told: the rank's own sentence, else what torchrun tells of the rank that
        failed first, else the launcher's last lines. No secret."""
        return allowlist.text(self._why())

    def _why(self) -> str:
        if self.stopped:
            return self.stopped
        if said := [line.partition("commbench: ")[2] for line in self.tail if "commbench: " in line]:
            return said[-1]
        if one := next(iter(self._told()), None):
            return f"rank {one.rank} died: {one.sentence}"
        return " | ".join([line.strip() for line in self.tail if line.strip(" -=*")][-3:]) or "it printed nothing"

    @property
    def first_lost(self) -> "Died | None":
        """Who was killed first by a signal that nobody here sent, as the launcher tells; None: it does not.

        A rank that ended by itself may only have met the end of another.
        """
        for line in self.tail:  # process rank 3 with PID 77 on node h4 exited on signal 9 (Killed).
            if match := _PRRTE.search(line):
                return Died(int(match["rank"]), match["host"], allowlist.text(line.strip()))
        if killed := [one for one in self._told() if one.sentence.startswith("Signal")]:
            return killed[0]
        for line in self.tail:  # a torchrun that was killed together with its ranks
            if (match := _LAB.search(line)) and int(match["code"]) > 128:
                return Died(-1, match["host"], line[len("lab: ") :])
        return None

    def _told(self) -> "Iterator[Died]":
        """The failures in torchrun's report, but for ranks that it ended itself."""
        told: dict[str, str] = {}
        for line in self.tail:
            key, _, value = line.partition(":")
            told[key.strip()] = value.strip()
            if (
                key.strip() == "traceback"
                and "Signal 15" not in value
                and (rank := re.match(r"\d+", told.get("rank", "")))
            ):
                yield Died(int(rank[0]), told.get("host", ""), allowlist.text(value.strip()))

    @property
    def refused(self) -> bool:
        """The ranks found a mistake in what they were asked for. torchrun's own code is 1 whatever theirs is."""
        told = {line.partition(":")[2].split()[0] for line in self.tail if _EXITCODE.match(line)}
        return self.code == SpecError.exit_code or told - {f"-{signal.SIGTERM}"} == {str(SpecError.exit_code)}

    def failure(self, what: str, command: Sequence[str], kept: str) -> CommbenchError:
        """The error for a launch that did not do its work; a mistake that the ranks found stays a usage error."""
        sentence = f"{what} ended early (exit {self.code} of {os.path.basename(command[0])}): {self.why}; {kept}"
        return SpecError(sentence) if self.refused else LaunchError(sentence)


def _program(name: str) -> str | None:
    """Beside this Python first: the mpirun of the wheel in this very environment."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mpirun(ranks: int, command: Sequence[str], backends: Sequence[str], hosts: Sequence[Slots]) -> list[str]:
    if importlib.util.find_spec("mpi4py") is None:
        raise MissingLibrary("mpirun needs mpi4py in the ranks: pip install mpi4py")
    program = _program("mpirun") or _program("mpiexec")
    if program is None:
        raise MissingLibrary("there is no mpirun on this machine: pip install 'commbench[mpi]' brings Open MPI's")
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{program} --version: {error}") from None
    options: list[str] = []
    if "Open MPI" in answer.stdout + answer.stderr or "open-mpi" in answer.stdout:
        if os.geteuid() == 0:
            options += ["--allow-run-as-root"]
        if set(backends) & {"gloo", "nccl"}:
            # Open MPI binds each rank to a core, which Gloo's threads would then have to share.
            options += ["--bind-to", "none"]
        if ranks > _usable_cores():
            # Ranks that poll while they wait would keep the others from running at all.
            options += ["--map-by", "slot:OVERSUBSCRIBE", "--mca", "mpi_yield_when_idle", "1"]
        if hosts:
            options += ["--host", ",".join(f"{host.name}:{host.ranks}" for host in hosts)]
    elif hosts:  # Hydra: MPICH and Intel MPI
        options += ["-hosts", ",".join(f"{host.name}:{host.ranks}" for host in hosts)]
    return [program, "-n", str(ranks), *options, *command]


def _torchrun(ranks: int, command: Sequence[str], backends: Sequence[str], hosts: Sequence[Slots]) -> list[str]:
    if len(hosts) > 1:
        raise SpecError("torchrun started here reaches this host only; use mpirun or srun for several")
    if importlib.util.find_spec("torch") is None:
        raise MissingLibrary("torchrun needs PyTorch: pip install torch")
    module = list(command[1:])  # torchrun starts Python itself: `-m commbench ...`
    return [command[0], "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *module]


def _srun(ranks: int, command: Sequence[str], backends: Sequence[str], hosts: Sequence[Slots]) -> list[str]:
    program = _program("srun")
    if program is None:
        raise MissingLibrary("there is no srun on this machine; use --launcher mpirun or torchrun")
    where = ["-N", str(len(hosts)), "-w", ",".join(host.name for host in hosts)] if hosts else []
    return [program, "-n", str(ranks), *where, "--kill-on-bad-exit=1", *command]


LAUNCHERS: dict[str, Callable[[int, Sequence[str], Sequence[str], Sequence[Slots]], list[str]]] = {
    "mpirun": _mpirun,
    "torchrun": _torchrun,
    "srun": _srun,
}


def choose(backends: Sequence[str], env: Mapping[str, str]) -> str:
    """The launcher that suits: srun inside a Slurm allocation, mpirun where MPI is measured, torchrun else."""
    if "SLURM_JOB_ID" in env and _program("srun"):
        return "srun"
    if "mpi" in backends or not importlib.util.find_spec("torch"):
        return "mpirun"
    return "torchrun"


def argv(
    launcher: str, ranks: int, arguments: Sequence[str], backends: Sequence[str], hosts: Sequence[Slots] = ()
) -> list[str]:
    """The whole command that starts `ranks` processes of this Python with `-m commbench ARGUMENTS`, on `hosts` alone
    where they are given."""
    if launcher not in LAUNCHERS:
        raise SpecError(f"--launcher: unknown launcher {launcher!r}; {nearest(launcher, LAUNCHERS)}")
    return LAUNCHERS[launcher](ranks, [sys.executable, "-m", "commbench", *arguments], backends, hosts)


def run(
    command: Sequence[str],
    progress: Callable[[], int],
    patience: float,
    say: Callable[[str], None],
    ranks: int = 0,
    over: Callable[[], bool] = lambda: False,
) -> Launched:
    """Runs the command to its end.

    `progress` gives a number that grows while the job lives (the journal's size); when it has not grown for
    `patience` seconds the whole process group is ended. It is ended too where all `ranks` were seen to be the
    launcher's own children and none of them is left, and some seconds after `over` says that nothing more will come.
    Lines that commbench's ranks print are passed on to `say`; a launcher's own noise is kept for the message.
    """
    with tempfile.TemporaryDirectory(prefix="commbench-", ignore_cleanup_errors=True) as session:
        return _supervised(command, progress, patience, say, ranks, over, session)


def _supervised(
    command: Sequence[str],
    progress: Callable[[], int],
    patience: float,
    say: Callable[[str], None],
    ranks: int,
    over: Callable[[], bool],
    session: str,
) -> Launched:
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
    own: collections.deque[str] = collections.deque(maxlen=1)  # what a rank said last: a long report may push it out
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
        env={SESSION: session, **os.environ},
    )

    def listen() -> None:
        assert process.stdout is not None
        with process.stdout as said:
            for line in said:
                tail.append(line.rstrip())
                if "commbench: " in line:
                    own.append(line.rstrip())
                    say(line.partition("commbench: ")[2].rstrip())

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    stopped = ""
    seen, since = progress(), time.monotonic()
    had, last = False, since  # whether all ranks were here, and when there was last something to wait for
    try:
        while process.poll() is None:
            time.sleep(0.1)
            here = _children(process.pid) if ranks else 0
            had = had or 0 < ranks <= here
            if (here or not had) and not over():
                last = time.monotonic()
            if time.monotonic() - last > _ALONE:
                break
            now = progress()
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > patience:
                stopped = f"no row in {patience:.0f} s"
                break
    finally:
        _end(process)
        reader.join(2.0)
    return Launched(process.returncode, (*(line for line in own if line not in tail), *tail), stopped)


def _children(pid: int) -> int:
    """How many living children a process has; 0 where that cannot be told."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += (task / "children").read_text().split()
    return sum(map(_lives, found))


def _lives(pid: str) -> bool:
    """A child that has ended stays in the table until its parent has asked for its code, which PRRTE's may not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _end(process: "subprocess.Popen[str]") -> None:
    """Nothing of the job is left when this returns."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the one that started it dies: no rank outlives its launcher."""
    with contextlib.suppress(OSError, AttributeError):
        kernel.die_with_parent()
