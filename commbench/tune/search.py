"""Which trial comes next: successive halving over sizes and candidates, in rounds that keep rivals side by side.

A round of a point is one trial of everything still in the race there, in random order; the default always is.
All points share a rung: 2 trials of each, then 4, 8, 16. After each, what cannot beat the best or the default by more
than the regret leaves, on the evidence of its interval. With a steep order few remain after 2 trials, so the trials
of later rungs go to those that are hard to tell apart (Karnin, Koren and Somekh 2013, Almost optimal exploration in
multi-armed bandits, halve by rank; here nobody leaves by rank alone).

Not every size needs every candidate: all take part at every third size (every second with many candidates), and
between two of these the best rivals of either neighbour, since time is nearly a line between neighbours. Where none was
ahead of the default, two trials look whether the default changes in between.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from commbench.errors import SpecError
from commbench.records import Case, Measurement
from commbench.tune.candidates import Candidate, Settings, ordered
from commbench.tune.evidence import Point, Trials, centre
from commbench.tune.verdicts import LOOKS, USUAL, Options, choices, describe, hopeless, judge, leader
from commbench.units import format_bytes, format_time

_MANY = 7  # candidates, the default among them
_PROBES = 0.1  # of the budget, for one trial of the default here and there
_SCREENING = 0.5  # of the budget at most, for the first two trials of everything


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a search cost and what it leaves open, for printing."""

    seconds: float
    budget: float | None
    trials: int
    points: int
    candidates: int
    void: tuple[str, ...]
    left_out: tuple[str, ...]
    uncertain: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        of = f" of {format_time(self.budget)}" if self.budget else ""
        yield (
            f"spent {format_time(self.seconds)}{of}: {self.trials} trials of {self.candidates} candidates "
            f"at {self.points} sizes"
        )
        yield from self.void
        yield from self.left_out
        yield from self.uncertain or ("nothing is uncertain by more than the regret",)


