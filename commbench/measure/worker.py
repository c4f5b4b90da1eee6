"""Inside a job: rank 0 asks the plan, all ranks measure, rank 0 journals and tells."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from commbench.backends.base import Backend
from commbench.layouts import expand
from commbench.measure.loop import Loop
from commbench.records import Case, Measurement
from commbench.world import World


class Plan(Protocol):
    """Decides what to measure next: a grid, a search, the hunt for a slow node."""

    def ask(self) -> Sequence[Case]:
        """The next cases; none ends the run."""

    def tell(self, answers: Sequence[Measurement]) -> None:
        """What one of them gave, one Measurement a group."""


class Sink(Protocol):
    """Where answers go the moment they exist."""

    def append(self, rows: Sequence[Measurement]) -> None: ...


class Worker:
    """One rank's part of a run."""

    def __init__(
        self,
        world: World,
        loop: Loop,
        backends: Mapping[str, "Backend | str"],
        host_of: tuple[int, ...],
    ) -> None:
        self._world, self._loop, self._backends, self._host_of = world, loop, backends, host_of
        self._current: Case | None = None

    def run(self, plan: Plan | None, sink: Sink | None, told: Callable[[Sequence[Measurement]], None]) -> None:
        """Until the plan asks for nothing. Rank 0 brings the plan and the sink, the others None."""
        while True:
            asked = msgspec.json.encode(tuple(plan.ask())) if plan else b""
            cases = msgspec.json.decode(self._world.share(asked), type=tuple[Case, ...])
            if not cases:
                return
            for case in cases:
                rows = self.measure(case)
                if plan and sink:
                    sink.append(rows)
                    plan.tell(rows)
                    told(rows)

    def measure(self, case: Case) -> tuple[Measurement, ...]:
        self._current = case
        rows = self._loop.measure(case, self._backends[case.backend], self._host_of)
        self._current = None
        return rows

    def hung(self, why: str, launch: int) -> tuple[Measurement, ...]:
        """Rows for the case that did not come back; called by the roll call's thread while this one is stuck."""
        case = self._current
        if case is None:
            return ()
        groups = expand(case.groups, self._host_of)
        return tuple(
            Measurement(case=case, group=index, ranks=len(group), launch=launch, status="hung", why=why)
            for index, group in enumerate(groups)
        )
