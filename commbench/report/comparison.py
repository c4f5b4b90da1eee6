"""A comparison for people and programs: the answer in words first, what differs, then the table."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from commbench.records import Run
from commbench.report.view import figures, one_line, size, where
from commbench.stats.compare import Comparison, Difference, Effect
from commbench.stats.history import FEWEST, History, Unlike, differences
from commbench.stats.matching import Question
from commbench.stats.summary import digits

WIDTH = 119
_MOST_UNLIKE = 20
_LONGEST = 60
_NEVER = {
    "mode": "latency and throughput are never compared",
    "simulated": "a model is never compared with a network",
}
_FEW, _ENOUGH = 3, 5  # launches
_MANY = 20  # times as many launches: nobody will make them
_WORDS = ("slower", "broken", "faster", "mended", "same", "unsure")
_SAID = {word: word for word in _WORDS} | {"same": "the same"}

# What a row is about, where it is a question for the row.
_ABOUT: dict[str, Callable[[Question], str]] = {
    "op": lambda q: q.op,
    "backend": lambda q: q.backend or "",
    "dtype": lambda q: q.dtype or "",
    "redop": lambda q: q.redop or "",
    "mode": lambda q: q.mode,
    "buffer": lambda q: {True: "in", False: "out", None: ""}[q.in_place],
    "root": lambda q: "" if q.root is None else f"root {q.root}",
    "settings": lambda q: " ".join(f"{name}={value}" for name, value in q.settings or ()),
    "group": lambda q: f"{q.groups or ''}[{q.group}]" if q.group else q.groups or "",
    "ranks": lambda q: f"{q.ranks} ranks" if q.ranks else "",
    "hosts": lambda q: f"{q.hosts} host{'s' * (q.hosts != 1)}" if q.hosts else "",
}


def about(questions: Sequence[Question]) -> dict[str, list[str]]:
    """What each row is about but its size, column by column."""
    return {name: [one_line(cell(question)) for question in questions] for name, cell in _ABOUT.items()}


def text(comparison: Comparison, base: Sequence[Run], new: Sequence[Run]) -> Iterator[str]:
    """Lines without line ends."""
    unlike = differences(base, new)
    yield from _wrapped(summary(comparison), "")
    for sentence in advice(comparison, unlike):
        yield from _wrapped(sentence, "")
    yield ""
    for name, runs in (("BASE", base), ("NEW", new)):
        yield from _wrapped(f"{name}: {_runs(runs)}")
    yield from _unlike_lines(unlike, comparison.matched.differing)
    yield from _left_out(comparison)
    yield from (line for note in comparison.notes for line in _wrapped(note))
    if comparison.rows:
        yield from _table(comparison)


def summary(comparison: Comparison) -> str:
    """One sentence: how NEW is, in how many rows, and which."""
    rows = comparison.rows
    if not rows:
        return "Nothing can be compared: no row of BASE has its like in NEW."
    said: list[str] = []
    unsure = [row for row in rows if row.verdict == "unsure"]
    for word in _WORDS:
        if some := [row for row in rows if row.verdict == word]:
            count = f"{len(some)} of {len(rows)} rows" if not said else str(len(some))
            which = f" ({_which(some)})" if word not in ("same", "unsure") else ""
            said.append(f"{_SAID[word]} in {count}{which}")
    if harmless := sum(map(comparison.harmless, unsure)):
        said[-1] += f" ({harmless} of them not slower by more than {_percent(comparison.min_effect)})"
    first = f"NEW is {', '.join(said)}."
    if len(unsure) == len(rows):
        first = f"Cannot tell whether NEW is slower: unsure in {len(rows)} of {len(rows)} rows{_orientation(rows)}."
        if looks := _looks(rows, comparison.min_effect):
            first = f"NEW looks {looks}, but nothing here proves it. {first}"
    return first + _together(comparison.together)


def _looks(rows: Sequence[Difference], min_effect: float) -> str:
    """What all ratios say alike; an impression, where there is no interval."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    if ratios and min(ratios) > 1 + min_effect:
        return "slower in every row"
    return "faster in every row" if ratios and max(ratios) < 1 / (1 + min_effect) else ""


def _orientation(rows: Sequence[Difference]) -> str:
    ratios = sorted(row.ratio for row in rows if row.ratio is not None)
    if not ratios:
        return ""
    low, middle, high = (f"{one:.2f}" for one in (ratios[0], float(np.median(ratios)), ratios[-1]))
    return (
        f"; the ratios are {low} to {high}, half of them below {middle}" if len(ratios) > 1 else f"; the ratio is {low}"
    )


