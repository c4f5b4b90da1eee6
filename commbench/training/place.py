"""Is this the machine that a recommendation was made on? Asked by the user's job: neither torch nor MPI is loaded."""

import contextlib
import os
from collections.abc import Iterable
from importlib import metadata

from commbench.records import Host, Machine
from commbench.records.recommendation import Difference, Recommendation, differences, facts_of

_DISTRIBUTIONS = {"nccl": ("nvidia-nccl-cu13", "nvidia-nccl-cu12")}
_OF_THE_JOB = ("ranks", "hosts", "ranks_per_host")  # known when it runs


def elsewhere(found: Recommendation) -> list[Difference]:
    """What differs between the machine and the versions of a recommendation and those here; what is not known on
    one side is not compared. The number of ranks is the job's own and not looked at."""
    from commbench.measure import probe

    here = Machine(
        hosts=(Host(name="here"),), host_of=(0,), launcher="", facts=probe.facts(), fabric=probe.fabric(os.environ)
    )
    known = {name: value for name, value in facts_of(here).items() if name not in _OF_THE_JOB}
    return [*differences(found.machine, known), *differences(found.versions, installed(found.versions))]


def facts() -> dict[str, str]:
    """Facts of this host, with the versions of torch and NCCL that are installed, imported or not."""
    from commbench.measure import probe

    return {**probe.facts(), **installed(("torch", "nccl"))}


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of these libraries as Python's packages have them; one that is no package is left out."""
    found = {}
    for name in names:
        for distribution in _DISTRIBUTIONS.get(name, (name,)):
            with contextlib.suppress(metadata.PackageNotFoundError):  # not known here: not compared
                found[name] = metadata.version(distribution)
    return found
