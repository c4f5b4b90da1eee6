"""Ends what a killed commbench would leave behind: a stranger's ranks do not know of it, and outlive their launcher.

A process in a session of its own that waits until the other end of its pipe is gone, whatever has closed it. It is run
as a file, with the standard library alone: it starts in some ten milliseconds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_LEFT = 10.0  # seconds in which killed processes are gone


@contextlib.contextmanager
def guarded(mark: str) -> Iterator[None]:
    """However this ends, also by SIGKILL: no process of this machine is left whose environment holds `mark`."""
    command = [sys.executable, "-I", "-S", __file__, mark]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True):
        yield  # then the pipe is closed, and the guard waited for


def kill_marked(mark: bytes) -> int:
    """Kills every process of this machine whose environment holds the mark; how many there were. 0 without a /proc.

    A number of a process may come to stand for another one: the handle is taken first, the mark looked up after it.
    """
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark not in (entry / "environ").read_bytes():
                continue
            handle = os.pidfd_open(int(entry.name))
            try:
                if mark in (entry / "environ").read_bytes():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    found += 1
            finally:
                os.close(handle)
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()
    until = time.monotonic() + _LEFT
    while kill_marked(os.fsencode(sys.argv[1])) and time.monotonic() < until:
        time.sleep(0.02)