def _together(effect: Effect | None) -> str:
    if effect is None or effect.ratio is None or effect.low is None or effect.high is None:
        return ""
    bounds = _bounded(effect)
    return f" All rows together take {bounds[0]} times as long ({bounds[1]} to {bounds[2]}): {effect.verdict}."


def _which(rows: Sequence[Difference]) -> str:
    """`all_reduce 64MiB to 256MiB, 1.12 to 1.31 times as long`."""
    told = _sizes([row.question for row in rows])
    ratios = sorted(row.ratio for row in rows if row.ratio is not None)
    if ratios:
        spread = dict.fromkeys(f"{ratio:.2f}" for ratio in (ratios[0], ratios[-1]))
        told += f", {' to '.join(spread)} times as long"
    return told


def _sizes(questions: Sequence[Question]) -> str:
    each: dict[str, list[int]] = {}
    for question in questions:
        each.setdefault(question.op, []).append(question.nbytes)
    said = []
    for op, sizes in each.items():
        ends = dict.fromkeys(size(nbytes) for nbytes in (min(sizes), max(sizes)) if nbytes)
        said.append(" ".join(filter(None, (one_line(op), " to ".join(ends)))))
    return ", ".join(said[:4]) + (f" and {len(said) - 4} more" if len(said) > 4 else "")


def advice(comparison: Comparison, unlike: Sequence[Unlike]) -> Iterator[str]:
    """What to do next."""
    rows = comparison.rows
    alone = [row for row in rows if row.ratio is not None and row.basis in (None, "one launch")]
    if alone:
        yield (
            f"One launch on each side in {_rows(len(alone))}: nobody knows what another start of the same would "
            "have given, so the ratios are for orientation. Measure with launches: 5, or give several "
            "runs of each side in a folder; --launch-spread 2% decides under the assumption that starts vary by 2 %."
        )
    open_rows = [row for row in rows if row.verdict == "unsure" and row.basis == "launches" and row.high and row.ratio]
    if open_rows:
        half = float(np.median([math.log(row.high / row.ratio) for row in open_rows if row.high and row.ratio]))
        count = min(min(row.base_launches, row.new_launches) for row in open_rows)
        more = math.ceil(count * (half / math.log1p(comparison.min_effect)) ** 2)
        reach = f"The intervals of the unsure rows reach ±{_percent(math.expm1(half))}"
        if count < _FEW:
            yield f"So few launches tell little of how launches vary: take {_ENOUGH} a side, with launches: {_ENOUGH}."
        elif more <= _MANY * count:
            yield f"{reach}; ±{_percent(comparison.min_effect)} takes about {max(more, count + 1)} launches a side."
        else:
            yield f"{reach}: too much noise for --min-effect {_percent(comparison.min_effect).replace(' ', '')}."
    if comparison.code == 1 and unlike:
        yield "To find the cause, undo what differs one by one and measure again."
    for fields, count in comparison.matched.near.items():
        never = [_NEVER[name] for name in fields if name in _NEVER]
        would = "; ".join(never) or f"{' '.join(f'--ignore {name}' for name in fields)} compares them all the same"
        yield f"{_rows(count)} on each side differ in {' and '.join(fields)} only: {would}."


def _left_out(comparison: Comparison) -> Iterator[str]:
    for name, questions in zip(("BASE", "NEW"), comparison.matched.only, strict=True):
        if questions:
            yield from _wrapped(f"only in {name}: {_rows(len(questions))} ({_sizes(questions)})")


def _runs(runs: Sequence[Run]) -> str:
    first = runs[0]
    dates = sorted(run.created[:16].replace("T", " ") for run in runs)
    names = ", ".join(dict.fromkeys(one_line(run.name) for run in runs[:4])) + (", ..." if len(runs) > 4 else "")
    count = f"{len(runs)} runs, " if len(runs) > 1 else ""
    return f"{count}{names} · {where(first.machine)} · {one_line(' to '.join(dict.fromkeys((dates[0], dates[-1]))))}"


