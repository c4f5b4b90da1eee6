"""A lab as an object: up when the block is entered, gone when it is left, however it is left.

with lab("star4") as net:
    job = net.launch(["python", "train.py"])
    net.slow("h3", 0.4)
    job.wait()
"""

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from commbench.errors import LaunchError, MissingLibrary, SpecError, nearest
from commbench.lab import agent, blueprint
from commbench.lab.addresses import plan
from commbench.lab.environment import files
from commbench.spec.topology import FAULTS, ScriptedFault, Topology, load

_PATIENCE, _PER_NODE = 60.0, 0.5  # seconds in which a lab is up


def room() -> Path:
    """Where the labs of this user have their folders."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.access(base, os.W_OK):
        return Path(base) / "commbench-lab"
    return Path("/tmp") / f"commbench-lab-{os.geteuid()}"


class Lab:
    """One running lab, `rootless` in a user namespace of its own (as it must be for a plain user, and may be for root).

    Raises LaunchError where it cannot be built, with what is missing.
    """

    def __init__(self, topology: Topology, rootless: bool | None = None) -> None:
        if sys.platform != "linux":
            raise MissingLibrary(f"a lab is made of Linux' network namespaces; this is {sys.platform}")
        self.topology, self.fabric = topology, topology.fabric
        self.plan = plan(self.fabric)
        self.id = f"{self.fabric.name}-{secrets.token_hex(3)}"
        self.folder = room() / self.id
        room().mkdir(mode=0o700, exist_ok=True)
        if room().stat().st_uid != os.geteuid() or room().is_symlink():
            raise LaunchError(f"{room()} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of yours")
        self.folder.mkdir(mode=0o700)
        (self.folder / "tmp").mkdir()
        blueprint.write(self.folder, blueprint.Blueprint(self.id, self.fabric, topology.faults))
        for name, text, mode in files(self.fabric, self.plan, self.folder):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(mode)
        try:
            self._start(os.geteuid() != 0 if rootless is None else rootless)
        except BaseException:  # also Ctrl-C: nobody has entered the block yet that would take the lab down
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start(self, rootless: bool) -> None:
        own, theirs = socket.socketpair()
        with theirs:
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-m", "commbench.lab.keeper", str(self.folder)),
                    *(["--rootless"] if rootless else []),
                ],
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        self._owner = own
        try:
            (self.folder / "pid").write_text(f"{self._keeper.pid} {_began(self._keeper.pid)}")
            line = self._hear()
            if line != "ready":
                raise LaunchError(f"lab {self.fabric.name}: {line or 'its process 1 ended without a word'}")
        except BaseException:
            self._keeper.kill()
            self.down()
            raise

    def _hear(self) -> str:
        """What process 1 says when it has built the lab, or could not."""
        patience = _PATIENCE + _PER_NODE * len(self.fabric.links_of)
        self._owner.settimeout(patience)
        try:
            with self._owner.makefile() as said:
                return said.readline().strip()
        except TimeoutError:
            return f"it was not up after {patience:.0f} s"

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *why: object) -> None:
        self.down()

    def down(self) -> None:
        """Ends every process of the lab, and with them its network. Safe to call again."""
        self._owner.close()
        try:
            self._keeper.wait(5.0)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # process 1 dies with it, and everybody with process 1
            self._keeper.wait()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- running things

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host.name for host in self.fabric.hosts)

    def command(self, argv: Sequence[str], *hosts: str) -> list[str]:
        """The command that runs `argv` in a host (the first one), or on several at once, from outside."""
        names = hosts or self.hosts[:1]
        for name in names:
            if name not in self.fabric.links_of:
                raise SpecError(f"lab {self.fabric.name} has no host {name!r}; {nearest(name, self.fabric.links_of)}")
        return [sys.executable, "-m", "commbench.lab.agent", str(self.folder), ",".join(names), "--", *argv]

    def run(self, argv: Sequence[str], *hosts: str, **how: Any) -> "subprocess.CompletedProcess[str]":
        """Runs a command in a host to its end; `how` as in subprocess.run."""
        return subprocess.run(self.command(argv, *hosts), **{"text": True, "check": False, **how})

    def launch(self, argv: Sequence[str], *hosts: str, **how: Any) -> "subprocess.Popen[str]":
        """Starts a command in a host (the first one); inside, mpirun reaches all hosts by itself."""
        return subprocess.Popen(self.command(argv, *hosts), **{"text": True, **how})

    # -- faults

    def slow(self, target: str, share: float) -> None:
        """A link, or all links of a host, at a share (0 to 1) of the declared rate."""
        self._fault("slow", target, share=share)

    def down_link(self, target: str) -> None:
        self._fault("down", target)

    def up(self, target: str) -> None:
        self._fault("up", target)

    def flap(self, target: str, period: float) -> None:
        """Down for half of `period` seconds, up for the other half, again and again."""
        self._fault("flap", target, period=period)

    def pause(self, host: str) -> None:
        self._fault("pause", host)

    def resume(self, host: str) -> None:
        self._fault("resume", host)

    def starve(self, host: str, share: float) -> None:
        """The host's processes run a share of the time."""
        self._fault("starve", host, share=share)

    def loss(self, target: str, share: float) -> None:
        """A share of the packets is dropped."""
        self._fault("loss", target, share=share)

    def _fault(self, kind: Any, target: str, share: float | None = None, period: float | None = None) -> None:
        inject(self.folder, ScriptedFault(at=0.0, kind=kind, target=target, share=share, period=period))

    def script(self) -> None:
        """The clock of the topology's scripted faults starts now."""
        _asked(self.folder, do="script")

    def events(self) -> list[dict[str, Any]]:
        """What was put in so far: time (seconds since the epoch), kind, target, share, how."""
        return events(self.folder)


