"""The acceptance test inside a launch: rank 0 asks what the plan asks, and keeps what rows cannot tell."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from commbench import store
from commbench.accept.plan import AcceptPlan
from commbench.errors import FolderError, SpecError
from commbench.jobs import verdict
from commbench.jobs.inside import Bench, Conduct, begin, keep_faults, note_resume
from commbench.jobs.request import Request
from commbench.records import Machine, Measurement, acceptance
from commbench.records import verdict as records
from commbench.records.acceptance import Acceptance, Loss
from commbench.spec import topology
from commbench.spec.accept import AcceptSpec
from commbench.units import format_bytes, format_time
from commbench.world.rollcall import Lost

_FAULTS = {"hung": "hang", "died": "crash", "raised": "crash"}
_TELLS = 10.0  # seconds between two lines about how far it is


class Asked(NamedTuple):
    """An acceptance test as the command line asked for it.

    stop        why to end early, "" while there is no reason
    supervised  the process that started this launch judges, and goes on where it ends early
    """

    spec: AcceptSpec
    request: Request
    stop: Callable[[], str] = lambda: ""
    supervised: bool = False


def conduct(asked: Asked) -> Conduct:
    """Rank 0's part: measures until the plan is done, the time is up or somebody asks to stop."""

    def accept(bench: Bench) -> int:
        spec, folder, clock = asked.spec, asked.request.out, time.monotonic()
        if spec.fabric and bench.machine.fabric is None:
            known = msgspec.structs.replace(bench.machine, fabric=topology.load(spec.fabric).fabric)
            bench = bench._replace(machine=known)
        _refuse(spec, bench)
        kept = verdict.named(spec, bench.machine)
        journal = _journal(bench)
        machine = journal.run.machine
        (folder / records.NAME).unlink(missing_ok=True)  # of before this launch
        verdict.keep(folder, spec, kept)
        happened = _begun(folder, spec, machine, bench.machine)
        here = sorted(set(bench.machine.host_of) - {machine.hosts.index(h) for h in machine.hosts
                                                   if h.name in happened.excluded})  # fmt: skip
        spent = happened.spent

        def over() -> str:
            if reason := asked.stop():
                return reason
            late = spent + time.monotonic() - clock > spec.budget
            return f"the budget of {format_time(spec.budget)} is used up" if late else ""

        plan = AcceptPlan(spec, machine, here, journal.measurements, over)
        if bench.rollcall:
            bench.rollcall.on_end = _on_end(asked, bench, journal, plan, lambda: spent + time.monotonic() - clock)
        tell = _Teller(plan, bench.watcher.say)
        bench.control(None)
        sent = bench.run(plan, _Rounds(journal, plan), tell)
        ended: acceptance.Ended = "signal" if asked.stop() else "budget" if plan.stopped else "done"
        keep(
            folder,
            msgspec.structs.replace(
                read(folder),
                ended=ended,
                stages=plan.left(),
                transport=happened.transport | {host: _shares(devices) for host, devices in sent.items()},
                spent=round(spent + time.monotonic() - clock, 3),
            ),
        )
        keep_faults(folder)
        journal.close()
        return 0

    return accept


def _refuse(spec: AcceptSpec, bench: Bench) -> None:
    """What only the ranks can tell. SpecError: a host to leave out that nobody knows, nobody left, hosts of different
    size."""
    machine = bench.machine
    names = [host.name for host in machine.hosts]
    if unknown := [name for name in spec.exclude if name not in (*names, *spec.expect.names)]:
        raise SpecError(
            f"exclude: {', '.join(unknown[:8])} is no host of this test; known: {', '.join(names[:8])}; correct it or "
            "leave it out"
        )
    lost = read(bench.request.out).excluded if bench.request.resume else {}
    if not {names[host] for host in machine.host_of} - {*spec.exclude, *lost}:
        raise SpecError("every host of this launch is left out (exclude, or lost before); start it on others too")
    each = {name: machine.host_of.count(k) for k, name in enumerate(names) if k in machine.host_of}
    if len(set(each.values())) > 1 and not spec.unequal:
        found = ", ".join(f"{name} {count}" for name, count in list(each.items())[:8])
        raise SpecError(
            f"hosts have different numbers of ranks ({found}); start as many on each, or write unequal: true"
        )


def _journal(bench: Bench) -> store.Journal:
    """The run folder; one that goes on may have fewer hosts, but each with the ranks that it had."""
    request = bench.request
    if not (request.resume and (request.out / "run.json").exists()):
        return begin(request, bench.machine)
    before = store.load_run(request.out).machine
    for host in sorted(set(bench.machine.host_of)):
        was, now = before.host_of.count(host), bench.machine.host_of.count(host)
        if was != now:
            raise FolderError(
                f"{request.out}: {before.hosts[host].name} had {was} ranks when it began and has {now} now; "
                "start it with as many, or choose another --out"
            )
    whole = msgspec.structs.replace(bench.machine, host_of=before.host_of)
    journal = begin(request, whole)
    note_resume(journal, request, whole)
    return journal


