"""Starts ranks on the hosts of a lab: mpirun on the first host, or one torchrun on each."""

from collections.abc import Sequence

from commbench.errors import SpecError
from commbench.lab.client import Lab
from commbench.measure import launch
from commbench.measure.launch import Slots

_PORT = 29500  # of torchrun's store; a lab's ports are its own


def argv(
    net: Lab | None,
    launcher: str,
    ranks: int,
    arguments: Sequence[str],
    backends: Sequence[str],
    hosts: Sequence[Slots] = (),
) -> list[str]:
    """As measure.launch.argv; in a lab on the hosts of `net`, which are filled in order, or on `hosts` alone."""
    if net is None:
        return launch.argv(launcher, ranks, arguments, backends, hosts)
    if launcher == "srun":
        raise SpecError("--lab with --launcher srun: a lab has no Slurm; use mpirun or torchrun")
    if launcher != "torchrun":
        first = [host.name for host in hosts[:1]]
        return net.command(launch.argv(launcher, ranks, arguments, backends, hosts), *first)
    names, each = _chosen(hosts) if hosts else _spread(net, ranks)
    whole = launch.argv(launcher, each, arguments, backends)
    store = ["--nnodes", str(len(names)), "--node-rank", "{host}", "--master-addr", net.plan.names[names[0]]]
    at = whole.index("--standalone")
    return net.command([*whole[:at], *store, "--master-port", str(_PORT), *whole[at + 1 :]], *names)


def _chosen(hosts: Sequence[Slots]) -> tuple[tuple[str, ...], int]:
    if len({host.ranks for host in hosts}) > 1:
        raise SpecError("torchrun starts the same number of ranks on each host; use --launcher mpirun")
    return tuple(host.name for host in hosts), hosts[0].ranks


def _spread(net: Lab, ranks: int) -> tuple[tuple[str, ...], int]:
    """(hosts, ranks on each): as mpirun would fill them; torchrun wants the same number on each."""
    slots = [host.ranks for host in net.fabric.hosts]
    for used in range(1, len(slots) + 1):
        if sum(slots[:used]) == ranks and len(set(slots[:used])) == 1:
            return net.hosts[:used], slots[0]
    if ranks < slots[0]:
        return net.hosts[:1], ranks
    if ranks > sum(slots) and ranks % len(slots) == 0:
        return net.hosts, ranks // len(slots)
    raise SpecError(
        f"-n {ranks}: torchrun starts the same number of ranks on each host, and {net.fabric.name} has "
        f"{len(slots)} hosts for {', '.join(map(str, sorted(set(slots))))} ranks each; try -n {sum(slots)}"
    )
