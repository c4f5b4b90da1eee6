"""What a tuned job could gain: the measured default against the rules found, weighted by the job's own sizes. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from commbench.model.messages import Message, Use, between
from commbench.records import Case, Measurement
from commbench.records.recommendation import Rule
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Point, Trials, intervals
from commbench.tune.rules import find, pick
from commbench.tune.verdicts import LOOKS, USUAL, Options, describe
from commbench.units import format_bytes, format_time

_MOST = 0.8  # of the bytes: so much the sizes named first are to cover
_TOLD = 8  # sizes that are told one by one


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of message. None where its size lies outside of what was measured.

    share   of the job's bytes
    gain_us a step: what the job could save, with half its interval
    """

    message: Message
    calls: float
    share: float
    default_us: float | None = None
    best_us: float | None = None
    settings: Settings = ()
    gain_us: tuple[float, float] | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """lines by falling share of bytes; the first `top` of them have `top_share` of it.

    exposed_us   a step: the default's time of what was measured, as far as the job does not hide it
    gain_us      a step, with half its interval
    gain         of the step, with half its interval; None: no length of the step told, or in doubt
    doubt        why what was measured here does not tell of the job; ""
    """

    lines: tuple[Line, ...]
    top: int
    top_share: float
    measured_share: float
    exposed_us: float
    gain_us: tuple[float, float]
    gain: tuple[float, float] | None = None
    doubt: str = ""

    def sentences(self) -> Iterator[str]:
        """`83 % of your bytes are in 3 sizes; possible gain 2.1 % of the step, +-0.6`."""
        where = f"{_percent(self.top_share)} of your bytes are in {self.top} size{'s' * (self.top != 1)}"
        if not any(line.default_us for line in self.lines):
            why = f" ({self.doubt})" if self.doubt else ""
            yield f"{where}; none of your sizes was measured{why}, so nothing can be said of the gain"
            return
        if self.gain is not None:
            gain, half = _as_exact(100 * self.gain[0], 100 * self.gain[1], 1)
            yield f"{where}; possible gain {gain} % of the step, +-{half}"
        else:
            gain, half = _as_exact(*self.gain_us, 0)
            yield f"{where}; possible gain {gain} us a step, +-{half}"
        if self.doubt:
            yield self.doubt
        if self.measured_share < 1 - 1e-9:
            yield f"{_percent(1 - self.measured_share)} of the bytes are of sizes that were not measured"
        better = [line for line in self.lines if line.settings]
        for line in better[:_TOLD]:
            yield (
                f"{line.message.op} {format_bytes(line.message.nbytes)}: {line.default_us:.4g} us, with "
                f"{describe(line.settings)} {line.best_us:.4g} us"
            )
        if len(better) > _TOLD:
            yield f"and {len(better) - _TOLD} more sizes"


def _as_exact(value: float, half: float, least: int) -> tuple[str, str]:
    """With as many decimals (up to 3) as show the interval."""
    decimals = min(max(least, math.ceil(-math.log10(half))), 3) if half > 0 else least
    return f"{value:.{decimals}f}", f"{half:.{decimals}f}"


def _percent(share: float) -> str:
    """Whole percents, but neither `0 %` of something nor `100 %` of less than all."""
    if 0 < share < 0.005:
        return "less than 1 %"
    return "more than 99 %" if 0.995 <= share < 1 - 1e-9 else f"{100 * share:.0f} %"


def explain(
    measurements: Sequence[Measurement],
    messages: Mapping[Message, Use],
    step_us: float | None = None,
    options: Options = USUAL,
    *,
    rules: Sequence[Rule] | None = None,
    exposed_us: float | None = None,
) -> Explanation:
    """The gain that the rules promise (where not given: those that the measurements prove).

    What is not proved counts as none, so the figure is not the luckiest trial. Sizes between two measured ones are
    taken from both, on log axes, where the rule's settings were tried at both. `exposed_us`: of all communication of a
    step, where the job tells that instead of a share for each message; the messages share it by their time.

    The interval holds for the sum. Each measured size has one error, however many messages are taken from it; errors
    of different sizes are independent, for they come from different trials. It knows nothing of errors in `exposed`.
    """
    known = _Known(measurements, rules, options)
    total = sum(m.nbytes * use.calls for m, use in messages.items())
    shares = {m: m.nbytes * use.calls / total if total else 0.0 for m, use in messages.items()}
    at = {m: known.at(m) for m in messages}
    spent = {m: use.calls * use.exposed * one.default_us for m, use in messages.items() if (one := at[m])}
    measured = sum(shares[m] for m in spent)
    exposed = sum(spent.values())
    if exposed_us is not None and exposed > exposed_us * measured:
        spent = {m: value * exposed_us * measured / exposed for m, value in spent.items()}
        exposed = exposed_us * measured
    lines = [_line(known, m, use.calls, shares[m], at[m], spent.get(m, 0.0)) for m, use in messages.items()]
    lines.sort(key=lambda line: (-line.share, line.message))
    top, covered = 0, 0.0
    while top < len(lines) and covered < _MOST - 1e-9:
        covered += lines[top].share
        top += 1
    gain = _gain(known, [(one, spent[m]) for m, one in at.items() if one])
    doubt = known.others(messages) if not spent else ""
    if step_us and exposed > step_us:
        doubt = (
            f"with the times measured here this communication alone takes {format_time(exposed / 1e6)} of a step of "
            f"{format_time(step_us / 1e6)}: the job ran on another network, so no share of its step is told"
        )
    return Explanation(
        lines=tuple(lines),
        top=top,
        top_share=covered,
        measured_share=measured,
        exposed_us=exposed,
        gain_us=gain,
        gain=(gain[0] / step_us, gain[1] / step_us) if step_us and not doubt else None,
        doubt=doubt,
    )


