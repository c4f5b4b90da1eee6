"""Where a command's ranks are: in the launch that it is a rank of, on this machine, or on the hosts of a lab."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from commbench.errors import SpecError

if TYPE_CHECKING:
    from commbench.lab.client import Lab
    from commbench.world.discover import Place

IN_A_LAB = "with --lab it may be left out: as many as the hosts are for"  # of -n, in --help
_LISTEN = 2.0  # seconds in which rank 0 speaks


def leave_unless(first: bool, code: int) -> None:
    """All ranks meet the same mistake; the first says so, and must have said it before another one leaves with `code`:
    then the launcher ends them all."""
    if not first:
        time.sleep(_LISTEN)
        sys.exit(code)


def launch_of(place: "Place | None", ranks: int | None, topology: str | None) -> "Place | None":
    """The launch that this process is a rank of; None where commbench is to start the ranks."""
    # One rank that Slurm made (an interactive step of salloc) is a shell, when -n asks for more.
    inside = place if place and not (ranks and place.size == 1) else None
    if inside and ranks and ranks != inside.size:
        raise SpecError(f"-n {ranks} inside a launch of {inside.size} ranks ({inside.source}): leave -n out")
    if inside and topology:
        raise SpecError(f"--lab inside a launch ({inside.source}): commbench starts the lab's ranks itself")
    return inside


def ranks_of(
    inside: "Place | None", ranks: int | None, topology: str | None, command: str, otherwise: int | None = None
) -> int:
    """How many ranks there are or are to be started: where -n does not say, as many as the lab's hosts are for, else
    `otherwise`. SpecError: nobody says, or the topology is wrong."""
    from commbench.spec.topology import load

    hosts = load(topology).fabric.hosts if topology else ()
    found = inside.size if inside else ranks or sum(host.ranks for host in hosts) or otherwise
    if not found:
        raise SpecError(f"how many ranks? commbench {command} -n 2, or mpirun -n 2 commbench {command}")
    return found


def on_hosts(topology: str | None, start: "Callable[[Lab | None], int]") -> int:
    """`start` with the lab of that topology while it lives, or on this machine."""
    if topology is None:
        return start(None)
    from commbench.lab.client import lab
    from commbench.spec.topology import load

    with lab(load(topology)) as net:
        net.script()
        return start(net)
