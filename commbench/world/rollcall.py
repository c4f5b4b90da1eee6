"""Who is missing: a side channel of plain TCP that stays silent until something goes wrong.

Every rank arms a deadline before each step of the measuring loop. When rank 0's passes, it asks all ranks
where they are. A rank that does not answer is stopped or its host is gone; one that answers from an earlier
step is late; if all are in the same step, the library or the network does not move. When rank 0 itself does
not answer, the others find out the same way. No message is sent while things go well, so a measurement is
never disturbed.
"""

import contextlib
import json
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

try:
    import fcntl
except ImportError:  # not POSIX: only the addresses of the host's name are offered
    fcntl = None  # type: ignore[assignment]

from commbench.errors import LaunchError

_ANSWER = 3.0  # seconds that a rank has to answer
_TROUBLE = 5.0  # seconds after which one rank's error ends the job, if the others have not met it
_LATER = 10.0  # other ranks wait this much longer than rank 0, which can say more
_CONNECT = 30.0


class Step(NamedTuple):
    number: int
    what: str
    expires: float  # time.monotonic()


class Trouble(NamedTuple):
    """An error that one rank met in a step: data if all ranks come through it, the end of the job if not."""

    number: int
    since: float  # time.monotonic()
    text: str
    rank: int


class Lost(NamedTuple):
    """Why the job ends: hung, died or raised; the step; the sentence; the ranks that it names.

    `certain`: these ranks were seen to be silent, dead or in error. Else they are only those that did not come out of
    a call, and any of them, or what lies between them, may be at fault.
    """

    kind: str
    what: str
    sentence: str
    ranks: tuple[int, ...]
    certain: bool


def addresses() -> list[str]:
    """This host's IPv4 addresses, loopback last."""
    found = []
    if fcntl is not None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                request = name.encode()[:15].ljust(40, b"\0")
                with contextlib.suppress(OSError):  # an interface without an address
                    found.append(socket.inet_ntoa(fcntl.ioctl(probe.fileno(), 0x8915, request)[20:24]))  # SIOCGIFADDR
    with contextlib.suppress(OSError):
        found.append(socket.gethostbyname(socket.gethostname()))
    return sorted(dict.fromkeys([*found, "127.0.0.1"]), key=lambda address: address.startswith("127."))


