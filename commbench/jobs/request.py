"""What was asked for, and everything that can be refused before any rank is started."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from commbench import store
from commbench.errors import FolderError, MissingLibrary, SpecError
from commbench.measure import probe
from commbench.records import Measurement, Run
from commbench.spec import SweepSpec, differing, grid

Say = Callable[[str], None]


class Request(NamedTuple):
    """What the command line asked for. `launch` is set in ranks that commbench itself started. `also`: what beside the
    grid decides the run."""

    spec: SweepSpec
    out: Path
    resume: bool
    created: str  # UTC, ISO 8601
    command: tuple[str, ...]
    launch: int | None = None
    allow_single: bool = False
    now: Callable[[], float] = lambda: 0.0  # seconds since the epoch
    also: Mapping[str, Any] = MappingProxyType({})
    keep_hosts: bool = False

    @property
    def canonical(self) -> dict[str, Any]:
        """What decides the run, as plain JSON: for run.json, and to know it again."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({**self.spec.canonical(), **self.also}))
        return plain


class Watcher(NamedTuple):
    """Where progress goes: the number of cases to come, then each case's rows."""

    begin: Callable[[int, float], None]
    rows: Callable[[Sequence[Measurement]], None]
    say: Say


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
    grid.guess(spec, size)


def check_libraries(backends: Sequence[str]) -> None:
    """Refuses a run that could measure nothing on this machine. Raises MissingLibrary with what was found."""
    if tuple(backends) == ("nccl",) and not probe.gpus():
        raise MissingLibrary(
            f"this spec measures NCCL, but this machine has no NVIDIA GPU (no /dev/nvidia0; "
            f"{probe.installed('torch')}); for CPU ranks add --set backend=gloo"
        )
    needs = {"gloo": "torch", "nccl": "torch", "mpi": "mpi4py"}
    missing = {needs[name] for name in backends if name in needs and probe.installed(needs[name]).endswith("missing")}
    if missing and all(needs.get(name) in missing for name in backends):
        raise MissingLibrary(
            f"this spec needs {' and '.join(sorted(missing))}: pip install {' '.join(sorted(missing))}"
        )


def same_spec(request: Request) -> Run:
    """The run in the folder. Raises FolderError where it is one of another spec."""
    before = store.load_run(request.out)
    if changed := differing(before.spec, request.canonical):
        raise FolderError(
            f"{request.out} holds a run of another spec (it differs in {', '.join(changed)}); choose another --out"
        )
    return before


def exit_code(measurements: Sequence[Measurement], expected: int) -> int:
    """0 all measured; 1 wrong data or errors; 3 nothing could be measured; 4 hung, or cases are missing."""
    rows = {(m.case.key, m.group, m.launch): m.status for m in measurements if not m.control}
    states = set(rows.values())
    if "failed" in states:
        return 1
    if "hung" in states or len({key for key, _, _ in rows}) < expected:
        return 4
    return 0 if "ok" in states else 3
