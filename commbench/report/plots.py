"""The picture of runs: bus bandwidth and latency against message size, to be read on a screen or on paper."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commbench.errors import CommbenchError
from commbench.records import Run
from commbench.report.image import COLOURS, GREY, format_of, save
from commbench.report.lines import Band, Facet, Line, Picture, picture
from commbench.report.view import figure, known_digits, one_line, size
from commbench.stats.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Colours, markers and dashes all differ: no two lines of a panel look alike in black and white.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
_WIDE, _NARROW = 11.0, 7.0  # inches: a pair of panels, or latency alone
_PANEL, _LEGEND, _BAR = 3.7, 0.22, 0.27


def plot(runs: Sequence[tuple[Run, Sequence[Row]]], path: Path) -> None:
    """Draws all runs into one picture; the format follows from the suffix."""
    format_of(path)  # before any work
    shown = picture(runs)
    if shown is None:
        names = ", ".join(one_line(run.name) for run, _ in runs) or "no run"
        raise CommbenchError(f"nothing to draw: not one row of {names} is ok; commbench show says why")
    save(lambda: _draw(shown), path)


def _draw(shown: Picture) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    width = _WIDE if any(_rated(facet) for facet in shown.facets) else _NARROW
    head = _head(shown, width)
    heights = [0.16 + 0.22 * len(head), *(_height(facet, width) for facet in shown.facets)]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.05)
    whole = Figure(figsize=(width, sum(heights)), layout=layout)
    parts = whole.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for k, (text, look) in enumerate(head):
        parts[0].text(0.012, 1 - (0.16 + 0.23 * k) / heights[0], text, va="center", **look)
    for part, facet in zip(parts[1:], shown.facets, strict=True):
        if facet.title:
            part.suptitle(facet.title, x=0.012, ha="left", fontsize=11, fontweight="bold")
        (_draw_bars if facet.as_bars else _draw_lines)(part, facet)
    return whole


def _head(shown: Picture, width: float) -> list[tuple[str, dict[str, Any]]]:
    """Lines of text with their looks, none wider than the picture."""
    looks: list[tuple[str, float, dict[str, Any]]] = [
        (shown.title, 8.5, {"fontsize": 13, "fontweight": "bold"}),
        (shown.subtitle, 13, {"color": GREY}),
        (shown.caption, 14.5, {"color": GREY, "fontsize": 8.5}),
    ]
    return [(line, look) for text, per_inch, look in looks for line in textwrap.wrap(text, int(width * per_inch))]


def _rated(facet: Facet) -> bool:
    return any(point.rate is not None for line in facet.lines for point in line.points)


def _columns(facet: Facet, width: float) -> int:
    """Of the legend."""
    longest = max(len(line.label) for line in facet.lines)
    return max(1, min(4, len(facet.lines), int((width - 0.5) / (0.5 + 0.073 * longest))))


def _height(facet: Facet, width: float) -> float:
    title = 0.3 if facet.title else 0.0
    if facet.as_bars:
        return title + 0.9 + _BAR * len(facet.lines)
    return title + _PANEL + _LEGEND * math.ceil(len(facet.lines) / _columns(facet, width))


# ---- against size -----------------------------------------------------------------------------------------


def _draw_lines(part: "SubFigure", facet: Facet) -> None:
    panels = part.subplots(1, 2 if _rated(facet) else 1, squeeze=False)[0]
    handles = [_draw_line(panels, line, k) for k, line in enumerate(facet.lines)]
    sizes = sorted({point.nbytes for line in facet.lines for point in line.points if point.nbytes})
    for panel in panels:
        size_axis(panel, sizes)
    if len(panels) == 2:
        panels[0].set_title("bus bandwidth (GB/s)")
        panels[0].set_ylim(0, 1.06 * panels[0].dataLim.y1)
    panels[-1].set_title("latency (us)")
    time_axis(panels[-1])
    part.legend(
        handles,
        [line.label for line in facet.lines],
        loc="outside lower center",
        ncols=_columns(facet, part.bbox.width / part.dpi),
        handlelength=3.4,
        fontsize=9,
    )


def _draw_line(panels: "Sequence[Axes]", line: Line, k: int) -> Any:
    """The line in each panel; what the legend shows of it."""
    colour, marker, dashes = COLOURS[k % 7], MARKERS[k % 12], DASHES[k % 5]
    look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.6}
    marks: dict[str, Any] = {
        "marker": marker,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
    points = [point for point in line.points if point.nbytes]
    if not points:  # a barrier moves nothing: a level, not a curve
        point = line.points[0]
        if point.time_band:
            panels[-1].axhspan(*point.time_band, color=colour, alpha=0.15, linewidth=0)
        return panels[-1].axhline(point.time, **look)
    x: list[float] = [point.nbytes for point in points]
    band(panels[-1], x, [point.time_band for point in points], colour)
    (handle,) = panels[-1].plot(x, [point.time for point in points], **look, **marks)
    rated = [point for point in points if point.rate is not None]
    if rated:
        x = [point.nbytes for point in rated]
        band(panels[0], x, [point.rate_band for point in rated], colour)
        panels[0].plot(x, [point.rate or 0.0 for point in rated], **look, **marks)
    return handle


def band(panel: "Axes", x: Sequence[float], bands: Sequence[Band], colour: str) -> None:
    low = [band[0] if band else math.nan for band in bands]
    high = [band[1] if band else math.nan for band in bands]
    panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    if len(x) == 1:  # a band of no width
        panel.vlines(x, low, high, color=colour, linewidth=3, alpha=0.4)


def size_axis(panel: "Axes", sizes: Sequence[int]) -> None:
    """Powers of two, a few of them named, 1KiB and 1MiB among these; all sizes where they are close together."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    first, last = math.floor(math.log2(sizes[0])), math.ceil(math.log2(sizes[-1]))
    step = next((step for step in (1, 2, 5) if (last - first) / step <= 8), 10)
    named = [2**k for k in range(first, last + 1) if k % step == 0]
    panel.set_xscale("log", base=2)
    beside = 2 ** min(0.4, 0.05 + math.log2(sizes[-1] / sizes[0]) / 20)
    panel.set_xlim(sizes[0] / beside, sizes[-1] * beside)
    panel.xaxis.set_major_locator(FixedLocator(named if last - first > 1 else sizes[:: len(sizes) - 1]))
    panel.xaxis.set_minor_locator(FixedLocator([2.0**k for k in range(first, last + 1)]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(round(value))))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("message size")