def lab(topology: "str | Path | Topology", rootless: bool | None = None) -> Lab:
    """Brings a lab up: the name of a shipped topology, a file, or a Topology."""
    return Lab(topology if isinstance(topology, Topology) else load(str(topology)), rootless)


def inject(folder: Path, fault: ScriptedFault) -> None:
    """Puts a fault into a running lab. Raises SpecError where it has no such target, or the amount makes no sense."""
    fabric = blueprint.read(folder).fabric
    names = {"host": [host.name for host in fabric.hosts], "link": [link.name for link in fabric.links]}
    what = FAULTS[fault.kind].targets
    known = [name for one in what for name in names[one]]
    if fault.target not in known:
        raise SpecError(
            f"{fault.kind}: this lab has no {' or '.join(what)} {fault.target!r}; {nearest(fault.target, known)}"
        )
    if fault.share is not None and not (0 < fault.share <= 1 or (fault.share == 0 and fault.kind == "loss")):
        raise SpecError(f"{fault.kind} {fault.target}: {fault.share:g} is not a share; it is more than 0 and at most 1")
    if fault.period is not None and not 0 < fault.period < math.inf:
        raise SpecError(f"{fault.kind} {fault.target}: {fault.period:g} is not a time; write seconds, as in 0.2")
    _asked(folder, do="fault", fault=msgspec.to_builtins(fault))


def _asked(folder: Path, **request: Any) -> Mapping[str, Any]:
    try:
        answer = agent.ask(folder, **request)
    except agent.NoLab as error:
        raise LaunchError(str(error)) from None
    if "error" in answer:
        raise LaunchError(str(answer["error"]))
    return answer


def events(folder: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return []


# -- all labs of this user


class Found(NamedTuple):
    """A lab that has a folder here. `alive` is false where only the folder is left."""

    id: str
    folder: Path
    pid: int
    alive: bool
    status: Mapping[str, Any]


def labs() -> list[Found]:
    """All labs of this user, also those whose tool was killed."""
    found = []
    for folder in sorted(room().glob("*/")) if room().is_dir() else ():
        pid = next(_numbers(folder / "pid"), 0)
        alive = bool(_process(folder))
        status: Mapping[str, Any] = {}
        with contextlib.suppress(agent.NoLab):  # it is being built, or it is dead
            status = agent.ask(folder, do="status")
            alive = True  # from inside a lab the numbers of processes outside cannot be judged
        found.append(Found(folder.name, folder, pid, alive, status))
    return found


def remove(found: Found) -> None:
    """Ends a lab that this process did not start, and clears away its folder."""
    with contextlib.suppress(agent.NoLab):
        agent.ask(found.folder, do="down")
    until = time.monotonic() + 3.0
    while (pid := _process(found.folder)) and time.monotonic() < until:
        time.sleep(0.05)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(found.folder, ignore_errors=True)


def _process(folder: Path) -> int:
    """The process whose end is the end of the lab; 0 where it has ended, or cannot be seen from here."""
    pid, began = (*_numbers(folder / "pid"), 0, 0)[:2]
    return pid if pid and _began(pid) == began else 0


def _numbers(path: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        yield from map(int, path.read_text().split())


def _began(pid: int) -> int:
    """When a process started, in the kernel's ticks; 0 where it is not (any more): a pid is used again, this is not."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state in "ZX" else int(fields[18])
