"""What differs between runs, and when their times changed for good.

Change points are looked for in all rows at once. For each row and each stretch of runs (from one date to another, or
to the end) the statistic is Student's t of the runs inside against those outside, so that a time of trouble that is
over is found as well as a step (circular binary segmentation: Olshen, Venkatraman, Lucito and Wigler 2004,
Biostatistics 5(4)). The threshold is the largest t over all rows and stretches that comes up when the runs are
shuffled, in all but 5 % of shuffles (maxT: Westfall and Young 1993, Resampling-based multiple testing). Whole runs
are shuffled, so rows that move together do no harm, and no distribution is assumed; runs that drift slowly are no
shuffle of each other, and drift is told as a change. The parts are searched again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from commbench.records import Run
from commbench.stats.matching import STATISTICS, Answer, Question, Side, figures, over_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Stretches = tuple[NDArray[np.int64], NDArray[np.int64]]

FEWEST = 9  # runs: of fewer, shuffles give the order that was seen too often for any change to be told
_EDGE = 2  # runs on each side of a change point: one run is an outlier
_SHUFFLES = 399
_EVERY_LENGTH = 40  # runs: of longer histories not every length of a stretch is looked at
_LEAST_SPREAD = 1e-4  # runs that agree to the last digit are told apart by no less
_CHUNK = 2**22  # figures worked on together
# Of a spec: what may differ between runs that ask the same.
_INCIDENTAL = ("name", "seed", "out")


# ---- what differs -----------------------------------------------------------------------------------------


class Unlike(NamedTuple):
    """One thing that is not the same on both sides; several values of one side are joined by ` | `."""

    name: str
    base: str
    new: str


def differences(base: Sequence[Run], new: Sequence[Run]) -> list[Unlike]:
    """What the records of the two sides tell differently: software, settings, machines, specs."""
    sides = [[_record(run) for run in runs] for runs in (base, new)]
    names = dict.fromkeys(name for runs in sides for record in runs for name in record)
    out = []
    for name in names:
        told = [dict.fromkeys(record.get(name, "unset") for record in runs) for runs in sides]
        if set(told[0]) != set(told[1]):
            out.append(Unlike(name, " | ".join(told[0]), " | ".join(told[1])))
    return out


def _record(run: Run) -> dict[str, str]:
    """Everything in run.json that may explain a difference, by name."""
    machine = run.machine
    told = dict(machine.facts)
    told |= {f"{host.name}: {name}": value for host in machine.hosts for name, value in host.differs.items()}
    told |= machine.environment
    told |= dict.fromkeys(machine.hidden, "set, hidden")
    told |= {"commbench": run.commbench, "launcher": machine.launcher, "ranks": str(machine.size)}
    told["hosts"] = _hosts([host.name for host in machine.hosts])
    told |= {"fabric": machine.fabric.name} if machine.fabric else {}
    told["tool"] = run.origin.tool if run.origin else "commbench"
    if run.origin:
        told |= {f"option {name}": text for name, text in run.origin.options.items()}
    told |= {f"spec {name}": text for name, text in _flat(run.spec) if name.split(".")[0] not in _INCIDENTAL}
    told |= {f"warning: {warning}": "yes" for warning in machine.warnings}
    return {name: text for name, text in told.items() if text}


def _hosts(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) if len(names) <= 8 else f"{len(names)} from {min(names)} to {max(names)}"


def _flat(spec: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in spec.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- when it changed --------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One row at a change point: the ratio of the times after it to those before it."""

    question: Question
    ratio: float


class Change(NamedTuple):
    """Between run `after` - 1 and run `after` (of those sorted by date) some rows changed."""

    after: int
    steps: tuple[Step, ...]
    unlike: tuple[Unlike, ...]


