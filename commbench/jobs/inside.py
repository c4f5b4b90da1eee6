"""Measuring inside a launch: one rank's part of it, or all ranks of a simulated world.

What is measured is rank 0's business (`Conduct`): here a sweep, elsewhere a search.
"""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from commbench import __version__, store
from commbench.backends import base
from commbench.errors import CommbenchError, FolderError, LaunchError, MissingLibrary, SpecError, Unsupported
from commbench.jobs.request import Request, Say, Watcher, exit_code, same_spec
from commbench.layouts import expand
from commbench.measure import probe
from commbench.measure.loop import Loop, Options
from commbench.measure.worker import Plan, Sink, Worker
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.spec import SweepSpec, grid
from commbench.stats.stopping import Limits
from commbench.world import World
from commbench.world.discover import Place
from commbench.world.join import join
from commbench.world.rollcall import Lost, RollCall
from commbench.world.single import SingleWorld

_NEWS = 2.0  # seconds in which the end of another rank becomes known
_START_UP = 180.0  # seconds in which every rank has loaded its libraries and met the others


class Bench(NamedTuple):
    """What rank 0 has once every rank is ready. `world` and `rollcall` are there for what must be told to all;
    `traffic` counts the bytes that this host had sent before.
    """

    request: Request
    machine: Machine
    worker: Worker
    watcher: Watcher
    world: World
    rollcall: RollCall | None
    traffic: dict[str, int]

    def control(self, case: Case | None) -> tuple[Measurement, ...]:
        """The first thing that all ranks do: a case that was measured before, or none."""
        self.world.share(msgspec.json.encode(case))
        return self.worker.measure(case) if case else ()

    def run(self, plan: Plan, sink: Sink, told: Callable[[Sequence[Measurement]], None]) -> dict[str, dict[str, int]]:
        """The second and last thing: until the plan asks for nothing. host -> device -> bytes sent meanwhile."""
        self.worker.run(plan, sink, told)
        return _carried(self.world, self.machine, self.traffic)

    def opened(self, journal: store.Journal) -> None:
        """From here on a hang is a row of the journal."""
        if self.rollcall:
            self.rollcall.on_end = _on_end(self.worker, journal, self.request.launch or 0, self.watcher.say)


Conduct = Callable[[Bench], int]  # opens and closes the journal, returns the exit code


class Once:
    """The plan that asks for its cases once."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = tuple(cases)

    def ask(self) -> tuple[Case, ...]:
        cases, self._cases = self._cases, ()
        return cases

    def tell(self, answers: Sequence[Measurement]) -> None:
        pass


def simulate(request: Request, size: int, watcher: Watcher) -> int:
    """A whole run on simulated ranks, in this process. Returns the exit code."""
    for index in range(request.spec.launches):
        world = SingleWorld(size)
        code = _measure(request._replace(launch=index), world, None, None, watcher, _sweep)
    return code


def work(request: Request, place: Place | None, watcher: Watcher, conduct: "Conduct | None" = None) -> int:
    """One rank's part, inside a launch. Returns the exit code, the same on every rank. `conduct` None: a sweep."""
    spec = request.spec
    if spec.launches > 1 and request.launch is None:
        raise SpecError(
            f"launches: {spec.launches} needs commbench to start the ranks itself: commbench sweep SPEC -n "
            f"{place.size if place else 2}, or use --set launches=1"
        )
    world, rollcall = join(place, spec.backends, watcher.say)
    try:
        return _measure(request, world, rollcall, place, watcher, conduct or _sweep)
    except CommbenchError as error:
        if rollcall and world.rank == 0:  # the others wait for rank 0's word
            watcher.say(str(error))
            rollcall.dismiss(error.exit_code)
        raise
    except Exception as error:
        if rollcall:
            _report(rollcall, world, error, watcher.say)
        raise


def _report(rollcall: RollCall, world: World, error: Exception, say: Say) -> None:
    """One rank's uncaught error ends the whole job: the others may be waiting for it for ever."""
    traceback.print_exc()
    if world.rank == 0:
        time.sleep(_NEWS)  # what it met may be another rank's death, which the roll call then tells, and ends the job
        say(f"rank 0 raised {type(error).__name__}: {error}")
        rollcall.dismiss(LaunchError.exit_code)
    rollcall.report(f"{type(error).__name__}: {error}")
    time.sleep(10.0)  # rank 0 names this rank and tells everybody to leave; this process too
    world.abort(LaunchError.exit_code)


