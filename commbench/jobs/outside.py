"""A sweep that starts its ranks itself: one launch after another, judged by the run folder alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commbench import store
from commbench.errors import CommbenchError, FolderError
from commbench.jobs.request import Request, Watcher, exit_code, same_spec
from commbench.lab import launch as lab
from commbench.measure import launch
from commbench.records import Measurement
from commbench.spec import SweepSpec, grid

if TYPE_CHECKING:
    from commbench.lab.client import Lab


def start(
    request: Request, ranks: int, launcher: str, arguments: Sequence[str], watcher: Watcher, net: "Lab | None" = None
) -> int:
    """Starts the launches of a sweep one after another (in a lab, if there is one); judges by the run folder alone."""
    spec = request.spec
    journal = request.out / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    if (request.out / "run.json").exists():
        if not request.resume:
            raise store.already(request.out)
        same_spec(request)
    arguments = [*arguments, "--out", str(request.out)]
    command = lab.argv(net, launcher, ranks, arguments, spec.backends)
    expected = grid.guess(spec, ranks)
    likely, most = grid.estimate(spec, expected)
    patience = 60.0 + 3 * (spec.deadline + most / spec.launches / max(1, len(expected)))
    watcher.begin(len(expected) * spec.launches, likely)
    follower = _Follower(journal, before, watcher.rows)
    for index in range(spec.launches):
        own = [*command, "--launch", str(index), *(["--resume"] if request.resume else [])]
        ended = launch.run(own, follower.look, patience, watcher.say, ranks)
        if not _complete(request.out, spec, index):
            began = (request.out / "run.json").exists()
            kept = f"rows measured before are kept in {request.out}" if began else "nothing was measured"
            raise ended.failure(f"launch {index}", command, kept)
        if ended.refused:
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
    except FolderError:
        return False
    wanted = {case.key for case in grid.cases(spec, run.machine.host_of)}
    return wanted <= {m.case.key for m in rows if m.launch == index and not m.control and m.status != "hung"}
