"""Process 1 of a lab: builds the nodes and their links, runs commands in them, injects faults, and takes all with it.

A lab is one tree of processes in a process namespace of its own, so when this process ends, however it ends,
the kernel kills every other and removes the namespaces and links, which nothing else holds. It dies with the
tool that started it. Nothing is ever made in the namespaces of the machine itself.

The one door is a Unix socket in the lab's folder: JSON lines, and the standard streams of a command as handles.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from commbench.lab import kernel, wiring
from commbench.lab.addresses import Plan, plan
from commbench.lab.blueprint import read
from commbench.lab.environment import variables
from commbench.lab.faults import Faults, Hands, Unavailable
from commbench.lab.timers import Timers
from commbench.spec.topology import ScriptedFault

_HOST = kernel.NEWNET | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWNS
_BATCH = {"ip": ("-batch", "-"), "tc": ("-batch", "-"), "nft": ("-f", "-")}
_SETTLE = 20.0  # seconds in which the links work, however busy the machine
JOINED = ("net", "uts", "ipc", "mnt")  # what a command in a node shares with it
_SYSCTLS = {
    "ipv4/conf/all/rp_filter": "0",  # the two directions may take different ways
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/disable_ipv6": "1",  # every address is one of the plan's
    "ipv6/conf/default/disable_ipv6": "1",
}
_ROUTER = {"ipv4/ip_forward": "1", "ipv4/fib_multipath_hash_policy": "1"}  # equal ways are chosen by connection


class Failed(Exception):
    """The lab cannot be built here; the text says what is missing."""


class Keeper:
    def __init__(self, folder: Path, owner: socket.socket) -> None:
        self._folder, self._owner = folder, owner
        self._print = read(folder)
        self._plan: Plan = plan(self._print.fabric)
        self._pids: dict[str, int] = {}
        self._running: dict[int, tuple[str, socket.socket]] = {}  # pid -> node, who waits for it
        self._selector = selectors.DefaultSelector()
        self._timers = Timers()
        self._faults: Faults | None = None
        self._variables: dict[str, dict[str, str]] = {}
        self._heard: dict[socket.socket, tuple[bytes, list[int]]] = {}  # a request that is not complete yet

    # -- building

    def build(self) -> None:
        """Raises Failed with a sentence."""
        hosts = {host.name for host in self._print.fabric.hosts}
        self._variables = {host: variables(self._print.fabric, self._plan, self._folder, host) for host in hosts}
        waiting = [self._hold(node, node in hosts) for node in self._print.fabric.links_of]
        for pipe in waiting:
            said = os.read(pipe, 500).decode()
            os.close(pipe)
            if said != "ok":
                raise Failed(said or "a node of the lab ended at once")
        self.run_in(None, "ip", wiring.cables(self._print.fabric, self._plan, self._pids))
        links = {link.name: link for link in self._print.fabric.links}
        shapes: dict[str, list[str]] = {}
        for name, pair in wiring.ends(self._plan).items():
            for end in pair:
                shapes.setdefault(end.node, []).append(wiring.shaping(links[name], end))
        for node in self._pids:
            self.run_in(node, "ip", wiring.setup(self._print.fabric, self._plan, node))
            self.run_in(node, "tc", shapes.get(node, ()))
        self._settle()
        hands = Hands(self.run_in, self.pids_of, self._timers.after, time.time)
        self._faults = Faults(self._print.fabric, self._print.faults, self._plan, hands, self._folder / "events.jsonl")

    def _hold(self, node: str, is_host: bool) -> int:
        """Forks a process that does nothing but hold a node's namespaces; returns the pipe on which it says `ok`."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            self._pids[node] = pid
            return reading
        try:
            self._be(node, is_host)
            os.write(writing, b"ok")
        except OSError as error:
            os.write(writing, f"{node}: {error}".encode())
        os.close(writing)
        for handle in (0, self._owner.fileno()):
            with contextlib.suppress(OSError):
                os.close(handle)
        while True:
            signal.pause()

    def _be(self, node: str, is_host: bool) -> None:
        kernel.unshare(_HOST if is_host else kernel.NEWNET)
        if is_host:
            socket.sethostname(node)
            kernel.mount("tmpfs", "/dev/shm", "tmpfs")  # or ranks of different hosts would share memory
            for name in ("hosts", "nsswitch.conf"):
                if Path("/etc", name).exists():
                    kernel.mount(str(self._folder / name), f"/etc/{name}", flags=kernel.BIND)
            with contextlib.suppress(OSError):  # where /sys may not be mounted again it shows the machine's interfaces
                kernel.mount("sysfs", "/sys", "sysfs")
        router = not is_host and self._print.fabric.routing == "shortest"
        for name, value in {**_SYSCTLS, **(_ROUTER if router else {})}.items():
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                Path("/proc/sys/net", name).write_text(value)

    def _settle(self) -> None:
        """Waits until every interface works: the kernel was seen to take a second to notice what is plugged in."""
        pid = os.fork()
        if pid:
            if os.waitpid(pid, 0)[1]:
                raise Failed("the links of the lab did not come up")
            return
        until, code = time.monotonic() + _SETTLE, 1
        try:
            for interface in self._plan.interfaces:
                kernel.setns(self._pids[interface.node], "net")
                while not kernel.running(interface.name) and time.monotonic() < until:
                    time.sleep(0.002)
            code = int(time.monotonic() >= until)
        finally:
            os._exit(code)

    def run_in(self, node: str | None, program: str, lines: Iterable[str]) -> None:
        """Gives lines to ip, tc or nft inside a node (None: outside of all). Raises Failed."""
        text = "\n".join(lines)
        if not text:
            return
        pid = self._pids[node] if node else 0
        try:
            done = subprocess.run(
                [program, *_BATCH[program]],
                input=text + "\n",
                capture_output=True,
                text=True,
                preexec_fn=(lambda: kernel.setns(pid, "net")) if node else None,
            )
        except FileNotFoundError:
            raise Failed(f"the lab needs the program {program}: apt install iproute2 nftables") from None
        if done.returncode:
            said = " ".join(done.stderr.split())
            if program == "tc" and ("Specified qdisc" in said or "No such file" in said):
                raise Failed(f"this kernel has no token bucket filter (sch_tbf), which shapes the lab's links: {said}")
            raise Failed(f"{program} in {node or 'the lab'}: {said}")

    def pids_of(self, host: str) -> list[int]:
        """Processes that run in a host, without the one that holds it."""
        own = os.stat(f"/proc/{self._pids[host]}/ns/net")
        found = {pid for pid, (node, _) in self._running.items() if node == host}  # some are on their way to it still
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != self._pids[host]:
                with contextlib.suppress(OSError):
                    there = os.stat(f"/proc/{name}/ns/net")
                    if there.st_ino == own.st_ino:
                        found.add(int(name))
        return sorted(found)

    # -- serving

    def serve(self) -> None:
        """Until the tool that started this lab closes its end, or somebody says `down`."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        self._selector.register(reading, selectors.EVENT_READ, lambda: self._reap(reading))
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(self._folder / "door"))
        door.listen(64)
        self._selector.register(door, selectors.EVENT_READ, lambda: self._enter(door))
        self._selector.register(self._owner, selectors.EVENT_READ, lambda: sys.exit(0))
        try:
            self._owner.sendall(b"ready\n")
        except OSError:  # nobody waits for it any more
            sys.exit(0)
        while True:
            for key, _ in self._selector.select(self._timers.due()):
                key.data()
            self._timers.run()

    def _enter(self, door: socket.socket) -> None:
        visitor, _ = door.accept()
        self._selector.register(visitor, selectors.EVENT_READ, lambda: self._hear(visitor))

    def _hear(self, visitor: socket.socket) -> None:
        try:
            data, handles, _, _ = socket.recv_fds(visitor, 2**20, 3)
        except OSError:
            data, handles = b"", []
        before, held = self._heard.pop(visitor, (b"", []))
        data, handles = before + data, [*held, *handles]
        if len(data) == len(before):
            self._leave(visitor)
        elif not data.endswith(b"\n"):
            self._heard[visitor] = data, handles
            return
        try:
            for line in data.splitlines():
                request = json.loads(line)
                _REQUESTS[request["do"]](self, visitor, request, handles)
        except Exception as error:  # whatever is asked for, the lab goes on
            known = isinstance(error, (Failed, Unavailable))
            self._answer(visitor, error=str(error) if known else f"{type(error).__name__}: {error}")
        finally:
            for handle in handles:
                os.close(handle)

    def _leave(self, visitor: socket.socket) -> None:
        """Who goes takes along what was run for him."""
        self._selector.unregister(visitor)
        visitor.close()
        for pid, (_, waiting) in list(self._running.items()):
            if waiting is visitor:
                _kill(pid, signal.SIGKILL)

    def _answer(self, visitor: socket.socket, **fields: Any) -> None:
        with contextlib.suppress(OSError):
            visitor.sendall(json.dumps(fields).encode() + b"\n")

    def _reap(self, woken: int) -> None:
        """Collects every process that ended: those of others come to process 1 too."""
        os.read(woken, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._running:
                _, visitor = self._running.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                self._answer(visitor, code=code if code >= 0 else 128 - code)

    # -- what may be asked for

    def _exec(self, visitor: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
        """Runs a command in a host, with the streams, the folder and the environment of who asks."""
        node, argv, cwd, env = request["node"], request["argv"], request["cwd"], request["env"]
        if node not in self._pids:
            raise Failed(f"unknown host {node!r}; known are {', '.join(self._pids)}")
        pid = os.fork()
        if pid:
            self._running[pid] = (node, visitor)
            if self._faults:
                self._faults.born(node, pid)
            return
        code = 127
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for kind in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(kind, signal.SIG_DFL)
            for target, handle in enumerate(handles):
                os.dup2(handle, target)
            os.closerange(3, 2**16)
            kernel.setns(self._pids[node], *(JOINED if node in self._plan.names else ("net",)))
            os.chdir(cwd)
            os.execvpe(argv[0], argv, {**env, **self._variables.get(node, {})})
        except FileNotFoundError as error:
            os.write(2, f"commbench: {argv[0]}: {error.strerror} (in {cwd} of {node})\n".encode())
        except OSError as error:
            os.write(2, f"commbench: {argv[0]} in {node}: {error}\n".encode())
            code = 126
        finally:
            os._exit(code)

    def _signal(self, visitor: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
        for pid, (_, waiting) in list(self._running.items()):
            if waiting is visitor:
                _kill(pid, request["signal"])

    def _fault(self, visitor: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
        assert self._faults
        self._faults.inject(msgspec.convert(request["fault"], ScriptedFault))
        self._answer(visitor, ok=True)

    def _script(self, visitor: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
        """The clock of the topology's scripted faults starts now."""
        assert self._faults
        self._faults.script()
        self._answer(visitor, ok=True)

    def _status(self, visitor: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
        running = {host: len(self.pids_of(host)) for host in self._plan.names}
        self._answer(visitor, processes=running, faults=self._faults.active if self._faults else [])

    def _down(self, visitor: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
        self._answer(visitor, ok=True)
        sys.exit(0)


_REQUESTS: dict[str, Callable[[Keeper, socket.socket, dict[str, Any], Sequence[int]], None]] = {
    "exec": Keeper._exec,
    "signal": Keeper._signal,
    "fault": Keeper._fault,
    "script": Keeper._script,
    "status": Keeper._status,
    "down": Keeper._down,
}


def _kill(pid: int, number: int) -> None:
    """A command that was started here, with all of its group; or it alone, where it has not made its group yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> None:
    """`python -m commbench.lab.keeper FOLDER [--rootless]`, its standard input a socket to the tool that started it."""
    owner = socket.socket(fileno=os.dup(0))
    folder = Path(sys.argv[1])
    try:
        _enter_namespaces(rootless="--rootless" in sys.argv)
        # Only now may a child be made that dies with this process, and it is process 1 of its namespace.
        kernel.die_with_parent()
        pid = os.fork()
        if pid:
            owner.close()
            _, status = os.waitpid(pid, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
        kernel.die_with_parent()
        kernel.mount("none", "/", flags=kernel.REC | kernel.PRIVATE)
        kernel.mount("proc", "/proc", "proc")
        keeper = Keeper(folder, owner)
        keeper.build()
    except (Failed, OSError) as error:
        with contextlib.suppress(OSError):
            owner.sendall(f"{error}\n".encode())
        os._exit(1)
    keeper.serve()


def _enter_namespaces(rootless: bool) -> None:
    try:
        if rootless:
            kernel.become_root()
        kernel.unshare(kernel.NEWNS | kernel.NEWNET | kernel.NEWPID | kernel.NEWIPC)
    except OSError as error:
        what = "user namespaces for plain users" if rootless else "CAP_SYS_ADMIN"
        raise Failed(
            f"this machine does not let a process have namespaces of its own ({error}); needed are {what}: in a "
            "container --privileged, on the machine itself `sysctl user.max_user_namespaces=10000` and, on Debian "
            "and Ubuntu, `sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`"
        ) from None


if __name__ == "__main__":
    main()