def _unlike_lines(unlike: Sequence[Unlike], settings: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for name, (base, new) in settings.items():
        yield from _wrapped(f"compared: {name} {base} -> {new}")
    if not unlike:
        yield "# the records of both sides tell no difference"
    for one in unlike[:_MOST_UNLIKE]:
        yield from _wrapped(f"differs: {_short(one.name)} {_short(one.base)} -> {_short(one.new)}")
    if len(unlike) > _MOST_UNLIKE:
        yield f"# and {len(unlike) - _MOST_UNLIKE} more differences (--json tells all)"


def _short(told: str) -> str:
    told = one_line(told)
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


def _wrapped(told: str, mark: str = "# ") -> list[str]:
    lines = textwrap.wrap(told, WIDTH - len(mark) - 2, break_on_hyphens=False)
    return [f"{mark}{'  ' * (k > 0 and bool(mark))}{line}" for k, line in enumerate(lines)]


# ---- the table --------------------------------------------------------------------------------------------


def _table(comparison: Comparison) -> Iterator[str]:
    rows = comparison.rows
    cells_of = about([row.question for row in rows])
    told = {name: sorted(set(cells) - {""}) for name, cells in cells_of.items()}
    same = [cells[0] for cells in told.values() if len(cells) == 1]
    tests = len(rows) + (comparison.together is not None)
    percent = _percent(comparison.confidence)
    yield from _wrapped(f"all rows: {' · '.join(same)}") if same else ()
    yield "# base_us, new_us = mean over launches (geometric) of the time of the slowest rank; ratio = NEW / BASE"
    yield f"# from, to = where the ratio lies, with {percent} confidence in all {tests} intervals together"
    bound = 1 + comparison.min_effect
    yield f"# same: all of that between {1 / bound:.3f} and {bound:.3f}; slower, faster: 1 outside, ratio beyond"
    yield "#"
    columns = {name: [cell or "-" for cell in cells] for name, cells in cells_of.items() if len(told[name]) > 1}
    columns |= {"size": [size(row.question.nbytes) if row.question.nbytes else "-" for row in rows]}
    columns |= figure_columns(rows)
    notes = {why: k for k, why in enumerate(dict.fromkeys(row.why for row in rows if row.why), 1)}
    columns["verdict"] = [f"{row.verdict} [{notes[row.why]}]" if row.why else row.verdict for row in rows]
    left = {*_ABOUT, "verdict"}
    widths = {title: max(map(len, (title, *cells))) for title, cells in columns.items()}
    form = "  ".join(f"%{'-' * (title in left)}{width}s" for title, width in widths.items())
    yield f"# {form % tuple(columns)}".rstrip()
    yield from (f"  {form % cells}".rstrip() for cells in zip(*columns.values(), strict=True))
    yield "#"
    if any(row.basis == "one launch" for row in rows):
        yield "# (from) (to): within these two launches only; what another start would give is not known"
    if comparison.spread is not None and any(row.basis == "assumed" for row in rows):
        yield f"# assumed, not measured: times vary by {_percent(comparison.spread)} from launch to launch"
    count = Counter(row.why for row in rows)
    for why, k in notes.items():
        yield from _wrapped(f"[{k}] {_rows(count[why])}: {one_line(why)}")


def figure_columns(rows: Sequence[Difference]) -> dict[str, list[str]]:
    bounds = (np.array([getattr(row, name) for row in rows], np.float64) for name in ("ratio", "low", "high"))
    known = np.maximum(digits(*bounds), 3)
    columns = {name: figures([getattr(row, name) for row in rows], known) for name in ("base_us", "new_us")}
    told = [_bounded(row) for row in rows]
    columns |= dict(zip(("ratio", "from", "to"), map(list, zip(*told, strict=True)), strict=True))
    launches = [f"{row.base_launches}+{row.new_launches}" for row in rows]
    return columns | {"launches": launches}


def _bounded(effect: Effect) -> tuple[str, str, str]:
    """Ratio and interval; two decimals, three where the interval is narrow."""
    if effect.ratio is None:
        return "-", "-", "-"
    if effect.low is None or effect.high is None:
        return f"{effect.ratio:.2f}", "?", "?"
    form = "%.3f" if effect.high - effect.low < 0.02 else "%.2f"
    low = form % effect.low if effect.low >= 0.01 else "0"
    high = form % effect.high if effect.high < 100 else ">100"
    bounds = (f"({low})", f"({high})") if effect.basis == "one launch" else (low, high)
    return form % effect.ratio, *bounds


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


# ---- history ----------------------------------------------------------------------------------------------


def history_text(history: History) -> Iterator[str]:
    """What changed, when, and what else changed then; lines without line ends."""
    if not history.rows:
        yield f"Too few runs: no row has the {FEWEST} that a change can be told from ({len(history.runs)} runs)."
        return
    if not history.changes:
        yield f"No change in {len(history.rows)} rows over {len(history.runs)} runs."
    elif history.slower:
        count = f"{len(history.slower)} of {len(history.rows)} rows"
        yield f"Slower since the last change: {count} ({_sizes(history.slower)})."
    else:
        yield f"Nothing is slower since the last change ({len(history.rows)} rows, {len(history.runs)} runs)."
    for change in history.changes:
        yield ""
        yield from _wrapped(change_sentence(history, change.after), "")
        for one in change.unlike[:_MOST_UNLIKE]:
            yield from _wrapped(f"differs: {_short(one.name)} {_short(one.base)} -> {_short(one.new)}")
        if not change.unlike:
            yield "# the records of the two runs tell no difference"
    if history.short:
        yield f"# {history.short} rows are in fewer than {FEWEST} runs and were not searched"


def change_sentence(history: History, after: int) -> str:
    """`Between 2026-03-01 and 2026-03-02: 14 of 20 rows slower, median 1.12 times as long (all_reduce ...)`."""
    change = next(change for change in history.changes if change.after == after)
    before, first = history.runs[after - 1], history.runs[after]
    said = []
    for word, chosen in (
        ("slower", [s for s in change.steps if s.ratio > 1]),
        ("faster", [s for s in change.steps if s.ratio < 1]),
    ):
        if chosen:
            middle = float(np.median([step.ratio for step in chosen]))
            which = _sizes([step.question for step in chosen])
            said.append(
                f"{len(chosen)} of {len(history.rows)} rows {word}, median {middle:.2f} times as long ({which})"
            )
    dates = [one_line(run.created[:16].replace("T", " ")) for run in (before, first)]
    return f"Between {dates[0]} ({one_line(before.name)}) and {dates[1]} ({one_line(first.name)}): {'; '.join(said)}."


# ---- for programs -----------------------------------------------------------------------------------------


def as_json(comparison: Comparison, base: Sequence[Run], new: Sequence[Run]) -> bytes:
    """The document of `compare --json`."""
    matched, unlike = comparison.matched, differences(base, new)
    together = comparison.together and msgspec.structs.asdict(comparison.together)
    return msgspec.json.encode(
        {
            "schema": 1,
            "exit_code": comparison.code,
            "summary": summary(comparison),
            "advice": list(advice(comparison, unlike)),
            "confidence": comparison.confidence,
            "min_effect": comparison.min_effect,
            "launch_spread": comparison.spread,
            "counts": {word: sum(row.verdict == word for row in comparison.rows) for word in _WORDS},
            "together": together,
            "base": [_run(run) for run in base],
            "new": [_run(run) for run in new],
            "differs": [one._asdict() for one in unlike],
            "compared": {name: {"base": one, "new": other} for name, (one, other) in matched.differing.items()},
            "notes": comparison.notes,
            "rows": [_question(row.question) | _effect(row) for row in comparison.rows],
            "only_base": list(map(_question, matched.only[0])),
            "only_new": list(map(_question, matched.only[1])),
            "near": [{"fields": fields, "rows": count} for fields, count in matched.near.items()],
        }
    )


def history_json(history: History) -> bytes:
    """The document of `compare --history --json`."""
    changes = [
        {
            "before": _run(history.runs[change.after - 1]),
            "after": _run(history.runs[change.after]),
            "sentence": change_sentence(history, change.after),
            "rows": [_question(step.question) | {"ratio": step.ratio} for step in change.steps],
            "differs": [one._asdict() for one in change.unlike],
        }
        for change in history.changes
    ]
    return msgspec.json.encode(
        {
            "schema": 1,
            "exit_code": history.code,
            "runs": [_run(run) for run in history.runs],
            "rows": len(history.rows),
            "rows_too_short": history.short,
            "changes": changes,
            "slower": list(map(_question, history.slower)),
        }
    )


def _run(run: Run) -> dict[str, str]:
    return {"name": run.name, "created": run.created}


def _question(question: Question) -> dict[str, Any]:
    return question._asdict() | {"settings": None if question.settings is None else dict(question.settings)}


def _effect(row: Difference) -> dict[str, Any]:
    told = msgspec.structs.asdict(row)
    del told["question"]
    return told