class History(NamedTuple):
    """`runs` in the order of time; `rows` searched; `short` have too few runs; `slower`: those whose last change is
    for the worse."""

    runs: tuple[Run, ...]
    rows: tuple[Question, ...]
    short: int
    changes: tuple[Change, ...]
    slower: tuple[Question, ...]

    @property
    def code(self) -> int:
        """0 nothing changed for the worse, 1 something is slower since its last change, 3 too few runs."""
        return 3 if not self.rows else 1 if self.slower else 0


def history(runs: Side, *, confidence: float = 0.95, min_effect: float = 0.03, seed: int = 0) -> History:
    """Change points of `runs`, which are in the order of time. The same seed gives the same shuffles."""
    questions, table = _table(over_time(runs), len(runs))
    enough = (~np.isnan(table)).sum(axis=1) >= FEWEST
    rows = [question for question, keep in zip(questions, enough.tolist(), strict=True) if keep]
    table, bound = table[enough], math.log1p(min_effect)
    hit = change_points(table, confidence, min_effect, seed)
    edges = [0, *hit, len(runs)]
    changes = []
    last: dict[Question, float] = {}
    for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
        shift = _mean(table[:, at:after]) - _mean(table[:, before:at])
        steps = [Step(rows[k], math.exp(shift[k])) for k in hit[at] if abs(shift[k]) > bound]
        last |= {step.question: step.ratio for step in steps}
        if steps:
            changes.append(Change(at, tuple(steps), tuple(differences([runs[at - 1][0]], [runs[at][0]]))))
    return History(
        runs=tuple(run for run, _ in runs),
        rows=tuple(rows),
        short=int((~enough).sum()),
        changes=tuple(changes),
        slower=tuple(question for question, ratio in last.items() if ratio > 1),
    )


def change_points(
    table: "Floats", confidence: float = 0.95, min_effect: float = 0.03, seed: int = 0
) -> dict[int, list[int]]:
    """First run after each change point -> the rows it is seen in. `table`: rows x runs of log times, NaN: none."""
    if not len(table):
        return {}
    rng = np.random.default_rng(seed)
    return dict(sorted(_search(table, 0, 1 - confidence, math.log1p(min_effect), rng)))


def _table(found: Mapping[Question, Mapping[int, Answer]], runs: int) -> "tuple[list[Question], Floats]":
    """Rows x runs of log times, NaN where a run has none; each row in the first statistic that all its runs have."""
    table = np.full((len(found), runs), np.nan)
    for k, answers in enumerate(found.values()):
        timed = {run: answer for run, answer in answers.items() if answer.statistics()}
        common = set.intersection(*(answer.statistics() for answer in timed.values())) if timed else set()
        statistic = next((name for name in STATISTICS if name in common), "")
        for run, answer in timed.items():
            logs = [math.log(told[statistic]) for m in answer.launches.values() if statistic in (told := figures(m))]
            table[k, run] = sum(logs) / len(logs) if logs else np.nan
    return list(found), table


def _mean(table: "Floats") -> "Floats":
    count = (~np.isnan(table)).sum(axis=1)
    return np.asarray(np.nansum(table, axis=1) / np.where(count > 0, count, np.nan))


def _search(
    table: "Floats", start: int, tail: float, bound: float, rng: np.random.Generator
) -> "Iterator[tuple[int, list[int]]]":
    """(first run after a change point, the rows it was found in) of rows x runs, the first run being `start`."""
    runs = table.shape[1]
    if runs < FEWEST:
        return
    centred = table - _mean(table)[:, None]
    stretches = _stretches(runs)
    least = _threshold(centred, stretches, tail, rng)

    def told(stretches: "Stretches") -> "tuple[Floats, NDArray[np.bool_]]":
        seen, shift = (found[:, 0] for found in _student_t(centred[:, None], stretches))
        return seen, (seen > least) & (np.abs(shift) > bound)

    if not told(stretches)[1].any():
        return
    for _ in range(3):  # the best of those that were looked at; then the best with either end moved, twice
        seen, hit = told(stretches)
        best = int(np.where(hit, np.square(seen), 0).sum(axis=0).argmax())
        first, stop, rows = int(stretches[0][best]), int(stretches[1][best]), np.flatnonzero(hit[:, best]).tolist()
        stretches = _near(first, stop, runs)
    ends = [first, *([stop] if stop < runs else [])]
    yield from ((start + end, rows) for end in ends)
    for a, b in pairwise([0, *ends, runs]):
        yield from _search(table[:, a:b], start + a, tail, bound, rng)


