"""Choices to rules: the fewest ranges of sizes whose settings cost at most the regret at every measured size. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from commbench.records import Case, Measurement
from commbench.records.recommendation import Numerics, Rule
from commbench.tune.candidates import Candidate, Settings
from commbench.tune.evidence import Point, Trials
from commbench.tune.verdicts import USUAL, Judged, Options, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_Cost = tuple[int, int, float]


def compress(seconds: "Floats", regret: float = 0.02, held: Sequence[int] | None = None) -> list[int]:
    """Which candidate each size gets: candidates x sizes of seconds in, one index a size out.

    Row 0 is the default, which needs no rule; inf is not to be used. At every size the choice takes at most
    (1 + regret) times the least of its column. Of all such assignments it has the fewest rules (runs of neighbouring
    sizes with one candidate that is not the default); of these the one that leaves what is `held` now (the default,
    where not told) at the fewest sizes, which is the hysteresis: a border moves only where staying costs more than the
    regret; of these the least sum of regrets. By an exact dynamic programme over sizes.
    """
    count, sizes = seconds.shape
    before: list[tuple[_Cost, list[int]]] = []
    for k in range(sizes):
        column = seconds[:, k]
        least = float(column.min())
        allowed = [c for c in range(count) if column[c] <= least * (1 + regret) and math.isfinite(column[c])]
        stay = held[k] if held is not None else 0
        now: dict[int, tuple[_Cost, list[int]]] = {}
        for c in allowed:
            step = (int(c != stay and stay in allowed), float(column[c]) / least - 1)
            ways = []
            for cost, path in before or [((0, 0, 0.0), [])]:
                new = int(c != 0 and (not path or path[-1] != c))
                ways.append(((cost[0] + new, cost[1] + step[0], cost[2] + step[1]), [*path, c]))
            now[c] = min(ways)
        before = list(now.values())
    return min(before)[1] if before else []


def find(
    measurements: Sequence[Measurement],
    race: Mapping[str, Sequence[Candidate]],
    *,
    nodes: int | None = None,
    options: Options = USUAL,
    held: Sequence[Rule] = (),
) -> tuple[Rule, ...]:
    """The rules that the trials of a search prove. `held`: rules in force, whose borders stay where they may."""
    trials = Trials(measurements)
    judged = judge(trials, options)
    lines: dict[Case, list[Point]] = {}
    for point in sorted(trials.logs, key=lambda p: p.case.nbytes):
        if (point, ()) not in trials.void:
            lines.setdefault(point.series, []).append(point)
    numerics = {c.settings: c.numerics for found in race.values() for c in found}
    out = [
        rule for line in lines.values() for rule in _Line(trials, line, judged, options).rules(nodes, numerics, held)
    ]
    return tuple(sorted(out, key=lambda rule: (rule.op, rule.ranks, rule.dtype, rule.min_bytes)))


class _Line:
    """All sizes of one series."""

    def __init__(
        self,
        trials: Trials,
        points: Sequence[Point],
        judged: Mapping[Point, Mapping[Settings, Judged]],
        options: Options,
    ) -> None:
        self._trials, self._points, self._judged, self._options = trials, points, judged, options
        self._settings: list[Settings] = [(), *sorted({s for p in points for s in judged[p]})]
        self._nbytes = [trials.about[p][1] for p in points]

    def _table(self) -> "Floats":
        """Seconds of what may be used at each size.

        A candidate may be used where it is proved faster than the default; where the default may be used, also where
        it is proved to do no harm, so that one rule can run on through a tie.
        """
        table = np.full((len(self._settings), len(self._points)), np.inf)
        for k, point in enumerate(self._points):
            judged = self._judged[point]
            base = self._trials.log_time(point, ())
            table[0, k] = math.exp(base)
            proved = [math.exp(base + j.ratio.log_ratio) for j in judged.values() if j.verdict == "faster"]
            tie = table[0, k] <= min(proved, default=math.inf) * (1 + self._options.regret)
            for c, settings in enumerate(self._settings[1:], 1):
                one = judged.get(settings)
                if one and (one.verdict == "faster" or (tie and one.harmless)):
                    # Only what is proved may set the mark for others.
                    least = math.exp(base + one.ratio.log_ratio)
                    table[c, k] = least if one.verdict == "faster" else max(least, min([*proved, table[0, k]]))
        return table

    def rules(self, nodes: int | None, numerics: Mapping[Settings, Numerics], held: Sequence[Rule]) -> list[Rule]:
        chosen = compress(self._table(), self._options.regret, [self._held(k, held) for k in range(len(self._points))])
        runs: list[tuple[int, int, int]] = []  # candidate, first, last
        for k, c in enumerate(chosen):
            if runs and runs[-1][0] == c:
                runs[-1] = (c, runs[-1][1], k)
            else:
                runs.append((c, k, k))
        out = []
        for at, (c, first, last) in enumerate(runs):
            if c == 0:
                continue
            low, high = self._nbytes[first], self._nbytes[last]
            if at > 0 and runs[at - 1][0]:
                low = self._border(runs[at - 1][0], c, first) + 1
            if at + 1 < len(runs) and runs[at + 1][0]:
                high = self._border(c, runs[at + 1][0], runs[at + 1][1])
            out.append(self._rule(self._settings[c], range(first, last + 1), (low, high), nodes, numerics))
        return out

    def _held(self, k: int, held: Sequence[Rule]) -> int:
        case, nbytes = self._points[k].case, self._nbytes[k]
        ranks = self._trials.about[self._points[k]][0]
        for rule in held:
            alike = (rule.op, rule.ranks, rule.dtype) == (case.op, ranks, case.dtype)
            if alike and rule.min_bytes <= nbytes <= rule.max_bytes and rule.settings in self._settings:
                return self._settings.index(rule.settings)
        return 0

    def _border(self, one: int, other: int, k: int) -> int:
        """The last byte of `one`, when `other` begins at size k: where their times cross, on log axes, where both
        were measured at both sizes; else half way."""
        a, b = math.log(self._nbytes[k - 1] or 1), math.log(self._nbytes[k])
        apart = [
            self._trials.log_time(self._points[i], self._settings[other])
            - self._trials.log_time(self._points[i], self._settings[one])
            for i in (k - 1, k)
        ]
        share = apart[0] / (apart[0] - apart[1]) if apart[0] > 0 > apart[1] else 0.5  # NaN: not measured there
        return min(max(int(math.exp(a + share * (b - a))), self._nbytes[k - 1]), self._nbytes[k] - 1)

    def _rule(
        self,
        settings: Settings,
        sizes: range,
        span: tuple[int, int],
        nodes: int | None,
        numerics: Mapping[Settings, Numerics],
    ) -> Rule:
        """Times are geometric means over the sizes; the mean of the intervals holds however they depend."""
        points = [self._points[k] for k in sizes]
        ratios = [self._judged[p][settings].ratio for p in points]
        middle = sum(r.log_ratio for r in ratios) / len(ratios)
        half = sum(r.half for r in ratios) / len(ratios)
        base = sum(self._trials.log_time(p, ()) for p in points) / len(points)
        case = points[0].case
        keys = [p.case.key for p in points]
        keys += [_with(p.case, settings).key for p in points]
        return Rule(
            op=case.op,
            ranks=self._trials.about[points[0]][0],
            nodes=nodes,
            min_bytes=span[0],
            max_bytes=span[1],
            settings=settings,
            baseline_us=math.exp(base) * 1e6,
            time_us=math.exp(base + middle) * 1e6,
            gain_low=1 - math.exp(middle + half),
            gain=1 - math.exp(middle),
            gain_high=1 - math.exp(middle - half),
            evidence=tuple(keys),
            numerics=numerics.get(settings, "bitwise-changing"),
            backend=case.backend,
            dtype=case.dtype,
        )


def _with(case: Case, settings: Settings) -> Case:
    return msgspec.structs.replace(case, settings=settings)


def pick(rules: Sequence[Rule], op: str, ranks: int, nbytes: int, dtype: str = "float32") -> Settings:
    """What the rules say for a message; the default outside of what was measured."""
    for rule in rules:
        if (rule.op, rule.ranks, rule.dtype) == (op, ranks, dtype) and rule.min_bytes <= nbytes <= rule.max_bytes:
            return rule.settings
    return ()
