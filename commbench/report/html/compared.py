"""A comparison on a page: the answer in words, what differs, the ratios as a plot and as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from commbench.records import Run
from commbench.report.comparison import about, advice, figure_columns, summary
from commbench.report.comparison_plot import picture as comparison_picture
from commbench.report.comparison_plot import series_of
from commbench.report.html.rowtable import Column
from commbench.report.html.svg import Drawing, drawing
from commbench.report.view import one_line, size
from commbench.stats.compare import Comparison
from commbench.stats.history import differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 500
_MOST_UNLIKE = 100


class Compared(NamedTuple):
    """unlike: (what, BASE, NEW) of the records. lines: (verdict, cells)."""

    base: str
    new: str
    answer: str
    advice: Sequence[str]
    notes: Sequence[str]
    unlike: Sequence[tuple[str, str, str]]
    plot: Drawing | None
    columns: Sequence[Column]
    lines: Sequence[tuple[str, Sequence[str]]]
    left_out: int


def compared(found: Comparison, base: Sequence[Run], new: Sequence[Run], prefix: str) -> Compared:
    """Everything that the page tells of NEW against BASE."""
    unlike = differences(base, new)
    rows = found.rows[:MOST_ROWS]
    cells_of = about([row.question for row in rows])
    texts = {name: cells for name, cells in cells_of.items() if len(set(cells) - {""}) > 1}
    columns = {Column(name, numeric=False): [cell or "-" for cell in cells] for name, cells in texts.items()}
    columns[Column("size")] = [size(row.question.nbytes) if row.question.nbytes else "-" for row in rows]
    if rows:
        columns |= {Column(name.replace("_us", " (us)")): cells for name, cells in figure_columns(rows).items()}
    columns[Column("verdict", numeric=False)] = [row.verdict for row in rows]
    if any(row.why for row in rows):
        columns[Column("why", numeric=False)] = [one_line(row.why or "-") for row in rows]
    drawn = [row for row in found.rows if row.ratio is not None]
    told = [(f"setting {name}", *map(str, both)) for name, both in found.matched.differing.items()]
    told += [(one.name, one.base, one.new) for one in unlike]
    left_out = [
        f"Only in {name}: {len(questions)} row{'s' * (len(questions) != 1)}."
        for name, questions in zip(("BASE", "NEW"), found.matched.only, strict=True)
        if questions
    ]
    return Compared(
        base=_names(base),
        new=_names(new),
        answer=summary(found),
        advice=[*advice(found, unlike)],
        notes=[*found.notes, *left_out],
        unlike=[(one_line(a), one_line(b), one_line(c)) for a, b, c in told[:_MOST_UNLIKE]],
        plot=drawing(lambda: _untitled(comparison_picture(found, series_of(drawn))), prefix) if drawn else None,
        columns=list(columns),
        lines=[(row.verdict, line) for row, line in zip(rows, zip(*columns.values(), strict=True), strict=True)],
        left_out=len(found.rows) - len(rows),
    )


def _names(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(one_line(f"{run.name} ({run.created[:16].replace('T', ' ')})") for run in runs))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _untitled(whole: "Figure") -> "Figure":
    """The page has the title in its text."""
    whole.axes[0].set_title("")
    return whole