class Search:
    """A Plan (commbench.measure.worker) that races candidates.

    cases      the questions, without settings
    race       the candidates of each collective, the default among them
    budget     seconds; None: until nothing is uncertain or every candidate has its most trials
    trial      the fewest seconds that a trial can last
    weights    how much each case counts when the budget does not suffice for all; 1 where not told
    clock      seconds that pass; not the time of day
    trials     those of a search that was cut off, which this one goes on with
    thorough   every candidate at every size until its own answer is known, also one that is no better: for a few

    `round` is the number of the round that was asked for last; its answers are taken as trials of that round.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        race: Mapping[str, Sequence[Candidate]],
        *,
        ranks: int,
        seed: int = 0,
        options: Options = USUAL,
        budget: float | None = None,
        trial: float = 1.0,
        weights: Mapping[Case, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        trials: Trials | None = None,
        thorough: bool = False,
    ) -> None:
        self.trials, self._options, self._budget, self._clock = trials or Trials(), options, budget, clock
        self.round = 0
        self._thorough = thorough
        self._random = random.Random(f"{seed}/search")
        self._guess = trial
        self._cost: dict[Point, tuple[float, int]] = {}
        self._began: float | None = None
        self._last = 0.0
        self._short = False
        self._looked: set[Point] = set()
        weights = weights or {}
        points = sorted((Point.of(case) for case in dict.fromkeys(cases)), key=_place)
        self._weight = {point: weights.get(point.case, 1.0) for point in points}
        self._live: dict[Point, list[Settings]] = {
            p: [c.settings for c in ordered(race[p.case.op], p.case.op, ranks, p.case.nbytes)] for p in points
        }
        self._series: dict[Case, list[Point]] = {}
        for point in points:
            self._series.setdefault(point.series, []).append(point)
        self._anchors = [
            p for line in self._series.values() for k, p in enumerate(line) if _anchor(k, line, self._stride(p))
        ]
        self._left_out: list[str] = []
        self._probing = False
        if budget is not None:
            self._afford(budget, trial)
        self._script = self._rounds()

    # ---- the Plan ------------------------------------------------------------------------------------------

    def ask(self) -> Sequence[Case]:
        if self._began is None:
            self._began = self._last = self._clock()
        point, settings = next(self._script, (None, ()))
        self.round = self.trials.next_round(point) if point else self.round
        return [msgspec.structs.replace(point.case, settings=s) for s in settings] if point else []

    def tell(self, answers: Sequence[Measurement]) -> None:
        if not answers:
            return
        if not self._probing:
            self.trials.add(self.numbered(answers))
        now, point = self._clock(), Point.of(answers[0].case)
        seconds, count = self._cost.get(point, (0.0, 0))
        self._cost[point] = (seconds + now - self._last, count + 1)
        self._last = now

    def numbered(self, answers: Sequence[Measurement]) -> list[Measurement]:
        """The answers as trials of the round, so they go into the journal; a probe is no trial."""
        return [msgspec.structs.replace(row, launch=self.round, control=self._probing) for row in answers]

    @property
    def spent(self) -> float:
        return self._last - self._began if self._began is not None else 0.0

    def _stride(self, point: Point) -> int:
        """With many candidates, a denser look costs little beside trying them all."""
        if self._thorough:
            return 1
        return 2 if len(self._live[point]) >= _MANY else 3

    # ---- what comes next -----------------------------------------------------------------------------------

    def _rounds(self) -> Iterator[tuple[Point, list[Settings]]]:
        if self._budget is not None:
            self._probing = True  # what a trial costs is seen before anybody is left out for it
            for point in sorted(self._anchors, key=lambda p: -self._weight[p]):
                if self.spent <= _PROBES * self._budget:
                    yield point, [()]
            self._probing = False
            self._fit(self._budget)
        yield from self._rung(self._anchors, 2)
        yield from self._rung(self._anchors, LOOKS[0])
        self._between()
        for target in (2, *LOOKS):
            yield from self._rung([p for line in self._series.values() for p in line], target)

    def _rung(self, points: Sequence[Point], target: int) -> Iterator[tuple[Point, list[Settings]]]:
        """Rounds until each point has `target` of them or is settled; then the hopeless leave."""
        if target > self._options.rounds:
            return
        settled = self._settled(points)
        todo = [p for p in points if p not in settled and self.trials.rounds(p) < target]
        while todo:
            self._random.shuffle(todo)
            # Under a budget that ends in the middle of a rung what counts most has been measured.
            todo.sort(key=lambda p: -self._weight[p])
            for point in todo:
                batch = list(self._live[point])
                if not self._affordable(point, len(batch)):
                    self._short = True
                    return
                self._random.shuffle(batch)
                yield point, batch
            todo = [p for p in todo if self.trials.rounds(p) < target]
        self._drop()

    def _drop(self) -> None:
        racing = {p: s for p, s in self._live.items() if len(s) > 1 and self.trials.rounds(p) > 1}
        if self._thorough:  # only what cannot be used
            lost = {p: {s for s in some if s and (p, s) in self.trials.void} for p, some in racing.items()}
        else:
            lost = hopeless(self.trials, racing, self._options)
        for point, out in lost.items():
            self._live[point] = [s for s in self._live[point] if s not in out]

    def _settled(self, points: Sequence[Point]) -> set[Point]:
        """Where more trials would change little: the default is alone or has no time, its last rival is proved faster,
        or after eight trials all that remain are proved faster or none is ahead by the regret."""
        judged = judge(self.trials, self._options)
        found = set()
        for point in points:
            rivals = [s for s in self._live[point] if s]
            known = [judged[point][s] for s in rivals if s in judged.get(point, {})]
            proved = bool(known) and all(one.verdict == "faster" for one in known)
            tied = not self._thorough and all(one.ratio.log_ratio > -self._options.margin for one in known)
            late = self.trials.rounds(point) >= LOOKS[1]
            alone = not rivals or (point, ()) in self.trials.void
            looked = point in self._looked and self.trials.rounds(point) >= 2
            if alone or (proved and len(rivals) == 1) or (late and proved) or ((late or looked) and tied):
                found.add(point)
        return found

    def _between(self) -> None:
        """Sizes between two anchors race the best rival of either. Where none was ahead of the default there, two
        trials look whether the default changes in between."""
        anchors = set(self._anchors)
        for line in self._series.values():
            at = [k for k, point in enumerate(line) if point in anchors]
            for k, point in enumerate(line):
                if point in anchors or not at:
                    continue
                near = {max((a for a in at if a < k), default=at[0]), min((a for a in at if a > k), default=at[-1])}
                best = {a: self._best_rival(line[a]) for a in near}
                self._live[point] = [s for s in self._live[point] if s in ((), *best.values())]
                if not any(self._ahead(line[a], s) for a, s in best.items() if s):
                    self._looked.add(point)

    def _best_rival(self, point: Point) -> Settings:
        """The fastest that is not the default, also of those that have left."""
        return leader(self.trials, point, [s for s in self.trials.tried(point) if s])

    def _ahead(self, point: Point, settings: Settings) -> bool:
        apart = self.trials.against(point, settings, ())
        return centre(apart) < -self._options.margin  # NaN is not ahead

    # ---- what it may cost ----------------------------------------------------------------------------------

    def _afford(self, left: float, trial: float) -> None:
        """SpecError where `left` seconds do not suffice for the least comparison, of trials of `trial` seconds."""
        least = 2 * LOOKS[0] * trial
        if left < least and not self.trials.logs:
            smallest = math.ceil(least + (self._budget or 0.0) - left)
            raise SpecError(
                f"a budget of {format_time(self._budget or 0.0)} is too small for one honest comparison: the default "
                f"and one candidate, {LOOKS[0]} trials each of about {format_time(trial)}, take {format_time(least)}; "
                f"the smallest that would do is {smallest} s"
            )

    def _fit(self, budget: float) -> None:
        """Fewer candidates, then fewer points, where the budget does not suffice to screen all."""
        dear = {p: self._expected(p) for p in self._anchors}
        self._afford(budget - self.spent, min(dear.values()))
        affordable = _SCREENING * (budget - self.spent)
        self._anchors.sort(key=lambda p: -self._weight[p])
        many = keep = max(len(self._live[p]) for p in self._anchors)
        while keep > 2 and 2 * sum(min(keep, len(self._live[p])) * dear[p] for p in self._anchors) > affordable:
            keep -= 1
        if keep < many:
            self._left_out.append(
                f"not tried for want of time: all but the {keep - 1} candidates that the cost model puts first"
            )
            self._live = {p: s[:keep] for p, s in self._live.items()}
        count = len(self._anchors)
        while count > 1 and 2 * sum(len(self._live[p]) * dear[p] for p in self._anchors[:count]) > affordable:
            count -= 1
        if count < len(self._anchors):
            left = ", ".join(f"{p.case.op} {format_bytes(p.case.nbytes)}" for p in self._anchors[count:])
            self._left_out.append(f"not tried for want of time: {left}")
            self._anchors = self._anchors[:count]
            lines = {p.series for p in self._anchors}
            self._series = {s: [p for p in self._anchors if p.series == s] for s in lines}
            self._series = {s: sorted(line, key=_place) for s, line in self._series.items()}

    def _affordable(self, point: Point, trials: int) -> bool:
        return self._budget is None or self.spent + trials * self._expected(point) <= self._budget

    def _expected(self, point: Point) -> float:
        """Seconds of a trial: as seen here, or at the nearest size, or as guessed."""
        same = [p for p in self._cost if p.series == point.series]
        if not same:
            return self._guess
        near = min(same, key=lambda p: abs(math.log((p.case.nbytes + 1) / (point.case.nbytes + 1))))
        seconds, count = self._cost[near]
        return seconds / count

    # ---- what it found -------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Cost, what did not take part and why, and what more trials could change."""
        open_ = [c for c in choices(self.trials, self._options) if c.uncertain]
        logs = self.trials.logs
        left = list(self._left_out)
        if self._short:
            left.append("the budget is spent; more would go to what is uncertain")
        if self._short and not any(self.trials.rounds(p) >= LOOKS[0] for p in logs):
            dear = min((seconds / count for seconds, count in self._cost.values()), default=self._guess)
            left.append(
                f"no comparison was finished; the smallest budget that would do is {math.ceil(2 * LOOKS[0] * dear)} s"
            )
        settings = {s for p in logs for s in logs[p] if s}
        void = {
            f"void: {describe(s)} for {p.case.op} from {format_bytes(p.case.nbytes)}: {why}"
            for (p, s), why in self.trials.void.items()
        }
        return Report(
            seconds=self.spent,
            budget=self._budget,
            trials=sum(len(figures) for p in logs for figures in logs[p].values()),
            points=len(logs),
            candidates=len(settings),
            void=tuple(sorted(void)),
            left_out=tuple(left),
            uncertain=tuple(
                f"uncertain: {c.point.case.op} {format_bytes(c.point.case.nbytes)}: {c.uncertain}" for c in open_
            ),
        )


def _place(point: Point) -> tuple[str, str, str, int]:
    case = point.case
    return (case.op, case.dtype, case.groups, case.nbytes)


def _anchor(k: int, line: Sequence[Point], stride: int) -> bool:
    return k % stride == 0 or k == len(line) - 1
