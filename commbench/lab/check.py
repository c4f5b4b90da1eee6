"""Does every link have its rate? One stream of plain sockets over each link, in each direction."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from commbench.errors import LaunchError
from commbench.lab.client import Lab
from commbench.records import Link

_HEADERS = 52  # bytes of IP, TCP and its time stamps in every packet
_FRAME = 14  # bytes of the Ethernet header, which the token bucket counts too
TOLERANCE = 0.05


class Checked(NamedTuple):
    """One direction of a link; rates in bytes per second on the wire, headers included."""

    link: Link
    source: str
    target: str
    measured: float

    @property
    def share(self) -> float:
        """Measured over declared."""
        return self.measured / self.link.rate

    @property
    def ok(self) -> bool:
        return abs(self.share - 1) <= TOLERANCE


def check(net: Lab, seconds: float = 0.5) -> Iterator[Checked]:
    """Measures one direction of one link after the other, `seconds` each, and longer where the rate is not met.

    Raises LaunchError where nothing passes.
    """
    for link in net.fabric.links:
        for source, target in (link.ends, link.ends[::-1]):
            for length in (seconds, 2 * seconds, 4 * seconds):
                found = measure(net, link, source, target, length)
                if found.ok:  # or this machine was busy with something else: a short stop empties no bucket twice
                    break
            yield found


def measure(net: Lab, link: Link, source: str, target: str, seconds: float) -> Checked:
    """One direction of one link. Raises LaunchError where nothing passes."""
    address = {(i.node, i.link): i.address.partition("/")[0] for i in net.plan.interfaces if i.address}
    # A switch that forwards by learning has one address for all of its ports.
    to = address.get((target, link.name)) or address[target, ""]
    payload = _stream(net, source, target, to, seconds)
    return Checked(link, source, target, payload * (link.mtu + _FRAME) / (link.mtu - _HEADERS))


def _stream(net: Lab, source: str, target: str, address: str, seconds: float) -> float:
    """Bytes of payload per second."""
    program = [sys.executable, "-m", "commbench.lab.stream"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    receiver = net.launch([*program, "receive", address, str(seconds)], target, **quiet)
    assert receiver.stdout
    port = receiver.stdout.readline().strip()
    sender = net.launch([*program, "send", address, port], source, **quiet)
    try:
        out, err = receiver.communicate(timeout=30 + seconds)
    except subprocess.TimeoutExpired:
        out, err = "", "no connection"
    finally:
        for process in (sender, receiver):
            process.terminate()
        sender.communicate()
        receiver.communicate()
    if not re.fullmatch(r"[0-9.]+\s*", out):
        said = err.strip().splitlines()
        raise LaunchError(f"lab check: nothing came from {source} to {target} ({address}): {said[-1] if said else '?'}")
    return float(out)
