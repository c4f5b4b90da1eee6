"""What the trials of a search prove at each point: which candidate, by how much, and what is still uncertain. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from commbench.stats.compare import Verdict, verdicts
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Interval, Point, Trials, intervals

LOOKS = (4, 8, 16)  # trials after which a candidate may be accepted; more looks would need wider intervals
_DROP = 0.6  # confidence of the interval on which a candidate leaves: one in five that leave was better by the regret
_OPEN = 0.8  # confidence of the interval on which one that looked better is not called uncertain any more
_FEW = 4  # up to so many trials a single slow one can make a mean: all of them must agree


class Options(NamedTuple):
    """regret: the share of time that does not matter; a gain below it is a tie, and ties keep the default.
    confidence: that no setting is accepted wrongly in the whole search. rounds: the most trials of a candidate."""

    regret: float = 0.02
    confidence: float = 0.95
    rounds: int = LOOKS[-1]

    @property
    def margin(self) -> float:
        return math.log1p(self.regret)


USUAL = Options()


class Judged(NamedTuple):
    """A candidate against the default at one point. `ratio`: log of its time / the default's.

    verdict   of commbench.stats.compare; faster only where it is proved
    harmless  it cannot be slower than the default by more than the regret
    """

    settings: Settings
    ratio: Interval
    verdict: Verdict
    harmless: bool


def judge(trials: Trials, options: Options = USUAL) -> dict[Point, dict[Settings, Judged]]:
    """Every candidate that has trials, against the default; all intervals hold together, over all looks."""
    pairs = [(p, s) for p in trials.logs for s in trials.tried(p) if s and (p, ()) not in trials.void]
    rows = [trials.against(point, settings, ()) for point, settings in pairs]
    found: dict[Point, dict[Settings, Judged]] = {point: {} for point in trials.logs}
    each = intervals(rows, [point for point, _ in pairs], options.confidence, len(pairs) * len(LOOKS))
    for (point, settings), row, interval in zip(pairs, rows, each, strict=True):
        (word,) = verdicts(np.array([interval.log_ratio]), np.array([interval.half]), options.regret)
        if word == "faster" and (len(row) < LOOKS[0] or (len(row) <= _FEW and row.max() > 0)):
            word = "unsure"
        found[point][settings] = Judged(settings, interval, word, bool(interval.high <= options.margin))
    return found


def leader(trials: Trials, point: Point, among: Iterable[Settings]) -> Settings:
    """The least mean time; of equals the first. () where nothing is known."""
    known = [(t, s) for s in among if not math.isnan(t := trials.log_time(point, s))]
    return min(known, default=(0.0, ()))[1]


def hopeless(
    trials: Trials, live: Mapping[Point, Sequence[Settings]], options: Options = USUAL, confidence: float = _DROP
) -> dict[Point, set[Settings]]:
    """Of those still in the race the ones that, by their interval, are not faster than the best or than the default by
    more than the regret. One that leaves wrongly costs time, but no setting is accepted by it."""
    rows, names = [], []
    for point, settings in live.items():
        best = leader(trials, point, settings)
        for base in dict.fromkeys((best, ())):
            rivals = [s for s in settings if s and s != base]
            rows += [trials.against(point, s, base) for s in rivals]
            names += [(point, s) for s in rivals]
    out: dict[Point, set[Settings]] = {point: set() for point in live}
    for (point, s), row, interval in zip(
        names, rows, intervals(rows, [point for point, _ in names], confidence, 1), strict=True
    ):
        agreed = len(row) > _FEW or (len(row) > 0 and row.min() > -options.margin)
        if interval.low > -options.margin and agreed:  # NaN is no evidence
            out[point].add(s)
    for point, settings in live.items():
        out[point] |= {s for s in settings if s and (point, s) in trials.void}
    return out


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What the search says of one point. Times in us; gain is 1 - best / default with its interval.

    settings   the fastest that is proved faster than the default; () keeps the default
    uncertain  a sentence, where more trials could change the answer
    """

    point: Point
    settings: Settings = ()
    default_us: float | None = None
    best_us: float | None = None
    gain: tuple[float, float, float] | None = None
    trials: int = 0
    rounds: int = 0
    candidates: int = 0
    ranks: int = 0
    uncertain: str = ""


def choices(trials: Trials, options: Options = USUAL) -> tuple[Choice, ...]:
    """One for each point that was measured, by series and size."""
    judged = judge(trials, options)
    order = sorted(trials.logs, key=lambda p: (p.case.op, p.case.dtype, p.case.groups, p.case.nbytes))
    return tuple(_choice(trials, point, judged[point], options) for point in order)


def _choice(trials: Trials, point: Point, judged: Mapping[Settings, Judged], options: Options) -> Choice:
    proved = [s for s, one in judged.items() if one.verdict == "faster"]
    best = leader(trials, point, proved)
    base = trials.log_time(point, ())
    if math.isnan(base):
        why = trials.void.get((point, ()), "it was not measured")
        return Choice(point=point, uncertain=f"the default has no time: {why}")
    gain = None
    if best:
        ratio = judged[best].ratio
        gain = (1 - math.exp(ratio.high), 1 - math.exp(ratio.log_ratio), 1 - math.exp(ratio.low))
    return Choice(
        point=point,
        settings=best,
        default_us=math.exp(base) * 1e6,
        best_us=math.exp(trials.log_time(point, best)) * 1e6,
        gain=gain,
        trials=sum(map(len, trials.logs[point].values())),
        rounds=trials.rounds(point),
        candidates=len(judged),
        ranks=trials.about[point][0],
        uncertain=_uncertain(trials, point, judged, best, options),
    )


def _uncertain(
    trials: Trials, point: Point, judged: Mapping[Settings, Judged], best: Settings, options: Options
) -> str:
    """Whether a candidate looks better than the choice by more than the regret, and is not shown to be no better."""
    over = hopeless(trials, {point: list(judged)}, options, _OPEN)[point]
    each = {s: trials.against(point, s, best) for s in judged if s != best and s not in over}
    rivals = {s: row for s, row in each.items() if len(row) and row.mean() < -options.margin}
    if not rivals:
        return ""
    if any(len(row) < 2 for row in rivals.values()):
        return "one trial only of " + ", ".join(describe(s) for s, row in rivals.items() if len(row) < 2)
    most = max(rivals, key=lambda s: -float(rivals[s].mean()))
    change = math.expm1(float(rivals[most].mean()))
    word = describe(best) if best else "the default"
    return f"{describe(most)} may be better than {word} ({change:+.1%} in {len(rivals[most])} trials, not proved)"


def describe(settings: Settings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings) or "default"
