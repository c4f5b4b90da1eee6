"""What makes launchers and libraries use a lab's hosts and networks by themselves: files and variables.

Inside a lab plain `mpirun -n 4 CMD` starts ranks on all of its hosts: Open MPI and MPICH read the hosts from a
file, reach them by the lab's agent in the place of ssh, and find the lab's networks by variables.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from commbench.lab.addresses import Plan
from commbench.records import Fabric

_AGENT = """#!{python}
import sys
sys.path[:0] = {path}
from commbench.lab.agent import as_ssh
sys.argv.insert(1, {folder!r})
as_ssh()
"""


def files(fabric: Fabric, plan: Plan, folder: Path) -> Iterator[tuple[str, str, int]]:
    """(name, text, mode) of the files in a lab's folder that launchers are pointed to."""
    here = [str(Path(__file__).resolve().parents[2])]
    yield "agent", _AGENT.format(python=sys.executable, path=here, folder=str(folder)), 0o755
    yield "hosts.openmpi", "".join(f"{host.name} slots={host.ranks}\n" for host in fabric.hosts), 0o644
    yield "hosts.mpich", "".join(f"{host.name}:{host.ranks}\n" for host in fabric.hosts), 0o644
    names = [f"{address} {name}\n" for name, address in plan.names.items()]
    yield "nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n", 0o644  # nobody answers DNS in a lab
    yield "hosts", "".join(["127.0.0.1 localhost\n", *names]), 0o644


def variables(fabric: Fabric, plan: Plan, folder: Path, host: str) -> dict[str, str]:
    """For every command in `host`."""
    own = ",".join(i.name for i in plan.interfaces if i.node == host and i.address)
    networks = ",".join(plan.networks)
    found = {
        "COMMBENCH_LAB": str(folder),
        # Launchers keep sockets there under names of host and process, which are the same in every lab.
        "TMPDIR": str(folder / "tmp"),
        "GLOO_SOCKET_IFNAME": own,
        "NCCL_SOCKET_IFNAME": own,
        # Ranks of different hosts may share one GPU, if NCCL takes the hosts for what they stand for.
        "NCCL_HOSTID": host,
        "NCCL_NET": "Socket",
        "NCCL_P2P_DISABLE": "1",
        "NCCL_SHM_DISABLE": "1",
        "PRTE_MCA_plm_ssh_agent": str(folder / "agent"),
        "PRTE_MCA_prte_default_hostfile": str(folder / "hosts.openmpi"),
        "PRTE_MCA_prte_if_include": plan.networks[0],  # mpirun's own messages: with two networks it was seen to crash
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm,tcp",
        "OMPI_MCA_btl_tcp_if_include": networks,
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": str(folder / "agent"),
        "HYDRA_HOST_FILE": str(folder / "hosts.mpich"),
        "HYDRA_IFACE": own.split(",")[0],
    }
    if os.geteuid() == 0:  # also a plain user, in the lab's user namespace
        found |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if sum(h.ranks for h in fabric.hosts) > len(os.sched_getaffinity(0)):
        # Ranks that poll while they wait would keep the others of this one machine from running at all.
        found["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return found