class RollCall:
    """One a rank. Rank 0 listens; the others keep one idle connection to it."""

    def __init__(self, rank: int, size: int, share: Callable[[bytes], bytes], say: Callable[[str], None]) -> None:
        self._say = say
        self._rank, self._names = rank, [f"rank {r}" for r in range(size)]
        self._step = Step(0, "start", float("inf"))
        self._lock = threading.Lock()
        self._peers: dict[int, socket.socket] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._trouble: Trouble | None = None
        self._settled = 0  # the last step in which all ranks came to tell how they fared
        self._closing = False
        self._extended = (0, 0.0)  # (step number, until): a step that rank 0 was asked about, and lives
        self._out_of_call = False  # this rank has left the call of its step and waits for the others
        # Rank 0 calls it before the job ends.
        self.on_end: Callable[[Lost], None] = lambda lost: say(f"{lost.kind}: {lost.sentence} in {lost.what}")
        if rank == 0:
            server = socket.create_server(("", 0), backlog=size, reuse_port=False)
            offer = {"port": server.getsockname()[1], "addresses": addresses(), "host": socket.gethostname()}
            share(json.dumps(offer).encode())
            _accept(server, size - 1, self._peers)
        else:
            offer = json.loads(share(b""))
            self._peers[0] = _connect(offer, rank)
        for peer in self._peers.values():
            peer.settimeout(None)
        self.reached = self._peers[0].getpeername()[0] if rank else ""
        threading.Thread(target=self._watch, name="commbench-rollcall", daemon=True).start()

    def name(self, names: Sequence[str]) -> None:
        """How ranks are called in messages (with host and pid), once that is known."""
        self._names = list(names)

    @contextlib.contextmanager
    def step(self, what: str, seconds: float) -> Iterator[None]:
        """Everything inside must end within `seconds` on every rank."""
        previous = self._step
        self._out_of_call = False
        self._step = Step(previous.number + 1, what, time.monotonic() + seconds)
        try:
            yield
        finally:
            self._step = Step(self._step.number + 1, f"after {what}", float("inf"))

    def out_of_call(self) -> None:
        """What the step is about is done on this rank; where others stay inside, it is not among the suspects."""
        self._out_of_call = True

    def report(self, text: str) -> None:
        """This rank met an error; unless all ranks come to `settled`, rank 0 ends the job with it."""
        trouble = Trouble(self._step.number, time.monotonic(), f"{self._names[self._rank]} raised {text}", self._rank)
        if self._rank == 0:
            self._trouble = trouble
        else:
            _send(self._peers[0], {"say": "trouble", "number": trouble.number, "text": trouble.text})

    def settled(self) -> None:
        """All ranks have told rank 0 how they fared: a reported error is data now."""
        self._settled = self._step.number

    def close(self) -> None:
        with self._lock:
            self._closing = True
        for peer in self._peers.values():
            _send(peer, {"say": "bye"})

    # -- the watching thread

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, peer in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            buffers: dict[int, bytes] = dict.fromkeys(self._peers, b"")
            while not self._closing:
                self._listen(selector, buffers, 0.5)
                if self._trouble and self._trouble.number <= self._settled:
                    self._trouble = None  # heard of late: that step ended well
                if self._trouble and time.monotonic() > self._trouble.since + _TROUBLE:
                    raised = self._trouble
                    # An error about a connection may be the other end's.
                    own = re.search(r"(?i)connect|peer|socket|timed? ?out", raised.text) is None
                    self._end(Lost("raised", self._step.what, raised.text, (raised.rank,), own))
                self._check_deadline(selector, buffers)

    def _listen(self, selector: selectors.BaseSelector, buffers: dict[int, bytes], timeout: float) -> None:
        for key, _ in selector.select(timeout):
            rank = key.data
            try:
                data = self._peers[rank].recv(65536)
            except OSError:
                data = b""
            if not data:
                selector.unregister(self._peers[rank])
                self._lost(rank)
                continue
            *lines, buffers[rank] = (buffers[rank] + data).split(b"\n")
            for line in lines:
                self._hear(rank, json.loads(line))

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        say = message["say"]
        if say == "where":
            step = self._step
            _send(
                self._peers[rank], {"say": "here", "number": step.number, "what": step.what, "out": self._out_of_call}
            )
        elif say == "here":
            self._answers[rank] = message
        elif say == "trouble":
            self._trouble = self._trouble or Trouble(message["number"], time.monotonic(), message["text"], rank)
        elif say == "end":
            os._exit(message["code"])
        elif say == "bye":
            self._closing = True

    def _lost(self, rank: int) -> None:
        """A connection closed without goodbye: that process is dead."""
        time.sleep(0.3)  # at the end of a run the goodbye and the close come together
        if self._closing:
            return
        if self._rank == 0:
            sentence = f"{self._names[rank]} died: its connection closed"
            self._end(Lost("died", self._step.what, sentence, (rank,), True))
        if self._rank == 1:  # one voice is enough
            self._say(f"rank 0 ({self._names[0]}) died in {self._step.what}; rows measured before are kept")
        os._exit(LaunchError.exit_code)

    def _check_deadline(self, selector: selectors.BaseSelector, buffers: dict[int, bytes]) -> None:
        step = self._step
        later = 0.0 if self._rank == 0 else _LATER
        number, until = self._extended
        if time.monotonic() < max(step.expires + later, until if number == step.number else 0.0):
            return
        self._answers.clear()
        for peer in self._peers.values():
            _send(peer, {"say": "where"})
        until = time.monotonic() + _ANSWER
        while time.monotonic() < until and len(self._answers) < len(self._peers):
            self._listen(selector, buffers, 0.2)
        if self._step.number != step.number:
            return  # it moved on meanwhile: late, but alive
        if self._rank == 0:
            self._end(self._verdict(step))
        if 0 not in self._answers:
            self._say(f"hung: {self._names[0]} does not answer in {step.what}; rows measured before are kept")
            os._exit(LaunchError.exit_code)
        self._extended = (step.number, time.monotonic() + _LATER)

    def _verdict(self, step: Step) -> Lost:
        silent = [rank for rank in self._peers if rank not in self._answers]
        if silent:
            sentence = f"{self._some(silent)} did not answer (stopped, or the host is gone)"
            return Lost("hung", step.what, sentence, tuple(silent), True)
        late = [rank for rank, answer in self._answers.items() if answer["number"] < step.number]
        if late:
            sentence = f"{self._some(late)} did not arrive (still at: {self._answers[late[0]]['what']})"
            return Lost("hung", step.what, sentence, tuple(late), True)
        here = {0: self._out_of_call} | {rank: bool(answer.get("out")) for rank, answer in self._answers.items()}
        stuck = sorted(rank for rank, out in here.items() if not out)
        if 0 < len(stuck) < len(self._names):
            sentence = f"{self._some(stuck)} did not come out of the call, the other ranks did"
            return Lost("hung", step.what, sentence, tuple(stuck), False)
        everybody = f"all {len(self._names)} ranks are inside the call and none moves"
        return Lost("hung", step.what, f"{everybody}: the library or the network is stuck", tuple(stuck), False)

    def _some(self, ranks: Sequence[int]) -> str:
        names = ", ".join(self._names[rank] for rank in ranks[:4])
        return names + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")

    def _end(self, lost: Lost) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        try:
            self.on_end(lost)
        finally:
            self.dismiss(LaunchError.exit_code)

    def dismiss(self, code: int) -> NoReturn:
        """Tells all ranks (from rank 0) to leave with this code, and leaves, whatever the library is stuck in."""
        self._closing = True
        for peer in self._peers.values():
            _send(peer, {"say": "end", "code": code})
        time.sleep(0.2)
        os._exit(code)


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the other end is gone: its reader will notice
        peer.sendall(json.dumps(message).encode() + b"\n")


def _accept(server: socket.socket, expected: int, peers: dict[int, socket.socket]) -> None:
    server.settimeout(_CONNECT)
    with server:
        while len(peers) < expected:
            try:
                peer, _ = server.accept()
                peer.settimeout(5.0)
                hello = peer.recv(8)
            except OSError:
                missing = [rank for rank in range(1, expected + 1) if rank not in peers]
                raise LaunchError(
                    f"ranks {missing[:8]} did not connect to rank 0 within {_CONNECT:g} s; "
                    "is there a firewall between the hosts?"
                ) from None
            if len(hello) == 8:
                peers[int.from_bytes(hello, "little")] = peer


def _connect(offer: dict[str, Any], rank: int) -> socket.socket:
    own = offer["host"] == socket.gethostname()
    tried = sorted(offer["addresses"], key=lambda address: address.startswith("127.") != own)
    until = time.monotonic() + _CONNECT
    while time.monotonic() < until:
        for address in tried:
            with contextlib.suppress(OSError):
                peer = socket.create_connection((address, offer["port"]), timeout=3.0)
                peer.sendall(rank.to_bytes(8, "little"))
                return peer
    raise LaunchError(f"rank {rank} on {socket.gethostname()} reaches rank 0 on none of {', '.join(tried)}")
