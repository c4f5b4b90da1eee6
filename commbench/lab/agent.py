"""Runs a command in hosts of a lab with this process's streams, folder and environment.

`python -m commbench.lab.agent FOLDER HOST[,HOST...] [--] COMMAND...`; several hosts run it at once, with their
number in place of `{host}`. This is also what mpirun calls in the place of ssh (by a script in the lab's folder),
so it imports nothing but the standard library.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

GONE = 4  # the exit code where the lab ended before the command did
_WITH_VALUE = ("-l", "-p", "-o", "-i", "-F", "-E")  # options of ssh that are two words
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class NoLab(Exception):
    """There is no lab (any more) behind a folder."""


def knock(folder: Path) -> socket.socket:
    """A connection to the lab's process 1. Raises NoLab."""
    door = socket.socket(socket.AF_UNIX)
    try:
        door.connect(str(folder / "door"))
    except OSError as error:
        door.close()
        raise NoLab(f"no lab answers in {folder} ({error.strerror})") from None
    return door


def send(door: socket.socket, request: Mapping[str, Any], handles: Sequence[int] = ()) -> None:
    data = json.dumps(request).encode() + b"\n"
    sent = socket.send_fds(door, [data], list(handles)) if handles else 0
    door.sendall(data[sent:])


def ask(folder: Path, **request: Any) -> dict[str, Any]:
    """One question, one answer; an answer with `error` is for the caller to judge. Raises NoLab."""
    with knock(folder) as door:
        send(door, request)
        with door.makefile() as answers:
            line = answers.readline()
    if not line:
        raise NoLab(f"the lab in {folder} ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


def run(folder: Path, hosts: Sequence[str], argv: Sequence[str]) -> int:
    """The first exit code that is not 0; the others are ended then. Signals to this process are passed on."""
    doors = [knock(folder) for _ in hosts]
    for index, (door, host) in enumerate(zip(doors, hosts, strict=True)):
        own = [part.replace("{host}", str(index)) for part in argv] if len(hosts) > 1 else list(argv)
        request = {"do": "exec", "node": host, "argv": own, "cwd": os.getcwd(), "env": dict(os.environ)}
        send(door, request, (0, 1, 2))

    def forward(number: int, frame: FrameType | None) -> None:
        for door in doors:
            with contextlib.suppress(OSError):  # the lab is gone already, as the wait will tell
                send(door, {"do": "signal", "signal": number})

    before: dict[signal.Signals, Callable[..., Any] | int | None] = {}
    for kind in _PASSED_ON:
        before[kind] = signal.signal(kind, forward)
    try:
        return _wait(dict(zip(doors, hosts, strict=True)))
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        for door in doors:
            door.close()


def _wait(doors: Mapping[socket.socket, str]) -> int:
    """The first exit code that is not 0; where several hosts run the command, also says whose it was."""
    with selectors.DefaultSelector() as selector:
        for one in doors:
            selector.register(one, selectors.EVENT_READ, one)
        while selector.get_map():
            for key, _ in selector.select():
                door: socket.socket = key.data
                line = door.recv(65536).partition(b"\n")[0]
                answer = json.loads(line) if line else {"code": GONE}
                if "error" in answer:
                    sys.stderr.write(f"commbench: {answer['error']}\n")
                code = int(answer.get("code", 2))
                if code:
                    if len(doors) > 1:
                        sys.stderr.write(f"lab: the command on {doors[door]} was the first to end, with code {code}\n")
                    return code
                selector.unregister(door)
    return 0


def main() -> None:
    folder, hosts, *command = sys.argv[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    try:
        sys.exit(run(Path(folder), hosts.split(","), command))
    except NoLab as error:
        sys.stderr.write(f"commbench: {error}\n")
        sys.exit(GONE)


def as_ssh() -> None:
    """`agent [-OPTION...] HOST WORD...`: the words are one command line for a shell, as sshd would read them."""
    words = sys.argv[2:]
    while words and words[0].startswith("-"):  # MPICH says -x
        del words[: 2 if words[0] in _WITH_VALUE else 1]
    sys.argv[2:] = [*words[:1], "--", "/bin/sh", "-c", " ".join(words[1:])]
    main()


if __name__ == "__main__":
    main()