def _stretches(runs: int) -> "Stretches":
    """First runs and ends of what is looked at: all lengths of a short history, a choice of a long one's."""
    lengths = np.arange(_EDGE, runs)
    if runs > _EVERY_LENGTH:
        lengths = np.unique(np.geomspace(_EDGE, runs, 2 * runs.bit_length()).astype(np.int64))
    first, length = (grid.ravel() for grid in np.meshgrid(np.arange(_EDGE, runs - 1), lengths, indexing="ij"))
    return _allowed(np.append(first, np.arange(_EDGE, runs - 1)), np.append(first + length, [runs] * (runs - 3)), runs)


def _near(first: int, stop: int, runs: int) -> "Stretches":
    every = np.arange(runs + 1)
    return _allowed(np.append(every, np.full(runs + 1, first)), np.append(np.full(runs + 1, stop), every), runs)


def _allowed(first: "NDArray[np.int64]", stop: "NDArray[np.int64]", runs: int) -> "Stretches":
    """Those with enough runs in every part. One that begins at 0 is the rest of one that goes to the end."""
    inside = (first >= _EDGE) & (stop - first >= _EDGE) & ((stop <= runs - _EDGE) | (stop == runs))
    return first[inside], stop[inside]


def _threshold(centred: "Floats", stretches: "Stretches", tail: float, rng: np.random.Generator) -> float:
    """What the largest t of all rows and stretches exceeds in `tail` of the shuffles."""
    rows, runs = centred.shape
    largest = [math.inf]  # more confidence than the shuffles can give tells nothing
    step = max(1, _CHUNK // (rows * len(stretches[0])))
    while len(largest) <= _SHUFFLES:
        count = min(step, _SHUFFLES + 1 - len(largest))
        order = rng.permuted(np.tile(np.arange(runs), (count, 1)), axis=1)
        largest += _student_t(centred[:, order], stretches)[0].max(axis=(0, 2)).tolist()
    return sorted(largest)[math.ceil((_SHUFFLES + 1) * (1 - tail)) - 1]


def _student_t(values: "Floats", stretches: "Stretches") -> "tuple[Floats, Floats]":
    """(|t|, mean inside less mean outside) of each stretch of rows x orders x runs; 0 where a side has one or none."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0)
    if there.all():  # then all counts are the same, and a third of the work goes
        there = there[:1, :1]
    count, total = (_sums(part, stretches) for part in (there, filled))
    counts = there.sum(axis=-1, keepdims=True)
    totals = filled.sum(axis=-1, keepdims=True)
    inside, outside = np.maximum(count, 1), np.maximum(counts - count, 1)
    shift = total / inside - (totals - total) / outside
    weight = 1 / inside + 1 / outside
    squares = np.square(filled).sum(axis=-1, keepdims=True) - np.square(totals) / np.maximum(counts, 1)
    within = np.maximum((squares - np.square(shift) / weight) / np.maximum(counts - 2, 1), _LEAST_SPREAD**2)
    usable = (count >= _EDGE) & (counts - count >= _EDGE)
    return np.where(usable, np.abs(shift) / np.sqrt(within * weight), 0), np.where(usable, shift, 0)


def _sums(values: "NDArray[Any]", stretches: "Stretches") -> "NDArray[Any]":
    before = np.concatenate((np.zeros_like(values[..., :1], dtype=np.float64), np.cumsum(values, axis=-1)), axis=-1)
    return np.asarray(before[..., stretches[1]] - before[..., stretches[0]])