def time_axis(panel: "Axes") -> None:
    """Logarithmic, with plain numbers that are never fewer than two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    panel.set_yscale("log")
    low, high = panel.get_ylim()
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    panel.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20) if decades > 0.7 else MaxNLocator(5))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


# ---- a single size ----------------------------------------------------------------------------------------


def _draw_bars(part: "SubFigure", facet: Facet) -> None:
    panels = part.subplots(1, 2 if _rated(facet) else 1, squeeze=False, sharey=True)[0]
    names = [line.label for line in facet.lines]
    points = [line.points[0] for line in facet.lines]
    sizes = sorted({point.nbytes for point in points if point.nbytes})
    at = f" at {size(sizes[0])}" if sizes else ""
    if len(panels) == 2:
        rates = [(point.rate, point.rate_band) for point in points]
        _bars(panels[0], rates, [_known(line) for line in facet.lines])
        panels[0].set_title(f"bus bandwidth{at} (GB/s)")
    _bars(
        panels[-1],
        [(point.time, point.time_band) for point in points],
        [_known(line) for line in facet.lines],
    )
    panels[-1].set_title(f"latency{at} (us)")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)


def _known(line: Line) -> int:
    """The digits of its figure: the fewest of its groups."""
    return int(known_digits(line.points[0].rows).min())


def _bars(panel: "Axes", values: Sequence[tuple[float | None, Band]], known: Sequence[int]) -> None:
    for k, ((value, band), places) in enumerate(zip(values, known, strict=True)):
        if value is None:
            continue
        panel.barh(k, value, height=0.62, color=COLOURS[0], alpha=0.85)
        if band:
            panel.hlines(k, *band, color="black", linewidth=1.4)
            panel.plot(band, (k, k), color="black", linestyle="", marker="|", markersize=7)
        end = max(value, band[1]) if band else value
        panel.annotate(
            f" {figure(value, places)}",
            (end, k),
            va="center",
            fontsize=8.5,
            xytext=(3, 0),
            textcoords="offset points",
        )
    panel.set_xlim(0, 1.15 * panel.get_xlim()[1])
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)