def _begun(folder: Path, spec: AcceptSpec, machine: Machine, now: Machine) -> Acceptance:
    """accept.json at the start of a launch."""
    happened = read(folder)
    excluded = dict(happened.excluded)
    for index, host in enumerate(machine.hosts):
        if host.name in spec.exclude:
            excluded.setdefault(host.name, "asked for (exclude)")
        elif index not in now.host_of:
            excluded.setdefault(host.name, "took no part when the test went on")
    if unknown := [name for name in spec.exclude if name not in {host.name for host in machine.hosts}]:
        excluded |= dict.fromkeys(unknown, "asked for (exclude); it has no rank here")
    happened = msgspec.structs.replace(happened, ended="open", excluded=excluded, launches=happened.launches + 1)
    keep(folder, happened)
    return happened


def read(folder: Path) -> Acceptance:
    """accept.json, or a blank one where the test only begins."""
    return acceptance.read(folder) if (folder / acceptance.NAME).exists() else Acceptance()


def keep(folder: Path, happened: Acceptance) -> None:
    store.write_atomically(folder / acceptance.NAME, acceptance.encode(happened))


class _Rounds:
    """The sink: each row is journalled with the number of its round."""

    def __init__(self, journal: store.Journal, plan: AcceptPlan) -> None:
        self._journal, self._plan = journal, plan

    def append(self, rows: Sequence[Measurement]) -> None:
        self._journal.append(self._plan.numbered(rows))


def _on_end(
    asked: Asked, bench: Bench, journal: store.Journal, plan: AcceptPlan, spent: Callable[[], float]
) -> Callable[[Lost], None]:
    """What rank 0 does when the roll call ends the job: the loss stays with the run, a hang is a row too."""

    def end(lost: Lost) -> None:
        if lost.kind == "hung":
            journal.append(plan.numbered(bench.worker.hung(f"{lost.sentence} in {lost.what}", 0)))
        machine = bench.machine
        loss = Loss(
            fault="hang" if _FAULTS[lost.kind] == "hang" else "crash",
            hosts=tuple(dict.fromkeys(machine.hosts[machine.host_of[rank]].name for rank in lost.ranks)),
            ranks=lost.ranks,
            round=plan.round,
            what=lost.what,
            sentence=lost.sentence,
            certain=lost.certain,
        )
        happened = read(journal.folder)
        keep(
            journal.folder,
            msgspec.structs.replace(
                happened, losses=(*happened.losses, loss), stages=plan.left(), spent=round(spent(), 3)
            ),
        )
        keep_faults(journal.folder)
        bench.watcher.say(f"{lost.kind}: {lost.sentence} in {lost.what}")
        if asked.supervised:
            return
        # Nobody comes after this process: what is known by now is judged by now.
        found = verdict.conclude(journal.folder)
        bench.watcher.say(
            f"{found.word} in {journal.folder}; --resume --exclude {' --exclude '.join(loss.hosts) or 'HOST'} goes on"
        )

    return end


class _Teller:
    """Now and then a line about how far the test is."""

    def __init__(self, plan: AcceptPlan, say: Callable[[str], None]) -> None:
        self._plan, self._say, self._spoke = plan, say, time.monotonic()

    def __call__(self, rows: Sequence[Measurement]) -> None:
        if rows and time.monotonic() - self._spoke > _TELLS:
            self._spoke = time.monotonic()
            case = rows[0].case
            self._say(f"round {self._plan.round + 1}: {case.op} {format_bytes(case.nbytes)} {case.groups}")


def _shares(sent: dict[str, int]) -> str:
    """`tcp eth0 98 %, tcp eth1 2 %`, the largest first; what stays inside a host is told where nothing leaves it."""
    sent = {device: nbytes for device, nbytes in sent.items() if not device.startswith("loopback")} or sent
    whole = sum(sent.values())
    if not whole:
        return ""
    order = sorted(sent.items(), key=lambda item: (-item[1], item[0]))
    shares = [(device, f"{nbytes / whole:.0%}".replace("%", " %")) for device, nbytes in order]
    return ", ".join(f"{device} {share}" for device, share in shares if share != "0 %")


def ranks(spec: AcceptSpec, given: int | None) -> int:
    """How many ranks to start: what is given, else what is expected. SpecError: neither, or they contradict."""
    expect = spec.expect
    hosts = len(expect.names) or expect.hosts
    expected = hosts * expect.ranks_per_host if hosts and expect.ranks_per_host else None
    if given is None and expected is None:
        raise SpecError(
            f"how many ranks? commbench accept {spec.name} -n 8, mpirun -n 8 commbench accept {spec.name}, or let the "
            "spec expect hosts and ranks_per_host"
        )
    if given and expected and given != expected and not spec.exclude:
        raise SpecError(
            f"-n {given}: {spec.source} expects {hosts} hosts with {expect.ranks_per_host} ranks each; "
            f"start {expected}, or change expect"
        )
    return given or expected or 0
