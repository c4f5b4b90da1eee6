"""The picture of a comparison: the ratio of times against size, with its interval and the minimum effect."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commbench.errors import CommbenchError
from commbench.report.comparison import about, summary
from commbench.report.image import COLOURS, GREY, format_of, save
from commbench.report.view import size
from commbench.stats.compare import Comparison, Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
_WIDTH, _HEIGHT, _LEGEND = 9.0, 4.6, 0.22
_MOST = 12  # series


def plot(comparison: Comparison, path: Path) -> None:
    """Draws the rows that have a ratio. CommbenchError: none has. SpecError: no such format."""
    format_of(path)
    rows = [row for row in comparison.rows if row.ratio is not None]
    if not rows:
        raise CommbenchError("nothing to draw: no row of BASE and NEW has a ratio")
    save(lambda: picture(comparison, series_of(rows)), path)


def series_of(rows: Sequence[Difference]) -> dict[str, list[Difference]]:
    """What tells a series apart from the others -> its rows."""
    cells = about([row.question for row in rows])
    varies = [column for column in cells.values() if len(set(column) - {""}) > 1]
    found: dict[str, list[Difference]] = {}
    for k, row in enumerate(rows):
        label = " · ".join(filter(None, (column[k] for column in varies))) or row.question.op
        found.setdefault(label, []).append(row)
    return found


def picture(comparison: Comparison, series: Mapping[str, Sequence[Difference]]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = dict(list(series.items())[:_MOST])
    legend = _LEGEND * math.ceil(len(shown) / 2)
    whole = Figure(figsize=(_WIDTH, _HEIGHT + legend), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    axes = whole.subplots()
    bound = 1 + comparison.min_effect
    axes.axhspan(1 / bound, bound, color="#888888", alpha=0.16, linewidth=0)
    axes.axhline(1, color=GREY, linewidth=1)
    sizes = sorted({row.question.nbytes for rows in shown.values() for row in rows})
    place = {nbytes: k for k, nbytes in enumerate(sizes)}
    for k, (label, rows) in enumerate(shown.items()):
        beside = 0.5 * ((k + 0.5) / len(shown) - 0.5)
        _drawseries_of(axes, [(place[row.question.nbytes] + beside, row) for row in rows], k, label)
    every = max(1, math.ceil(len(sizes) / 12))
    axes.set_xticks(range(0, len(sizes), every), [size(nbytes) if nbytes else "-" for nbytes in sizes[::every]])
    axes.set_ylabel("time of NEW / time of BASE")
    axes.grid(axis="x", visible=False)
    if len(shown) > 1:
        whole.legend(loc="outside lower center", ncols=2, fontsize=9)
    simulated = any(row.question.simulated for rows in shown.values() for row in rows)
    title = "SIMULATED, no network was measured. " * simulated + summary(comparison)
    axes.set_title("\n".join(textwrap.wrap(title, 100)), fontsize=9.5)
    said = f"grey band: ±{100 * comparison.min_effect:.3g} %, the least that matters; filled: faster or slower"
    if len(shown) < len(series):
        said += f"; {len(series) - len(shown)} more series are not drawn"
    axes.set_xlabel(f"message size\n{said}", color=GREY)
    return whole


def _drawseries_of(axes: "Axes", points: Sequence[tuple[float, Difference]], k: int, label: str) -> None:
    """Sizes stand beside each other, evenly: intervals of neighbours do not cover each other."""
    colour, marker = COLOURS[k % len(COLOURS)], _MARKERS[k % len(_MARKERS)]
    for x, row in points:
        if row.low is not None and row.high is not None:
            dashes = ":" if row.basis == "one launch" else "-"
            axes.vlines(x, row.low, row.high, color=colour, linewidth=1.6, linestyle=dashes)
    for decided in (False, True):
        some = [(x, row.ratio or 0.0) for x, row in points if (row.verdict in ("faster", "slower")) is decided]
        xs, ys = [x for x, _ in some], [y for _, y in some]
        face = colour if decided else "white"
        axes.plot(xs, ys, linestyle="", marker=marker, markersize=5.5, color=colour, markerfacecolor=face)
    axes.plot([], [], linestyle="-", marker=marker, markersize=5.5, color=colour, label=label)
