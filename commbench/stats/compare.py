"""Is NEW slower than BASE? Every matched row with its ratio, interval and verdict; what no row can tell is said.

The intervals are those of commbench.stats.ratios: they take launches as the unit and hold for all rows at once.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from commbench.stats.matching import STATISTICS, Answer, Matched, Question, Side, figures, launch_order, match
from commbench.stats.ratios import student, table_ratios, tests_of
from commbench.stats.summary import median_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Verdict = Literal["same", "faster", "slower", "unsure", "broken", "mended"]
# What an interval knows about: other launches, this one launch only, other launches as the user says they vary.
Basis = Literal["launches", "one launch", "assumed"]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio of times NEW / BASE with its simultaneous interval (None: not known), and what it means."""

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Verdict = "unsure"
    basis: Basis | None = None


class Difference(Effect, frozen=True, kw_only=True):
    """One row. Times in us: the geometric mean over launches of each launch's `statistic`. `why` it is no ratio, or
    no verdict."""

    question: Question
    statistic: str | None = None
    base_us: float | None = None
    new_us: float | None = None
    base_launches: int = 0
    new_launches: int = 0
    why: str | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`together`: the mean over all rows that every launch has, one more test of the table. `notes`: sentences on
    what the ratios rest on."""

    rows: tuple[Difference, ...]
    together: Effect | None
    matched: Matched
    confidence: float
    min_effect: float
    spread: float | None
    notes: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """1: something is slower or broken. 0: no row can be slower by more than the minimum effect. 3: cannot tell."""
        effects: list[Effect] = [*self.rows, *([self.together] if self.together else [])]
        if any(effect.verdict in ("slower", "broken") for effect in effects):
            return 1
        return 0 if self.rows and all(map(self.harmless, self.rows)) else 3

    def harmless(self, row: Effect) -> bool:
        """Same, faster, or one of the two: the whole interval is below the minimum effect."""
        settled = row.basis in ("launches", "assumed") and row.high is not None and row.high <= 1 + self.min_effect
        return settled or row.verdict in ("same", "faster", "mended")


def compare(
    base: Side,
    new: Side,
    *,
    ignore: Sequence[str] = (),
    confidence: float = 0.95,
    min_effect: float = 0.03,
    spread: float | None = None,
) -> Comparison:
    """Every row of the table. `spread`: taken as the standard deviation from launch to launch (a share of the time)
    where both sides have one launch."""
    matched = match(base, new, ignore)
    rows: dict[Question, Difference] = {
        question: Difference(question=question, why=why) for question, why in matched.several.items()
    }
    timed: list[_Timed] = []
    for question, (one, other) in matched.both.items():
        statistic = next((name for name in STATISTICS if name in one.statistics() & other.statistics()), None)
        if statistic:
            timed.append(_Timed(question, statistic, (one, other)))
        else:
            rows[question] = _untimed(question, one, other)
    together = None
    if timed:
        found, together = _timed(timed, confidence, min_effect, spread)
        rows |= {row.question: row for row in found}
    return Comparison(
        rows=tuple(rows[question] for question in sorted(rows, key=_order)),
        together=together,
        matched=matched,
        confidence=confidence,
        min_effect=min_effect,
        spread=spread,
        notes=tuple(_notes(timed)),
    )


def _order(question: Question) -> tuple[tuple[bool, Any], ...]:
    """Series by series, then by size and group; what is not known comes last."""
    series = question._replace(nbytes=0, group=0)
    return tuple(
        (value is None, 0 if value is None else value)
        for value in (question.op, question.mode, *series[4:], question.nbytes, question.group)
    )


class _Timed(NamedTuple):
    """A question that both sides answered with times, and what of them is compared."""

    question: Question
    statistic: str
    sides: tuple[Answer, Answer]


def _notes(timed: Sequence[_Timed]) -> Iterator[str]:
    clocks = [sorted({m.clock for row in timed for m in row.sides[k].launches.values() if m.seconds}) for k in (0, 1)]
    if any("simulated" in found for found in clocks):
        yield "SIMULATED: these times come from a model, not from a network"
    if clocks[0] != clocks[1]:
        yield f"BASE is timed by {_list(clocks[0])} clock, NEW by {_list(clocks[1])}: the ratio holds that, too"
    for statistic in STATISTICS[1:]:
        if count := sum(row.statistic == statistic for row in timed):
            yield f"the {statistic} is compared in {_rows(count)}: the median is not told by both sides"
    for k, (name, other) in enumerate((("BASE", "NEW"), ("NEW", "BASE"))):
        counts = [(len(row.sides[k].launches), len(row.sides[1 - k].launches)) for row in timed]
        if count := sum(mine < 3 and mine < theirs for mine, theirs in counts):
            yield f"{name} has one or two launches in {_rows(count)}: it is taken to vary as {other} does"


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _list(words: Sequence[str]) -> str:
    return " and ".join(words)


def _health(base: Answer, new: Answer) -> tuple[Verdict | None, str | None]:
    """The verdict that follows without any time."""
    if new.bad and not base.bad:
        return "broken", f"NEW {new.bad}"
    if base.bad and not new.bad and new.statistics():
        return "mended", f"BASE {base.bad}"
    return None, None


def _untimed(question: Question, base: Answer, new: Answer) -> Difference:
    verdict, why = _health(base, new)
    if why is None:
        sides = (("BASE", base), ("NEW", new))
        said = [f"{name} {a.bad or f'skipped: {a.skipped}'}" for name, a in sides if a.bad or a.skipped]
        said += [f"{name} has no time above 0" for name, a in sides if not (a.bad or a.skipped or a.statistics())]
        why = "; ".join(said) or f"BASE tells {_kinds(base)}, NEW {_kinds(new)}: nothing that can be compared"
    return Difference(question=question, verdict=verdict or "unsure", why=why)


def _kinds(answer: Answer) -> str:
    return _list([name for name in STATISTICS if name in answer.statistics()])


def _timed(
    timed: Sequence[_Timed], confidence: float, min_effect: float, spread: float | None
) -> tuple[list[Difference], Effect | None]:
    base, new = (_logs([(row.statistic, row.sides[k]) for row in timed]) for k in (0, 1))
    log_ratio, half, together = table_ratios(base, new, confidence)
    within = np.array([_within(row, confidence) if math.isnan(h) else h for row, h in zip(timed, half, strict=True)])
    single = np.isnan(half)
    basis: list[Basis | None] = ["launches"] * len(timed)
    for k in np.flatnonzero(single).tolist():
        basis[k] = "assumed" if spread is not None else None if math.isnan(within[k]) else "one launch"
    if spread is not None:
        z = float(student(np.array(np.inf), (1 - confidence) / tests_of(len(timed))))
        own = np.nan_to_num(within[single]) / float(student(np.array(np.inf), 1 - confidence))
        half[single] = z * np.sqrt(2 * spread**2 + np.square(own))
    said = verdicts(log_ratio, half, min_effect)
    shown = np.where(np.isnan(half), within, half)
    out = []
    for k, row in enumerate(timed):
        verdict, why = _health(*row.sides)
        out.append(
            Difference(
                question=row.question,
                statistic=row.statistic,
                base_us=float(np.exp(np.nanmean(base[k])) * 1e6),
                new_us=float(np.exp(np.nanmean(new[k])) * 1e6),
                base_launches=int((~np.isnan(base[k])).sum()),
                new_launches=int((~np.isnan(new[k])).sum()),
                verdict=verdict or said[k],
                why=why,
                basis=basis[k],
                **_bounds(log_ratio[k], shown[k]),
            )
        )
    return out, _together(float(together[0]), float(together[1]), min_effect)


def _logs(answers: Sequence[tuple[str, Answer]]) -> "Floats":
    """rows x launches of log seconds, NaN where a launch has no figure."""
    columns = {launch: k for k, launch in enumerate(launch_order(answer for _, answer in answers))}
    out = np.full((len(answers), len(columns)), np.nan)
    for k, (statistic, answer) in enumerate(answers):
        for launch, measurement in answer.launches.items():
            if value := figures(measurement).get(statistic):
                out[k, columns[launch]] = math.log(value)
    return out


def _within(row: _Timed, confidence: float) -> float:
    """Half the log interval of two medians, for these two launches only; NaN where samples do not give it."""
    squares = 0.0
    for answer in row.sides:
        seconds = next((m.seconds for m in answer.launches.values() if m.status == "ok" and m.kind == "samples"), ())
        if row.statistic != "median" or not seconds:
            return math.nan
        middle, low, high = (float(edge[0]) for edge in median_interval(np.array([seconds]), confidence))
        if not low > 0:
            return math.nan
        squares += max(math.log(high / middle), math.log(middle / low)) ** 2
    return math.sqrt(squares)


def _bounds(log_ratio: float, half: float) -> dict[str, float | None]:
    known = not math.isnan(half)
    return {
        "ratio": math.exp(log_ratio),
        "low": math.exp(log_ratio - half) if known else None,
        "high": math.exp(log_ratio + half) if known else None,
    }


def _together(log_ratio: float, half: float, min_effect: float) -> Effect | None:
    if math.isnan(half):
        return None
    (verdict,) = verdicts(np.array([log_ratio]), np.array([half]), min_effect)
    return Effect(verdict=verdict, basis="launches", **_bounds(log_ratio, half))


def verdicts(log_ratio: "Floats", half: "Floats", min_effect: float) -> list[Verdict]:
    """same: the whole interval lies within the minimum effect. faster, slower: the interval excludes no difference,
    and the ratio is beyond the minimum effect. unsure: neither, or no interval."""
    bound = math.log1p(min_effect)
    away = np.abs(log_ratio)
    same = away + half <= bound
    beyond = (away > half) & (away > bound)
    words: list[Verdict] = np.select(
        [same, beyond & (log_ratio > 0), beyond], ["same", "slower", "faster"], "unsure"
    ).tolist()
    return words
