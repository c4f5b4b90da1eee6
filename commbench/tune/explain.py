"""What a tuned job could gain: the measured default against the best, weighted by the job's own sizes. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from commbench.model.workload import Traffic
from commbench.records import Measurement
from commbench.tune.evidence import Trials, intervals
from commbench.tune.verdicts import USUAL, Options, choices, describe
from commbench.units import format_bytes

_MOST = 0.8  # of the bytes: so much the sizes named first are to cover


class Message(NamedTuple):
    """What a job sends again and again."""

    op: str
    ranks: int
    nbytes: int


class Use(NamedTuple):
    """Of one kind of message, in a step of one rank: calls, and the share of their time that is not hidden."""

    calls: float
    exposed: float = 1.0


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
    settings: tuple[tuple[str, str], ...] = ()
    gain_us: tuple[float, float] | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """lines by falling share of bytes. gain: of the step, with half its interval; None: no length of the step told."""

    lines: tuple[Line, ...]
    top: int
    top_share: float
    measured_share: float
    gain_us: tuple[float, float]
    gain: tuple[float, float] | None = None

    def sentences(self) -> Iterator[str]:
        """`83 % of your bytes are in 3 sizes; possible gain 2.1 % of the step, +-0.6`."""
        sizes = f"{self.top} size{'s' * (self.top != 1)}"
        where = f"{self.top_share:.0%} of your bytes are in {sizes}".replace("%", " %")
        if self.measured_share == 0:
            yield f"{where}; none of your sizes was measured, so nothing can be said of the gain"
            return
        if self.gain is not None:
            yield f"{where}; possible gain {self.gain[0] * 100:.1f} % of the step, +-{self.gain[1] * 100:.1f}"
        else:
            yield f"{where}; possible gain {self.gain_us[0]:.0f} us a step, +-{self.gain_us[1]:.0f}"
        if self.measured_share < 1:
            yield f"{1 - self.measured_share:.0%} of the bytes are of sizes that were not measured".replace("%", " %")
        for line in self.lines:
            if line.settings and line.default_us and line.best_us:
                yield (
                    f"{line.message.op} {format_bytes(line.message.nbytes)}: {line.default_us:.4g} us, with "
                    f"{describe(line.settings)} {line.best_us:.4g} us"
                )


def histogram(traffic: Sequence[Traffic], steps: int, ranks: int = 1) -> dict[Message, Use]:
    """A job's messages by its traces (commbench.model.workload.traffic) of `ranks` ranks over `steps` steps each.

    Where the trace has no times, all of a call counts as exposed: the gain is then the most it can be.
    """
    found: dict[Message, Use] = {}
    for row in traffic:
        if row.op is None or row.nbytes is None or row.ranks is None:
            continue
        message = Message(row.op, row.ranks, row.nbytes)
        calls = row.calls / max(steps * ranks, 1)
        exposed = min(1.0, row.exposed_us / row.time_us) if row.time_us > 0 else 1.0
        before = found.get(message, Use(0.0))
        total = before.calls + calls
        found[message] = Use(total, (before.calls * before.exposed + calls * exposed) / total if total else 1.0)
    return found


def explain(
    measurements: Sequence[Measurement],
    messages: Mapping[Message, Use],
    step_us: float | None = None,
    options: Options = USUAL,
) -> Explanation:
    """The gain that proved choices promise: what is not proved counts as none, so the figure is not the luckiest trial.

    Sizes between two measured ones are taken from both, on log axes, where both have the same choice. Errors of
    different sizes are taken as independent: they come from different trials.
    """
    trials = Trials(measurements)
    known = _known(trials, options)
    total = sum(m.nbytes * use.calls for m, use in messages.items())
    lines = [_line(known, m, use, total) for m, use in messages.items()]
    lines.sort(key=lambda line: (-line.share, line.message))
    top, covered = 0, 0.0
    while top < len(lines) and covered < _MOST - 1e-9:
        covered += lines[top].share
        top += 1
    told = [line.gain_us for line in lines if line.gain_us]
    gain = (sum(g for g, _ in told), math.sqrt(sum(h * h for _, h in told)))
    return Explanation(
        lines=tuple(lines),
        top=top,
        top_share=covered,
        measured_share=sum(line.share for line in lines if line.default_us is not None),
        gain_us=gain,
        gain=(gain[0] / step_us, gain[1] / step_us) if step_us else None,
    )


class _Known(NamedTuple):
    """Of one measured size: log seconds of the default, the choice, its log ratio and half of that one's interval."""

    log_bytes: float
    default: float
    settings: tuple[tuple[str, str], ...]
    ratio: float
    half: float


def _known(trials: Trials, options: Options) -> dict[tuple[str, int], list[_Known]]:
    chosen = [c for c in choices(trials, options) if c.default_us is not None]
    used = [c for c in chosen if c.settings]
    rows = [trials.against(c.point, c.settings, ()) for c in used]
    each = iter(intervals(rows, [c.point for c in used], options.confidence, 1))  # one statement is made: of the sum
    found: dict[tuple[str, int], list[_Known]] = {}
    for choice in chosen:
        interval = next(each) if choice.settings else None
        ranks, nbytes = trials.about[choice.point]
        one = _Known(
            math.log(max(nbytes, 1)),
            trials.log_time(choice.point, ()),
            choice.settings,
            interval.log_ratio if interval else 0.0,
            interval.half if interval else 0.0,
        )
        found.setdefault((choice.point.case.op, ranks), []).append(one)
    return {key: sorted(line) for key, line in found.items()}


def _line(known: Mapping[tuple[str, int], Sequence[_Known]], message: Message, use: Use, total: float) -> Line:
    share = message.nbytes * use.calls / total if total else 0.0
    at = _between(known.get((message.op, message.ranks), ()), math.log(max(message.nbytes, 1)))
    if at is None:
        return Line(message=message, calls=use.calls, share=share)
    default = math.exp(at.default) * 1e6
    saved = use.calls * use.exposed * default
    return Line(
        message=message,
        calls=use.calls,
        share=share,
        default_us=default,
        best_us=default * math.exp(at.ratio),
        settings=at.settings,
        gain_us=(-saved * math.expm1(at.ratio), saved * math.exp(at.ratio) * math.expm1(at.half)),
    )


def _between(line: Sequence[_Known], log_bytes: float) -> _Known | None:
    """As measured at this size, or between its neighbours; None outside of the range."""
    if not line or not line[0].log_bytes - 1e-9 <= log_bytes <= line[-1].log_bytes + 1e-9:
        return None
    above = next((k for k, one in enumerate(line) if one.log_bytes >= log_bytes - 1e-9), len(line) - 1)
    high = line[above]
    if abs(high.log_bytes - log_bytes) < 1e-9 or above == 0:
        return high
    low = line[above - 1]
    w = (log_bytes - low.log_bytes) / (high.log_bytes - low.log_bytes)
    default = low.default + w * (high.default - low.default)
    if low.settings != high.settings:
        return _Known(log_bytes, default, (), 0.0, 0.0)
    ratio = low.ratio + w * (high.ratio - low.ratio)
    return _Known(log_bytes, default, low.settings, ratio, max(low.half, high.half))