class _At(NamedTuple):
    """At one size: the default's time, what the rules choose, log of its time over the default's, and which measured
    points that is from, each with how much it counts."""

    default_us: float
    settings: Settings
    log_ratio: float
    points: tuple[tuple[Point, float], ...]


def _line(known: "_Known", message: Message, calls: float, share: float, at: _At | None, spent: float) -> Line:
    if at is None:
        return Line(message=message, calls=calls, share=share)
    return Line(
        message=message,
        calls=calls,
        share=share,
        default_us=at.default_us,
        best_us=at.default_us * math.exp(at.log_ratio),
        settings=at.settings,
        gain_us=_gain(known, [(at, spent)]),
    )


def _gain(known: "_Known", parts: Iterable[tuple[_At, float]]) -> tuple[float, float]:
    """(sum, half its interval) of what is saved of `spent` us each.

    A saving is spent * (1 - r): r has the error of its ratio, and spent that of the default's own time. Errors of one
    source add up, of several in square; luck in choosing goes one way everywhere, so it adds up over all.
    """
    errors: dict[tuple[Point, Settings], float] = defaultdict(float)
    saved, luck = 0.0, 0.0
    for at, spent in parts:
        if not at.settings:
            continue
        gain = -spent * math.expm1(at.log_ratio)
        saved += gain
        for point, share in at.points:
            half = math.expm1(known.half[point, at.settings])
            errors[point, at.settings] += share * (spent - gain) * half
            errors[point, ()] += share * gain * math.expm1(known.half[point, ()])
            luck += share * (spent - gain) * half * known.luck[point]
    return saved, math.sqrt(sum(error * error for error in errors.values())) + luck


class _Known:
    """What was measured: the points of each (op, ranks), and the ratios of the rules' settings with their errors."""

    def __init__(self, measurements: Sequence[Measurement], rules: Sequence[Rule] | None, options: Options) -> None:
        self._trials = trials = Trials(measurements)
        self._rules = find(measurements, {}, options=options) if rules is None else rules
        self._lines: dict[tuple[str, int], dict[Case, list[Point]]] = defaultdict(dict)
        points = [p for p in trials.logs if (p, ()) not in trials.void and not math.isnan(trials.log_time(p, ()))]
        for point in sorted(points, key=lambda p: trials.about[p][1]):
            self._lines[point.case.op, trials.about[point][0]].setdefault(point.series, []).append(point)
        used = {rule.settings for rule in self._rules}
        pairs = [(p, s) for p in points for s in trials.tried(p) if s in used]
        rows = [trials.against(point, settings, ()) for point, settings in pairs]
        each = intervals(rows, [point for point, _ in pairs], options.confidence, 1)
        self.ratio = {pair: one.log_ratio for pair, one in zip(pairs, each, strict=True) if not math.isnan(one.half)}
        self.half = {pair: one.half for pair, one in zip(pairs, each, strict=True)}
        logs = [np.array([x for x in trials.logs[p][()].values() if not math.isnan(x)]) for p in points]
        for point, one in zip(points, intervals(logs, points, options.confidence, 1), strict=True):
            self.half[point, ()] = one.half
        self.luck = {point: self._luck(point) for point in points}

    def _luck(self, point: Point) -> float:
        """How far the fastest of several seems faster than it is, at most, in halves of its interval: the expected
        highest of as many normal errors (Blom 1958). All could have been chosen that had the trials for it, at each of
        the search's looks."""
        trials = self._trials
        rivals = sum(len(trials.against(point, s, ())) >= LOOKS[0] for s in trials.tried(point) if s)
        many = max(rivals, 1) * len(LOOKS)
        return NormalDist().inv_cdf((many - 0.375) / (many + 0.25)) / NormalDist().inv_cdf(0.975)

    def others(self, messages: Iterable[Message]) -> str:
        """Why none of the messages was measured, where it is for their number of ranks."""
        for op, ranks in sorted({(one.op, one.ranks) for one in messages}):
            there = sorted(n for known, n in self._lines if known == op)
            if there and ranks not in there:
                return f"{op} was measured on {', '.join(map(str, there))} ranks, the job calls it on {ranks}"
        return ""

    def at(self, message: Message) -> _At | None:
        """None outside of what was measured. Where several series (data types, layouts) have the size, the one that
        promises least."""
        lines = self._lines.get((message.op, message.ranks), {}).values()
        found = [one for line in lines if (one := self._on(line, message))]
        return max(found, key=lambda one: one.default_us * math.expm1(one.log_ratio), default=None)

    def _on(self, line: Sequence[Point], message: Message) -> _At | None:
        logs = [math.log(max(self._trials.about[point][1], 1)) for point in line]
        near = tuple((line[k], share) for k, share in between(logs, math.log(max(message.nbytes, 1))))
        if not near:
            return None
        default = math.exp(sum(share * self._trials.log_time(point, ()) for point, share in near)) * 1e6
        settings = pick(self._rules, message.op, message.ranks, message.nbytes, line[0].case.dtype)
        if not settings or any((point, settings) not in self.ratio for point, _ in near):
            return _At(default, (), 0.0, near)
        return _At(default, settings, sum(share * self.ratio[point, settings] for point, share in near), near)