def _measure(
    request: Request,
    world: World,
    rollcall: RollCall | None,
    place: Place | None,
    watcher: Watcher,
    conduct: Conduct,
) -> int:
    """The same for real and simulated worlds."""
    spec, index = request.spec, request.launch or 0
    simulated = spec.backends == ("simulated",)
    with rollcall.step("start-up", _START_UP) if rollcall else nullcontext():
        backends = _start(world, spec, index)
        identities, machine = probe.meet(world, place)
        if request.keep_hosts:
            machine = _as_before(world, request, machine)
        traffic = probe.traffic()
    if simulated:
        per_host = spec.simulated.ranks_per_host
        machine = probe.pretend(machine, world.size, per_host)
    elif rollcall:
        rollcall.name([f"rank {r} (host {i.host}, pid {i.pid})" for r, i in enumerate(identities)])
    stop = spec.stop
    limits = Limits(stop.ci, stop.confidence, stop.max_time, stop.min_samples, stop.max_samples)
    options = Options(limits, spec.warmup.max_time, spec.deadline, spec.check, index, request.now)
    worker = Worker(world, Loop(world, rollcall, options, simulated), backends, machine.host_of)
    if world.rank != 0:
        control = msgspec.json.decode(world.share(b""), type=Case | None)
        if control:
            worker.measure(control)
        worker.run(None, None, lambda rows: None)
        _carried(world, machine, traffic)
        code = int(world.share(b"").decode())
    else:
        facts = {
            key: value
            for backend in backends.values()
            if not isinstance(backend, str)
            for key, value in backend.facts.items()
        }
        machine = msgspec.structs.replace(machine, facts={**machine.facts, **facts, **_timers(backends)})
        code = conduct(Bench(request, machine, worker, watcher, world, rollcall, traffic))
        world.share(str(code).encode())
    if rollcall:
        rollcall.close()
    for backend in reversed(backends.values()):  # the first may have started what the others stand on
        if not isinstance(backend, str):
            backend.close()
    world.close()
    return code


def _as_before(world: World, request: Request, machine: Machine) -> Machine:
    """The machine with the hosts of the run that goes on, in their order: symbols of its journal count them so.

    FolderError on every rank: a host that the run does not know.
    """
    names = b"[]"
    if world.rank == 0 and request.resume and (request.out / "run.json").exists():
        names = msgspec.json.encode([host.name for host in store.load_run(request.out).machine.hosts])
    before = msgspec.json.decode(world.share(names), type=tuple[str, ...]) or [host.name for host in machine.hosts]
    now = {host.name: host for host in machine.hosts}
    if new := [name for name in now if name not in before]:
        raise FolderError(f"{request.out}: {', '.join(new[:8])} took no part when it began; choose another --out")
    return msgspec.structs.replace(
        machine,
        hosts=tuple(now.get(name, Host(name=name)) for name in before),
        host_of=tuple(before.index(machine.hosts[host].name) for host in machine.host_of),
    )


def _carried(world: World, machine: Machine, before: dict[str, int]) -> dict[str, dict[str, int]]:
    """host -> network device -> bytes sent since `before`, on rank 0. Every rank takes part."""
    now = probe.traffic()
    mine = {name: now[name] - before.get(name, 0) for name in now if now[name] > before.get(name, 0)}
    told = world.gather(msgspec.json.encode(mine))
    each = [msgspec.json.decode(part, type=dict[str, int]) for part in told]
    return {machine.hosts[host].name: sent for host, sent in zip(machine.host_of, each, strict=False)}


def _sweep(bench: Bench) -> int:
    """Every case of the grid that is still missing, once."""
    request, spec = bench.request, bench.request.spec
    journal, missing, control = _open(request, bench.machine)
    bench.opened(journal)
    bench.watcher.begin(len(missing), grid.estimate(spec, missing)[0])
    if again := bench.control(control):
        journal.append([msgspec.structs.replace(row, control=True) for row in again])
        _report_drift(journal.measurements, again, bench.watcher.say)
    bench.run(Once(missing), journal, lambda rows: told(rows, request, bench.watcher))
    cases = len(grid.cases(spec, bench.machine.host_of)) if spec.launches == 1 else 0
    code = exit_code(journal.measurements, cases)
    keep_faults(request.out)
    journal.close()
    return code


def told(rows: Sequence[Measurement], request: Request, watcher: Watcher) -> None:
    watcher.rows(rows)
    keep_faults(request.out)


def keep_faults(folder: Path) -> None:
    """In a lab: what was done to the network so far, and when, stays with the run."""
    if "COMMBENCH_LAB" in os.environ:
        with suppress(FileNotFoundError):  # no fault so far
            events = Path(os.environ["COMMBENCH_LAB"], "events.jsonl").read_bytes()
            known = folder / "faults.jsonl"
            if not known.exists() or known.stat().st_size != len(events):
                store.write_atomically(known, events)


