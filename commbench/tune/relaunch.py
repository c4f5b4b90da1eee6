"""Which launch comes next, where settings are read at the start of a process: a race run by restarts. Pure.

A round is one launch of every candidate still in the race, in random order; the default always is. A launch measures
every size once, so it is one trial at each of them, and trials of one round are what is compared. Another start is
part of the noise then, which trials inside one launch never see. The statistics and the looks (after 2, 4, 8 and 16
rounds) are those of `search`; a candidate leaves when it is hopeless at every size.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from commbench.backends.mpi_tool import implied
from commbench.errors import SpecError
from commbench.records import Case, Measurement
from commbench.tune.candidates import Candidate, Settings, at_start
from commbench.tune.evidence import Point, Trials
from commbench.tune.search import Report
from commbench.tune.verdicts import LOOKS, USUAL, Options, choices, describe, hopeless, judge
from commbench.units import format_bytes, format_time

_RUNGS = (2, *LOOKS)
_SCREENING = 0.5  # of the budget at most, for the first two rounds


class Launch(NamedTuple):
    """One start of all ranks with these settings: it measures the cases, as trials of the round."""

    round: int
    settings: Settings
    cases: tuple[Case, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What every rank has in its environment before it loads a library."""
        own = {name: value for name, value in self.settings if at_start(name)}
        stripped = [name.removeprefix("OMPI_MCA_") for name in own if name.startswith("OMPI_MCA_")]
        return {f"OMPI_MCA_{key}": text for name in stripped for key, text in implied(name).items()} | own


class Launches:
    """Says which launch comes next until nothing is open or the budget is spent.

    cases      the questions, without settings
    race       the candidates of each collective, the default among them
    launch     seconds that a launch is taken to last until one was seen
    spent      seconds of the budget that are gone already
    trials     those of a search that was cut off, which this one goes on with
    """

    def __init__(
        self,
        cases: Sequence[Case],
        race: Mapping[str, Sequence[Candidate]],
        *,
        seed: int = 0,
        options: Options = USUAL,
        budget: float | None = None,
        launch: float = 10.0,
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        trials: Trials | None = None,
    ) -> None:
        self.trials, self._options, self._budget, self._clock = trials or Trials(), options, budget, clock
        self._random = random.Random(f"{seed}/launches")
        self._guess, self._spent, self._seen = launch, spent, 0
        self._last = clock()
        self._points = [Point.of(case) for case in dict.fromkeys(cases)]
        taking = {p.case.op: {one.settings for one in race[p.case.op]} for p in self._points}
        self._takes = {p: taking[p.case.op] for p in self._points}
        self._live = list(dict.fromkeys(one.settings for op in taking for one in race[op]))
        self._live.sort(key=bool)  # the default first
        self._left_out: list[str] = []
        self._fit()
        self._script = self._rounds()

    def ask(self) -> Launch | None:
        self._last = self._clock()
        return next(self._script, None)

    def tell(self, rows: Sequence[Measurement]) -> None:
        """What the launch that was asked for last gave."""
        trials: dict[tuple[Case, int], list[Measurement]] = {}
        for row in rows:
            trials.setdefault((row.case, row.launch), []).append(row)
        for one in trials.values():
            self.trials.add(one)
        took = self._clock() - self._last
        self._spent += took
        self._guess = (self._guess * self._seen + took) / (self._seen + 1)  # a guess counts for nothing
        self._seen += 1

    @property
    def spent(self) -> float:
        return self._spent

    # ---- what comes next -----------------------------------------------------------------------------------

    def _rounds(self) -> Iterator[Launch]:
        for target in _RUNGS:
            if target > self._options.rounds:
                return
            while self._done() < target:
                batch = [s for s in self._live if self._cases(s)]
                if len(batch) < 2:
                    return
                if self._budget is not None and self._spent + len(batch) * self._guess > self._budget:
                    self._stopped(len(batch))
                    return
                self._random.shuffle(batch)
                number = 1 + max((self.trials.next_round(p) - 1 for p in self._points), default=-1)
                for settings in batch:
                    if cases := self._cases(settings):
                        yield Launch(number, settings, cases)
            if self._settle():
                return

    def _stopped(self, batch: int) -> None:
        self._left_out.append("the budget is spent; more would go to what is uncertain")
        if (missing := LOOKS[0] - self._done()) > 0:
            least = math.ceil(self._spent + missing * batch * self._guess)
            self._left_out.append(f"no comparison was finished; the smallest budget that would do is {least} s")

    def _able(self) -> list[Point]:
        """Where the default has not failed."""
        return [p for p in self._points if (p, ()) not in self.trials.void]

    def _cases(self, settings: Settings) -> tuple[Case, ...]:
        """What a launch measures: not where the candidate, or the default, has failed."""
        return tuple(
            _under(p.case, settings)
            for p in self._able()
            if settings in self._takes[p] and (p, settings) not in self.trials.void
        )

    def _done(self) -> int:
        return min((self.trials.rounds(p) for p in self._able()), default=_RUNGS[-1])

    def _settle(self) -> bool:
        """Lets the hopeless leave; whether more rounds would change little at any size."""
        racing = {p: [s for s in self._live if s in self._takes[p]] for p in self._able()}
        out = hopeless(self.trials, racing, self._options)
        over = {s for s in self._live if s and all(s in out[p] for p in racing if s in racing[p])}
        self._live = [s for s in self._live if s not in over]
        judged = judge(self.trials, self._options)
        for point, taking in racing.items():
            rivals = [s for s in taking if s and s not in out[point] and s in judged.get(point, {})]
            known = [judged[point][s] for s in rivals]
            proved = all(one.verdict == "faster" for one in known)
            tied = all(one.ratio.log_ratio > -self._options.margin for one in known)
            late = self.trials.rounds(point) >= LOOKS[1]
            if rivals and not (late and (proved or tied)) and not (proved and len(rivals) == 1):
                return False
        return True

    def _fit(self) -> None:
        """Fewer candidates where the budget does not suffice to screen all."""
        if self._budget is None:
            return
        least = self._spent + 2 * LOOKS[0] * self._guess
        if self._budget < least:
            raise SpecError(
                f"a budget of {format_time(self._budget)} is too small for one honest comparison: {LOOKS[0]} launches "
                f"each of the default and one candidate, of about {format_time(self._guess)}, take "
                f"{format_time(least)}; the smallest that would do is {math.ceil(least)} s"
            )
        keep = max(2, int(_SCREENING * self._budget / (2 * self._guess)))
        if keep < len(self._live):
            left = ", ".join(describe(s) for s in self._live[keep:])
            self._left_out.append(f"not tried for want of time: {left}")
            self._live = self._live[:keep]

    def report(self) -> Report:
        """Cost, what did not take part and why, and what more launches could change."""
        logs = self.trials.logs
        void = {
            f"void: {describe(s)} for {p.case.op} {format_bytes(p.case.nbytes)}: {why}"
            for (p, s), why in self.trials.void.items()
        }
        open_ = [one for one in choices(self.trials, self._options) if one.uncertain]
        return Report(
            seconds=self._spent,
            budget=self._budget,
            trials=sum(len(figures) for p in logs for figures in logs[p].values()),
            points=len(logs),
            candidates=len({s for p in logs for s in logs[p] if s}),
            void=tuple(sorted(void)),
            left_out=tuple(self._left_out),
            uncertain=tuple(
                f"uncertain: {one.point.case.op} {format_bytes(one.point.case.nbytes)}: {one.uncertain}"
                for one in open_
            ),
        )


