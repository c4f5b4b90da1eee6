"""Real launches: a few ranks on this machine, the run folder as the result."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from commbench import store
from commbench.records import Measurement, Run

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
MPIRUN = [str(BIN / "mpirun"), "-n", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMBENCH = [sys.executable, "-m", "commbench"]
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "RANK", "PMI_RANK", "SLURM_PROCID")


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> list[str]:
        """What commbench itself said on stderr."""
        return [line.partition("commbench: ")[2] for line in self.err.splitlines() if "commbench: " in line]


def run(command: Sequence[str], timeout: float = 120, **env: str) -> Ended:
    """Runs to the end; the whole process group is gone afterwards."""
    began = time.monotonic()
    process = start(command, **env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{command} did not end in {timeout} s: {out[-2000:]} {err[-2000:]}")
    return Ended(process.returncode, out, err, time.monotonic() - began)


def start(command: Sequence[str], **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )


def ranks_of(folder: Path) -> dict[int, int]:
    """rank -> pid of the live ranks that write to this run folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environ = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(folder).encode() not in command or b"torch.distributed.run" in command:
            continue
        variables = dict(item.split("=", 1) for item in environ if "=" in item)
        rank = next((variables[name] for name in RANK_VARIABLES if name in variables), None)
        if rank is not None:
            found[int(rank)] = int(entry.name)
    return found


def wait_for(what: Callable[[], object], seconds: float = 60) -> object:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s in vain")


def rows(folder: Path) -> int:
    """Whole lines in the journal so far."""
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def load(folder: Path) -> tuple[Run, list[Measurement]]:
    return store.load(folder)


@contextmanager
def small_disc(folder: Path, size: str) -> Iterator[Path]:
    """A small file system of its own, gone afterwards; needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disc: Path) -> Path:
    """Takes all the room that is left."""
    path = disc / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
