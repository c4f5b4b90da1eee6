"""Where each host stands after a verdict: accused with certainty, fine, or neither. One table for all who act on it."""

import re
from collections.abc import Sequence
from typing import Literal

from commbench.records import Run
from commbench.records.verdict import Component, Reason, Verdict

# accused: a FAIL names it and no other; fine: tested and found in order; open: neither; excluded: took no part.
Standing = Literal["accused", "fine", "open", "excluded"]
_HOST = re.compile(r"(?!(?i:all)$)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")  # Slurm takes ALL for every node


def plain(host: str) -> bool:
    """Whether a host's name can be written into a launcher's file, and given to a scheduler, as it is."""
    return _HOST.fullmatch(host) is not None


def standings(verdict: Verdict, run: Run) -> dict[str, Standing]:
    """Host -> where it stands, hosts in the order of the run. Nothing is fine that was not shown to be."""
    accused = {host for host, _ in accusations(verdict, run)}
    doubted = {host for reason in verdict.reasons for host in hosts(reason, run)} | set(verdict.suspects)
    cleared = set(verdict.cleared) | (set(verdict.coverage.measured_hosts) if verdict.word == "PASS" else set())
    excluded = set(verdict.coverage.excluded)
    found: dict[str, Standing] = {}
    for host in dict.fromkeys((*_names(run), *verdict.coverage.hosts, *verdict.coverage.excluded)):
        if host in accused:
            found[host] = "accused"
        elif host in excluded:
            found[host] = "excluded"
        else:
            found[host] = "fine" if host in cleared and host not in doubted else "open"
    return found


def accusations(verdict: Verdict, run: Run, ties: bool = False) -> list[tuple[str, Reason]]:
    """(host, the first reason that accuses it) of a FAIL, in the order of the reasons.

    A reason accuses a host with certainty where all that it may be lies in this one host. With `ties` every host of
    such a set is accused. A rack's uplink, a path and the fabric are no host's fault.
    """
    found: dict[str, Reason] = {}
    for reason in verdict.reasons if verdict.word == "FAIL" else ():
        if reason.decides != "FAIL":
            continue
        named = [host_of(component, run) for component in (reason.component, *reason.ties)]
        certain = len(set(named)) == 1
        for host in named if certain or ties else ():
            if host is not None:
                found.setdefault(host, reason)
    return list(found.items())


def host_of(component: Component, run: Run) -> str | None:
    """The host that a component is a part of; None: it lies between hosts, or nobody can tell."""
    if component.kind == "host":
        return component.id
    if component.kind == "nic":
        return component.id.rpartition(" rail ")[0] or None
    if component.kind == "rank" and (rank := re.match(r"[0-9]{1,9}(?= |$)", component.id)):
        of = run.machine.host_of
        return run.machine.hosts[of[int(rank[0])]].name if int(rank[0]) < len(of) else None
    return None


def hosts(reason: Reason, run: Run, paths: bool = False) -> tuple[str, ...]:
    """The hosts that a reason blames, certain or not; with `paths` also both ends of a path, which are not at fault."""
    found: dict[str, None] = {}
    for component in (reason.component, *reason.ties):
        if component.kind == "path" and paths:
            found |= dict.fromkeys(_ends(component, _names(run)))
        elif (host := host_of(component, run)) is not None:
            found[host] = None
    return tuple(found)


def _ends(path: Component, names: Sequence[str]) -> tuple[str, ...]:
    """`HOST - HOST`, where a name may hold ` - ` itself."""
    parts = path.id.split(" - ")
    known = set(names)
    for k in range(1, len(parts)):
        ends = " - ".join(parts[:k]), " - ".join(parts[k:])
        if known.issuperset(ends):
            return ends
    return tuple(parts)


def _names(run: Run) -> list[str]:
    return [host.name for host in run.machine.hosts]
