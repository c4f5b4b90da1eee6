"""The story of each command. The only module that knows spec, measuring and store together."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from commbench import __version__, store
from commbench.backends import base
from commbench.errors import CommbenchError, LaunchError, MissingLibrary, SpecError, Unsupported
from commbench.layouts import expand
from commbench.measure import launch, probe
from commbench.measure.loop import Loop, Options
from commbench.measure.worker import Worker
from commbench.records import Case, Machine, Measurement, Run
from commbench.spec import SweepSpec, differing, grid
from commbench.stats.stopping import Limits
from commbench.world import World
from commbench.world.discover import Place
from commbench.world.join import join
from commbench.world.rollcall import RollCall
from commbench.world.single import SingleWorld

Say = Callable[[str], None]


class Request(NamedTuple):
    """What the command line asked for. `launch` is set in ranks that commbench itself started."""

    spec: SweepSpec
    out: Path
    resume: bool
    created: str  # UTC, ISO 8601
    command: tuple[str, ...]
    launch: int | None = None
    allow_single: bool = False


class Watcher(NamedTuple):
    """Where progress goes: the number of cases to come, then each case's rows."""

    begin: Callable[[int, float], None]
    rows: Callable[[Sequence[Measurement]], None]
    say: Say


class _Grid:
    """The plan of a sweep: all cases that are still missing, once."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = tuple(cases)

    def ask(self) -> tuple[Case, ...]:
        cases, self._cases = self._cases, ()
        return cases

    def tell(self, answers: Sequence[Measurement]) -> None:
        pass


def check(request: Request, size: int) -> None:
    """Everything that can be refused before any rank is started. Raises SpecError or MissingLibrary."""
    spec = request.spec
    if size == 1 and not request.allow_single:
        raise SpecError(
            "a world of one rank moves nothing between ranks, so it has no bus bandwidth: start more "
            "(mpirun -n 2, or -n 2), or measure it all the same with --allow-single"
        )
    if "simulated" in spec.backends and len(spec.backends) > 1:
        raise SpecError("backend simulated does not mix with real ones in one run: the clock is not the same")
    grid.cases(spec, [0] * size)


def check_libraries(backends: Sequence[str]) -> None:
    """Refuses a run that could measure nothing on this machine. Raises MissingLibrary with what was found."""
    if tuple(backends) == ("nccl",) and not probe.gpus():
        raise MissingLibrary(
            f"this spec measures NCCL, but this machine has no NVIDIA GPU (no /dev/nvidia0; {probe.installed('torch')}); "
            "for CPU ranks add --set backend=gloo"
        )
    needs = {"gloo": "torch", "nccl": "torch", "mpi": "mpi4py"}
    missing = {needs[name] for name in backends if name in needs and probe.installed(needs[name]).endswith("missing")}
    if missing and all(needs.get(name) in missing for name in backends):
        raise MissingLibrary(f"this spec needs {' and '.join(sorted(missing))}: pip install {' '.join(sorted(missing))}")


def simulate(request: Request, size: int, watcher: Watcher) -> int:
    """A whole run on simulated ranks, in this process. Returns the exit code."""
    for index in range(request.spec.launches):
        world = SingleWorld(size)
        step = request._replace(launch=index, resume=request.resume or index > 0)
        code = _measure(step, world, None, None, watcher)
    return code


def work(request: Request, place: Place | None, watcher: Watcher) -> int:
    """One rank's part of a sweep, inside a launch. Returns the exit code, the same on every rank."""
    spec = request.spec
    if spec.launches > 1 and request.launch is None:
        raise SpecError(
            f"launches: {spec.launches} needs commbench to start the ranks itself: commbench sweep SPEC -n "
            f"{place.size if place else 2}, or use --set launches=1"
        )
    world, rollcall = join(place, spec.backends, watcher.say)
    try:
        return _measure(request, world, rollcall, place, watcher)
    except CommbenchError as error:
        if world.rank == 0 or not rollcall:
            watcher.say(str(error))
        if rollcall and world.rank == 0:
            rollcall.dismiss(error.exit_code)
        raise
    except Exception as error:
        if rollcall:
            _report(rollcall, world, error, watcher.say)
        raise


def _report(rollcall: RollCall, world: World, error: Exception, say: Say) -> None:
    """One rank's uncaught error ends the whole job: the others may be waiting for it for ever."""
    import time
    import traceback

    traceback.print_exc()
    if world.rank == 0:
        say(f"rank 0 raised {type(error).__name__}: {error}")
        rollcall.dismiss(LaunchError.exit_code)
    rollcall.report(f"{type(error).__name__}: {error}")
    time.sleep(10.0)  # rank 0 names this rank and tells everybody to leave; this process too
    world.abort(LaunchError.exit_code)


