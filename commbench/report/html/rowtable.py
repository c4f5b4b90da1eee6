"""The table of all rows, as cells of text."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from commbench.report.html.examined import Examined, counted, meeting
from commbench.report.html.phrases import short
from commbench.report.view import ABOUT, figures, group_ranks, known_digits, one_line, size
from commbench.stats.rows import Row

MOST_ROWS = 2500
_KIND = {"samples": "-", "p50": "median"}
_FIRST = ("failed", "hung", "ok", "skipped")


class Column(NamedTuple):
    """`numeric`: figures, the point under the point."""

    name: str
    hint: str = ""
    numeric: bool = True


class RowTable(NamedTuple):
    """columns   those of texts, those of figures, one of text
    lines     (status, cells)
    same      what all rows have in common
    reasons   what `[1]` in a cell means
    """

    columns: Sequence[Column]
    lines: Sequence[tuple[str, Sequence[str]]]
    same: Sequence[str]
    reasons: Sequence[str]
    left_out: int

    @property
    def figures(self) -> tuple[int, int]:
        """The first and the last column of figures, counted from 1."""
        at = [k for k, column in enumerate(self.columns, 1) if column.numeric]
        return (at[0], at[-1]) if at else (0, 0)


def row_table(runs: Sequence[Examined]) -> RowTable:
    """All rows of all runs, at most MOST_ROWS of them; in each run what went wrong first, what was skipped last."""
    kept = [(one, _kept(one.rows, MOST_ROWS // max(len(runs), 1))) for one in runs]
    kept = [(one, sorted(some, key=lambda row: _FIRST.index(row.status))) for one, some in kept]
    rows = [row for _, some in kept for row in some]
    count = Counter((row.status, row.why) for row in rows if row.status != "ok")
    notes = {reason: k for k, reason in enumerate(count, 1)}
    about = {name: [cell(row) for row in rows] for name, (cell, _) in ABOUT.items()}
    about["group"] = list(map(short, about["group"]))
    texts = {name: [cell or "-" for cell in cells] for name, cells in about.items() if len(set(cells) - {""}) > 1}
    if len(runs) > 1:
        texts = {"run": [one.name for one, some in kept for _ in some], **texts}
    if "group" in texts:
        texts["ranks"] = list(chain.from_iterable(_ranks(one, some) for one, some in kept))
    elif len({row.ranks for row in rows}) > 1:
        texts["ranks"] = [str(row.ranks or "-") for row in rows]
    if any(row.kind != "samples" for row in rows):
        texts["figure"] = [_KIND.get(row.kind, row.kind) for row in rows]
    told = {Column(name, numeric=False): cells for name, cells in texts.items()} | _figures(rows)
    told[Column("ended", "why sampling ended, or why there is no figure", numeric=False)] = [
        row.stopped or "-" if row.status == "ok" else f"{row.status} [{notes[row.status, row.why]}]" for row in rows
    ]
    same = [ABOUT[name][1](row) for name in ABOUT if name not in texts for row in rows[:1]]
    return RowTable(
        list(told),
        [
            (row.status, [one_line(text) for text in line])
            for row, line in zip(rows, zip(*told.values(), strict=True), strict=True)
        ],
        [text for text in same if text],
        [_reason(status, why, count[status, why]) for status, why in notes],
        sum(len(one.rows) for one in runs) - len(rows),
    )


def _kept(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """Where there are too many, those of pairs give way first, then the last ones."""
    if len(rows) <= most:
        return rows
    order = sorted(range(len(rows)), key=lambda k: of_pairs(rows[k]))[:most]
    return [rows[k] for k in sorted(order)]


def of_pairs(row: Row) -> bool:
    """Such rows are many, and have a map of their own."""
    return row.layout == "pairs" or meeting(row.groups) is not None


def _ranks(one: Examined, rows: Sequence[Row]) -> list[str]:
    names = group_ranks(one.run.machine, rows)
    return [names.get(row.group) or str(row.ranks or "-") for row in rows]


def _figures(rows: Sequence[Row]) -> dict[Column, list[str]]:
    if not rows:
        return {}
    known = known_digits(rows)
    two = known.clip(2, 2)
    columns = {
        Column("size"): [size(row.nbytes) if row.nbytes else "-" for row in rows],
        Column("time (us)", "median over samples of the slowest rank"): figures([r.median_us for r in rows], known),
        Column("±%", "half of the interval of the median"): [
            percent(r.half_width, "?" * (r.samples > 0)) for r in rows
        ],
        Column("skew (us)", "from the fastest to the slowest rank"): figures([r.skew_us for r in rows], two),
        Column("algbw (GB/s)"): figures([row.algbw_gbps for row in rows], known),
        Column("busbw (GB/s)"): figures([row.busbw_gbps for row in rows], known),
        Column("wire%", "least time that the links allow, by time"): [percent(row.wire_share) for row in rows],
        Column("wrong", "elements with wrong data"): ["-" if r.wrong is None else str(r.wrong) for r in rows],
        Column("n", "samples"): [str(row.samples) for row in rows],
    }
    return {column: cells for column, cells in columns.items() if {cell.strip() for cell in cells} != {"-"}}


def percent(share: float | None, unknown: str = "") -> str:
    """`4.2`, `37`."""
    if share is None:
        return unknown or "-"
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _reason(status: str, why: str | None, count: int) -> str:
    return f"{counted(count, 'row')} {status}: {one_line(why or 'no reason was recorded')}"