def _under(case: Case, settings: Settings) -> Case:
    return msgspec.structs.replace(case, settings=settings)


# ---- one choice for all sizes ------------------------------------------------------------------------------


def for_all(measurements: Sequence[Measurement], options: Options = USUAL) -> tuple[list[Measurement], tuple[str, ...]]:
    """(the trials of the default and of the one candidate that a whole process may have, what to know about it).

    A process has one value of such a setting, for all sizes and collectives. So of those proved faster somewhere the
    ones that are proved slower nowhere may be chosen; of these the one with the greatest mean gain over all sizes.
    """
    judged = judge(Trials(measurements), options)
    gains: dict[Settings, float] = {}
    notes: list[str] = []
    for settings in dict.fromkeys(s for each in judged.values() for s in each):
        mine = {p: each[settings] for p, each in judged.items() if settings in each}
        faster = [p for p, one in mine.items() if one.verdict == "faster"]
        slower = [p for p, one in mine.items() if one.verdict == "slower"]
        if faster and slower:
            notes.append(
                f"{describe(settings)} is faster at {_sizes(faster)}, but slower at {_sizes(slower)}; a process has "
                "one value for all, so it is not recommended"
            )
        known = [one.ratio.log_ratio for one in mine.values() if not math.isnan(one.ratio.log_ratio)]
        mean = sum(known) / len(known) if known else 0.0
        if faster and not slower and mean < 0:
            gains[settings] = mean
    best = min(gains, key=lambda s: gains[s], default=())
    if best:
        unsure = [p for p, each in judged.items() if best in each and not each[best].harmless]
        unsure = [p for p in unsure if judged[p][best].verdict != "faster"]
        open_ = f"; not proved harmless at {_sizes(unsure)}" if unsure else ""
        notes.insert(0, f"{describe(best)} holds for a whole process, at all sizes{open_}")
    return [m for m in measurements if m.case.settings in ((), best)], tuple(notes)


def _sizes(points: Sequence[Point]) -> str:
    found = sorted({(p.case.op, p.case.nbytes) for p in points})
    return ", ".join(f"{op} {format_bytes(nbytes)}" for op, nbytes in found)