def _measure(
    request: Request, world: World, rollcall: RollCall | None, place: Place | None, watcher: Watcher
) -> int:
    """The sweep itself, the same for real and simulated worlds."""
    spec, index = request.spec, request.launch or 0
    simulated = spec.backends == ("simulated",)
    backends = _start(world, spec)
    identities, machine = probe.meet(world, place)
    if simulated:
        per_host = spec.simulated.ranks_per_host
        machine = probe.pretend(machine, world.size, per_host)
    elif rollcall:
        rollcall.name([f"rank {r} (host {i.host}, pid {i.pid})" for r, i in enumerate(identities)])
    stop = spec.stop
    limits = Limits(stop.ci, stop.confidence, stop.max_time, stop.min_samples, stop.max_samples)
    options = Options(limits, spec.warmup.max_time, spec.deadline, spec.check, index)
    worker = Worker(world, Loop(world, rollcall, options, simulated), backends, machine.host_of)
    if world.rank != 0:
        control = msgspec.json.decode(world.share(b""), type=Case | None)
        if control:
            worker.measure(control)
        worker.run(None, None, lambda rows: None)
        code = int(world.share(b"").decode())
    else:
        facts = {key: value for backend in backends.values() if not isinstance(backend, str) for key, value in backend.facts.items()}
        machine = msgspec.structs.replace(machine, facts={**machine.facts, **facts, **_timers(backends)})
        journal, missing, control = _open(request, machine)
        if rollcall:
            rollcall.on_end = _on_end(worker, journal, index, watcher.say)
        watcher.begin(len(missing), grid.estimate(spec, missing)[0])
        world.share(msgspec.json.encode(control))
        if control:
            again = worker.measure(control)
            journal.append([msgspec.structs.replace(row, control=True) for row in again])
            _report_drift(journal.measurements, again, watcher.say)
        worker.run(_Grid(missing), journal, watcher.rows)
        code = exit_code(journal.measurements, len(grid.cases(spec, machine.host_of)) if spec.launches == 1 else 0)
        journal.close()
        world.share(str(code).encode())
    if rollcall:
        rollcall.close()
    world.close()
    return code


def _start(world: World, spec: SweepSpec) -> "dict[str, base.Backend | str]":
    """Each backend of the spec, or the sentence why it cannot run here; the same answer on every rank."""
    started: dict[str, base.Backend | str] = {}
    for name in spec.backends:
        made: base.Backend | None = None
        reason = ""
        try:
            made = _backend(name, world, spec)
        except (MissingLibrary, Unsupported, ImportError) as error:
            reason = str(error) if isinstance(error, CommbenchError) else f"{name} is not installed here: {error}"
        told = [part.decode() for part in world.gather(reason.encode())]
        reason = world.share(next((r for r in told if r), "").encode()).decode()
        started[name] = made if made and not reason else reason
    return started


def _backend(name: str, world: World, spec: SweepSpec) -> base.Backend:
    if name == "simulated":
        s = spec.simulated
        made: base.Backend = base.load(name)(world, s.latency, s.bandwidth, s.noise, spec.seed)
        return made
    if name == "mpi" and type(world).__name__ == "TorchWorld":
        # Importing mpi4py here would make every rank an MPI world of its own.
        raise Unsupported("these ranks are no MPI world (not started by mpirun, mpiexec or srun --mpi): start them with mpirun")
    backend: base.Backend = base.load(name)(world)
    return backend


def _timers(backends: "dict[str, base.Backend | str]") -> dict[str, str]:
    return {f"{name}_timer_ns": f"{b.timer * 1e9:.1f}" for name, b in backends.items() if not isinstance(b, str)}


def _open(request: Request, machine: Machine) -> tuple[store.Journal, list[Case], Case | None]:
    """(the run folder, the cases that are missing, one case to measure again when a run is resumed)."""
    spec, index = request.spec, request.launch or 0
    cases = grid.cases(spec, machine.host_of)
    canonical: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec.canonical()))
    go_on = (request.resume or index > 0) and (request.out / "run.json").exists()
    if not go_on:
        run = Run(
            format=store.FORMAT,
            name=spec.name,
            created=request.created,
            commbench=__version__,
            seed=spec.seed,
            spec=canonical,
            machine=machine,
            command=request.command,
        )
        return store.create(request.out, run), list(grid.order(cases, spec, index)), None
    before = store.load_run(request.out)
    if changed := differing(before.spec, canonical):
        raise store.FolderError(f"{request.out} holds a run of another spec ({', '.join(changed)} differ); choose another --out")
    if before.machine.host_of != machine.host_of:
        raise store.FolderError(
            f"{request.out} was measured with {before.machine.size} ranks on {len(before.machine.hosts)} hosts, this job has "
            f"{machine.size} on {len(machine.hosts)}; resume with the same layout, or choose another --out"
        )
    journal = store.reopen(request.out, lambda case: len(expand(case.groups, machine.host_of)))
    done = journal.done(lambda case: len(expand(case.groups, machine.host_of)))
    missing = [case for case in grid.order(cases, spec, index) if (case.key, index) not in done]
    control = None
    if request.resume and missing and request.launch in (None, 0):
        store.note_resume(journal, {"at": request.created, **_changed(before.machine.facts, machine.facts)})
        control = next((m.case for m in journal.measurements if m.status == "ok"), None)
    return journal, missing, control