def _start(world: World, spec: SweepSpec, index: int) -> "dict[str, base.Backend | str]":
    """Each backend of the spec, or the sentence why it cannot run here; the same answer on every rank."""
    started: dict[str, base.Backend | str] = {}
    for name in spec.backends:
        made: base.Backend | None = None
        reason = ""
        try:
            made = _backend(name, world, spec, index)
        except (MissingLibrary, Unsupported) as error:
            reason = str(error)
        told = [part.decode() for part in world.gather(reason.encode())]
        reason = world.share(next((r for r in told if r), "").encode()).decode()
        started[name] = made if made and not reason else reason
    return started


def _backend(name: str, world: World, spec: SweepSpec, index: int) -> base.Backend:
    if name == "simulated":
        s = spec.simulated
        made: base.Backend = base.load(name)(world, s.latency, s.bandwidth, s.noise, (spec.seed, index))
        return made
    if name == "mpi" and world.channel == "gloo":
        # Importing mpi4py here would make every rank an MPI world of its own.
        raise Unsupported(
            "these ranks are no MPI world (not started by mpirun, mpiexec or srun --mpi): start them with mpirun"
        )
    backend: base.Backend = base.load(name)(world)
    return backend


def _timers(backends: "dict[str, base.Backend | str]") -> dict[str, str]:
    return {f"{name}_timer_ns": f"{b.timer * 1e9:.1f}" for name, b in backends.items() if not isinstance(b, str)}


def _open(request: Request, machine: Machine) -> tuple[store.Journal, list[Case], Case | None]:
    """(the run folder, the cases that are missing, one case to measure again when a run is resumed)."""
    spec, index = request.spec, request.launch or 0
    cases = grid.cases(spec, machine.host_of)
    journal = begin(request, machine)
    done = journal.done(lambda case: len(expand(case.groups, machine.host_of)))
    missing = [case for case in grid.order(cases, spec, index) if (case.key, index) not in done]
    control = None
    if request.resume and missing and journal.measurements:
        note_resume(journal, request, machine)
        control = next((m.case for m in journal.measurements if m.status == "ok"), None)
    return journal, missing, control


def begin(request: Request, machine: Machine) -> store.Journal:
    """The run folder: a new one; or, resumed or in a later launch, the one that is there, with its measurements.

    FolderError where that one is of another spec, or of ranks that lie on hosts differently.
    """
    go_on = (request.resume or (request.launch or 0) > 0) and (request.out / "run.json").exists()
    if not go_on:
        spec = request.spec
        run = Run(
            format=store.FORMAT,
            name=spec.name,
            created=request.created,
            commbench=__version__,
            seed=spec.seed,
            spec=request.canonical,
            machine=machine,
            command=request.command,
        )
        return store.create(request.out, run)
    before = same_spec(request)
    if before.machine.host_of != machine.host_of:
        raise FolderError(
            f"{request.out} was measured with {before.machine.size} ranks on {len(before.machine.hosts)} hosts, "
            f"this job has {machine.size} on {len(machine.hosts)}; resume with the same layout, or choose another --out"
        )
    return store.reopen(request.out, lambda case: len(expand(case.groups, machine.host_of)))


def note_resume(journal: store.Journal, request: Request, machine: Machine) -> None:
    """Keeps when the run was resumed, and what facts of the machine have changed since it began."""
    changed = _changed(journal.run.machine.facts, machine.facts)
    store.note_resume(journal, {"at": request.created, **changed})


def _changed(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    keys = [k for k in {*before, *now} if before.get(k) != now.get(k) and not k.endswith("_timer_ns")]
    return {key: f"{before.get(key, '')} -> {now.get(key, '')}" for key in sorted(keys)}


def _report_drift(measured: Sequence[Measurement], again: Sequence[Measurement], say: Say) -> None:
    for row in again:
        first = next((m for m in measured if m.case == row.case and m.group == row.group and m.seconds), None)
        if first and row.seconds:
            was, now = median(first.seconds) * 1e6, median(row.seconds) * 1e6
            case = f"{row.case.op} {row.nbytes} B {row.case.backend}"
            say(f"control case {case}: {was:.4g} us before, {now:.4g} us now ({now / was:.2f} times)")


def _on_end(worker: Worker, journal: store.Journal, index: int, say: Say) -> Callable[[Lost], None]:
    """What rank 0 does when the roll call ends the job: a hang is a row, and the user learns who and where."""

    def end(lost: Lost) -> None:
        if lost.kind == "hung":
            journal.append(worker.hung(f"{lost.sentence} in {lost.what}", index))
        keep_faults(journal.folder)
        kept = sum(m.status != "hung" for m in journal.measurements)
        say(
            f"{lost.kind}: {lost.sentence} in {lost.what}; {kept} rows are kept in {journal.folder}, "
            "--resume goes on from there"
        )

    return end
