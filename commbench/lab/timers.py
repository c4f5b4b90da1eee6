"""Things to do later, for a loop that waits in `select`."""

import heapq
import itertools
import time
from collections.abc import Callable


class Timers:
    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time.monotonic() + seconds, next(self._number), action))

    def due(self) -> float | None:
        """Seconds until the next one; None where there is none."""
        return max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None

    def run(self) -> None:
        """Does what is due now; what that asks for comes next time, or one that repeats would never let go."""
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            heapq.heappop(self._queue)[2]()