def _changed(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    keys = [k for k in {*before, *now} if before.get(k) != now.get(k) and not k.endswith("_timer_ns")]
    return {key: f"{before.get(key, '')} -> {now.get(key, '')}" for key in sorted(keys)}


def _report_drift(measured: Sequence[Measurement], again: Sequence[Measurement], say: Say) -> None:
    from statistics import median

    for row in again:
        first = next((m for m in measured if m.case == row.case and m.group == row.group and m.seconds), None)
        if first and row.seconds:
            ratio = median(row.seconds) / median(first.seconds)
            say(
                f"control case {row.case.op} {row.nbytes} B {row.case.backend}: {median(first.seconds) * 1e6:.4g} us before, "
                f"{median(row.seconds) * 1e6:.4g} us now ({ratio:.2f} times)"
            )


def _on_end(worker: Worker, journal: store.Journal, index: int, say: Say) -> Callable[[str, str, str], None]:
    """What rank 0 does when the roll call ends the job: a hang is a row, and the user learns who and where."""

    def end(kind: str, what: str, sentence: str) -> None:
        if kind == "hung":
            journal.append(worker.hung(f"{sentence} in {what}", index))
        kept = sum(m.status != "hung" for m in journal.measurements)
        say(f"{kind}: {sentence} in {what}; {kept} rows are kept in {journal.folder}, --resume goes on from there")

    return end


def exit_code(measurements: Sequence[Measurement], expected: int) -> int:
    """0 all measured; 1 wrong data or errors; 3 nothing could be measured; 4 hung, or cases are missing."""
    rows = {(m.case.key, m.group, m.launch): m.status for m in measurements if not m.control}
    states = set(rows.values())
    if "failed" in states:
        return 1
    if "hung" in states or len({key for key, _, _ in rows}) < expected:
        return 4
    return 0 if "ok" in states else 3


def start(request: Request, ranks: int, launcher: str, arguments: Sequence[str], watcher: Watcher) -> int:
    """Starts the launches of a sweep one after another, and judges by the run folder alone."""
    spec = request.spec
    journal = request.out / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    if (request.out / "run.json").exists() and not request.resume:
        raise store.FolderError(f"{request.out} already holds a run; --resume goes on with it, another --out keeps both")
    expected = grid.cases(spec, [0] * ranks)
    most = grid.estimate(spec, expected)[1] / spec.launches / max(1, len(expected))
    patience = 60.0 + 3 * (spec.deadline + most)
    watcher.begin(len(expected) * spec.launches, grid.estimate(spec, expected)[0])
    follower = _Follower(journal, before, watcher.rows)
    for index in range(spec.launches):
        own = [*arguments, "--out", str(request.out), "--launch", str(index)]
        if request.resume or index > 0:
            own.append("--resume")
        command = launch.argv(launcher, ranks, own)
        ended = launch.run(command, follower.look, patience, watcher.say)
        if not _complete(request.out, spec, index):
            raise _incomplete(request.out, command, ended, index)
        if ended.code == SpecError.exit_code:
            raise CommbenchError(f"the ranks refused to run: {ended.tail[-1] if ended.tail else 'no message'}")
    run, rows = store.load(request.out)
    return exit_code(rows, len(grid.cases(spec, run.machine.host_of)))


class _Follower:
    """Reads the journal that rank 0 writes, for the progress of the process that started it."""

    def __init__(self, path: Path, offset: int, told: Callable[[Sequence[Measurement]], None]) -> None:
        self._path, self._offset, self._told = path, offset, told

    def look(self) -> int:
        """Passes new whole lines on; returns how far the journal has grown."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return self._offset
        *lines, _ = data.split(b"\n")
        by_case: dict[str, list[Measurement]] = {}
        for line in lines:
            self._offset += len(line) + 1
            try:
                row = store.decode_line(line)
            except ValueError:
                continue  # torn, and written again by a resumed launch
            if not row.control:
                by_case.setdefault(row.case.key, []).append(row)
        for rows in by_case.values():
            self._told(rows)
        return self._offset


def _complete(folder: Path, spec: SweepSpec, index: int) -> bool:
    try:
        run, rows = store.load(folder)
    except store.FolderError:
        return False
    wanted = {case.key for case in grid.cases(spec, run.machine.host_of)}
    return wanted <= {m.case.key for m in rows if m.launch == index and not m.control and m.status != "hung"}


def _incomplete(folder: Path, command: Sequence[str], ended: launch.Launched, index: int) -> CommbenchError:
    """Why a launch ended early, as far as it can be told: the rank's own sentence, else the launcher's last lines."""
    said = [line.partition("commbench: ")[2] for line in ended.tail if "commbench: " in line]
    noise = [line for line in ended.tail if line.strip()]
    why = ended.stopped or (said[-1] if said else " | ".join(noise[-3:])) or "it printed nothing"
    kept = f"rows measured before are kept in {folder}" if (folder / "run.json").exists() else "nothing was measured"
    sentence = f"launch {index} ended early (exit {ended.code} of {os.path.basename(command[0])}): {why}; {kept}"
    # A mistake in the spec, found by the ranks, stays a usage error.
    return SpecError(sentence) if ended.code == SpecError.exit_code else LaunchError(sentence)


