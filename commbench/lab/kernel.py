"""The few system calls of Linux that a lab needs and Python (before 3.12) does not offer."""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
BIND, REC, PRIVATE = 0x1000, 0x4000, 0x40000
_PDEATHSIG = 1
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40


def unshare(flags: int) -> None:
    """This process gets namespaces of its own. Raises OSError."""
    _call("unshare", flags)


def setns(pid: int, *kinds: str) -> None:
    """This process joins the namespaces (`net`, `uts`, `ipc`, `mnt`, ...) of another. Raises OSError."""
    handles = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
    for handle in handles:
        _call("setns", handle, 0)
        os.close(handle)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Raises OSError."""
    _call(
        "mount", source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )


def die_with_parent() -> None:
    """SIGKILL for this process when its parent dies. To be asked for again after every change of user."""
    _call("prctl", _PDEATHSIG, signal.SIGKILL)


def become_root() -> None:
    """A plain user becomes root of a user namespace of its own, which may do everything to its own namespaces only.

    Raises OSError where the kernel forbids it.
    """
    user, group = os.geteuid(), os.getegid()
    unshare(NEWUSER)
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def running(interface: str) -> bool:
    """Whether an interface of this process's network is up, has a carrier, and the kernel has noticed both."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sH22x", interface.encode(), 0))
    return bool(struct.unpack_from("H", request, 16)[0] & _IFF_RUNNING)


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
