"""One TCP stream, for `lab check`.

`receive ADDRESS SECONDS` prints its port, then bytes per second; `send ADDRESS PORT` sends until nobody reads.
"""

import contextlib
import socket
import sys
import time

_SETTLE = 0.2  # seconds that are not counted: the bucket is full at first, and TCP starts slowly
_CHUNK = 2**18


def receive(address: str, seconds: float) -> None:
    with socket.create_server((address, 0)) as server:
        server.settimeout(20)
        _tell(server.getsockname()[1])
        peer, _ = server.accept()
        buffer = bytearray(_CHUNK)
        start = time.monotonic()
        while time.monotonic() < start + _SETTLE:
            if not peer.recv_into(buffer):
                return
        count, start = 0, time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            count += peer.recv_into(buffer)
        _tell(count / (now - start))


def _tell(number: float) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def send(address: str, port: int) -> None:
    data = bytes(_CHUNK)
    with contextlib.suppress(ConnectionError), socket.create_connection((address, port), timeout=20) as peer:
        while True:
            peer.sendall(data)


if __name__ == "__main__":
    what, where, last = sys.argv[1:]
    receive(where, float(last)) if what == "receive" else send(where, int(last))
