"""Hosts that are fit for work, and those that are not, in the forms that launchers read.

good      tested and in order
suspect   all others that took part: accused, tied, not decided, not measured

A name that could be read as something else (an option, a second line, a range) is in no file.
"""

from collections import Counter
from collections.abc import Callable

from commbench.accept.standing import plain, standings
from commbench.records import Run
from commbench.records.verdict import Verdict

# `slots` are the ranks that the host carried in the test.
_FORMS: dict[str, Callable[[str, int], str]] = {
    "openmpi": lambda host, slots: f"{host} slots={slots}\n",
    "mpich": lambda host, slots: f"{host}:{slots}\n",
    # A line a rank: srun -w ./FILE and SLURM_HOSTFILE take a name as often as it is to have a rank.
    "slurm": lambda host, slots: f"{host}\n" * slots,
}


def files(verdict: Verdict, run: Run) -> dict[str, str]:
    """`good.openmpi.hosts` -> content, and so on; of no host an empty file."""
    ranks = Counter(run.machine.hosts[index].name for index in run.machine.host_of)
    where = standings(verdict, run)
    lists = {
        "good": [host for host, standing in where.items() if standing == "fine"],
        "suspect": [host for host, standing in where.items() if standing in ("accused", "open")],
    }
    return {
        f"{kind}.{form}.hosts": "".join(line(host, max(ranks[host], 1)) for host in hosts if plain(host))
        for kind, hosts in lists.items()
        for form, line in _FORMS.items()
    }
