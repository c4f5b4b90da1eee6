"""What the tests of the lab ask: this machine, from outside of all labs, and the hosts, from inside of one."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from commbench.lab.client import Lab

LAB = [sys.executable, "-m", "commbench", "lab"]


def surroundings() -> dict[str, str]:
    """What no lab may ever change."""
    found = {
        what: subprocess.run(["ip", *what.split()], capture_output=True, text=True, check=True).stdout
        for what in ("-br link", "-br address", "route show table all", "rule")
    }
    found["hosts"] = hashlib.sha256(Path("/etc/hosts").read_bytes()).hexdigest()
    found["named"] = ",".join(sorted(os.listdir("/run/netns"))) if os.path.isdir("/run/netns") else ""
    found["mounts"] = "\n".join(
        sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    )
    return found


def inhabitants(room: Path) -> dict[int, str]:
    """pid -> command of everything that runs in labs whose folders lie in `room`, or holds them."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            environ = (entry / "environ").read_bytes() if command else b""
        except OSError:
            continue
        if str(room).encode() in command or f"COMMBENCH_LAB={room}".encode() in environ:
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def networks(pids: dict[int, str]) -> set[str]:
    """The network namespaces of these processes, without that of the machine itself."""
    found = set()
    for pid in pids:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return found - {os.readlink("/proc/self/ns/net")}


def held(spaces: set[str]) -> set[int]:
    """Processes of the whole machine that are in one of these namespaces."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and networks({int(entry): ""}) & spaces:
            found.add(int(entry))
    return found


def gone(room: Path, seconds: float = 5.0) -> dict[int, str]:
    """Who is still there after a while: the kernel takes a moment to end the processes of a lab."""
    until = time.monotonic() + seconds
    while (left := inhabitants(room)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def said(net: Lab, command: str, host: str = "h1") -> str:
    """What a shell command in a host prints."""
    done = net.run(["sh", "-c", command], host, capture_output=True, timeout=30)
    return (done.stdout + done.stderr).strip()


def connect(net: Lab, source: str, address: str, port: int = 9, patience: float = 1.0) -> str:
    """How it ends to knock at a port where nobody listens: `ConnectionRefusedError` is what shows that packets pass."""
    knock = (
        "import socket, sys, time\n"
        "began = time.monotonic()\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))\n"
        "except OSError as error: print(type(error).__name__, error.errno, time.monotonic() - began < 0.5)\n"
        "else: print('open')\n"
    )
    command = [sys.executable, "-c", knock, address, str(port), str(patience)]
    return net.run(command, source, capture_output=True, timeout=30).stdout.strip()


def reaches(net: Lab, source: str, target: str) -> bool:
    return connect(net, source, target).startswith("ConnectionRefusedError")
