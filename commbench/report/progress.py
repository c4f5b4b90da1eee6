"""Live progress: a bar with the remaining time on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from commbench.records import Measurement
from commbench.units import format_bytes, format_time

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_EVERY = 5.0  # seconds between plain lines


class Progress:
    """Told of every case that is done; writes to `stream` unless silent."""

    def __init__(self, stream: TextIO, silent: bool = False) -> None:
        self._stream, self._silent = stream, silent
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._total = self._done = 0
        self._expected = 0.0
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, total: int, expected: float) -> None:
        """`total` cases to come, which may take `expected` seconds."""
        self._total, self._done, self._expected = total, 0, expected
        self._began = self._spoke = time.monotonic()
        if self._silent:
            return
        if not self._stream.isatty():
            self._write(f"{total} cases, about {format_time(max(expected, 1.0))}")
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}", markup=False),
            console=Console(file=self._stream),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, left=f"{format_time(max(expected, 1.0))} left")
        self._bar.start()

    def rows(self, rows: Sequence[Measurement]) -> None:
        """One case is done."""
        self._done += 1
        if self._silent or not rows:
            return
        row = rows[0]
        case, size = row.case, format_bytes(row.nbytes or row.case.nbytes)
        last = f"{case.op} {size} {case.backend} {case.groups}: {row.status}"
        left = f"{format_time(self._left())} left"
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=last, left=left)
        elif time.monotonic() - self._spoke >= _EVERY or row.status in ("failed", "hung"):
            self._write(f"{self._done}/{self._total} cases, {left}; last {last}")

    def _left(self) -> float:
        """Cases come in random order, so those that are left cost what those before cost on average."""
        elapsed = time.monotonic() - self._began
        left = max(self._total - self._done, 0)
        known = elapsed / self._done * left
        guessed = self._expected * left / max(self._total, 1)
        trust = min(1.0, self._done / 8)
        return max(trust * known + (1 - trust) * guessed, 1.0 if left else 0.0)

    def _write(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._stream.write(f"commbench: {line}\n")
        self._stream.flush()
