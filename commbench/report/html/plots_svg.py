"""The plots of the report: curves against size, skew against size, the fabric. One figure a panel."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from commbench.records import Fabric
from commbench.report.fabric import Mark
from commbench.report.fabric import picture as fabric_picture
from commbench.report.html.lateness import SkewLine
from commbench.report.html.svg import Drawing, drawing
from commbench.report.image import COLOURS
from commbench.report.lines import Band, Facet, Line, Point
from commbench.report.plots import DASHES, MARKERS, band, size_axis, time_axis
from commbench.report.view import figure, known_digits, one_line, size
from commbench.units import format_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 64  # of a curve
_BEYOND = 2.5  # times the highest value, or down to that part of the lowest: as far as bands are shown
_WIDTH, _HEIGHT = 4.7, 3.2  # inches: three panels beside each other on a screen


class Plot(NamedTuple):
    """`told` is what the plot says, in words."""

    id: str
    title: str
    told: str
    drawing: Drawing


class Metric(NamedTuple):
    """What a panel shows of a point: its value and band (None: not known)."""

    title: str
    unit: str
    value: Callable[[Point], float | None]
    band: Callable[[Point], Band]
    more_is_better: bool


def share(point: Point) -> float | None:
    """Of what the links allow, in percent; of several groups the one in the middle."""
    shares = sorted(row.wire_share for row in point.rows if row.wire_share is not None)
    return 100 * shares[len(shares) // 2] if len(shares) == len(point.rows) else None


def _share_band(point: Point) -> Band:
    middle = share(point)
    if middle is None or point.time_band is None:
        return None
    low, high = (middle * point.time / end for end in reversed(point.time_band))
    return low, high


METRICS: dict[str, Metric] = {
    "busbw": Metric("Bus bandwidth", "GB/s", lambda point: point.rate, lambda point: point.rate_band, True),
    "latency": Metric("Time", "us", lambda point: point.time, lambda point: point.time_band, False),
    "wire": Metric("Share of what the links allow", "%", share, _share_band, True),
}


def thinned(line: Line) -> Line:
    """At most MOST_POINTS, evenly taken, with both ends."""
    if len(line.points) <= MOST_POINTS:
        return line
    last = len(line.points) - 1
    return line._replace(points=[line.points[round(k * last / (MOST_POINTS - 1))] for k in range(MOST_POINTS)])


def shows(facet: Facet) -> list[str]:
    """The panels that a facet has values for."""
    points = [point for line in facet.lines for point in line.points if point.nbytes]
    return [name for name, metric in METRICS.items() if any(metric.value(point) is not None for point in points)]


def curves(facet: Facet, name: str, prefix: str) -> Drawing:
    """One panel: every line of the facet against size."""
    return drawing(lambda: _curves(facet, METRICS[name], name), prefix)


def _curves(facet: Facet, metric: Metric, name: str) -> "Figure":
    whole, panel = _panel()
    sizes = sorted({point.nbytes for line in facet.lines for point in line.points if point.nbytes})
    for k, line in enumerate(facet.lines):
        at = [j for j, point in enumerate(line.points) if point.nbytes and metric.value(point) is not None]
        points = [line.points[j] for j in at]
        if points:
            values = [metric.value(point) or 0.0 for point in points]
            gid = line_id(k, at if len(at) < len(line.points) else ())
            _line(panel, k, [p.nbytes for p in points], values, [metric.band(point) for point in points], gid)
        elif name == "latency":  # a barrier moves nothing: a level, not a curve
            panel.axhline(line.points[0].time, color=COLOURS[k % 7], linestyle=DASHES[k % 5], gid=line_id(k))
    every = [metric.value(point) for line in facet.lines for point in line.points]
    _axes(panel, sizes, name != "latency", [value for value in every if value])
    if name == "wire":
        panel.axhline(100, color="#333333", linewidth=1, linestyle=(0, (2, 2)))
    return whole


def cut(facet: Facet) -> bool:
    """Whether a band leaves its panel."""
    for metric in (METRICS[name] for name in shows(facet)):
        points = [point for line in facet.lines for point in line.points if point.nbytes]
        values = [value for point in points if (value := metric.value(point))]
        bands = [band for point in points if (band := metric.band(point)) is not None]
        if values and any(band[1] > _BEYOND * max(values) for band in bands):
            return True
    return False


def line_id(k: int, points: Sequence[int] = ()) -> str:
    """`line-3`; `line-3-0-2` where only its points 0 and 2 are drawn. The page's script finds its values by it."""
    return "-".join(["line", str(k), *map(str, points)])


def _panel() -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    whole = Figure(figsize=(_WIDTH, _HEIGHT))
    return whole, whole.add_axes((0.125, 0.1, 0.855, 0.86))


def _line(panel: "Axes", k: int, x: Sequence[int], y: Sequence[float], bands: Sequence[Band], gid: str) -> None:
    if any(bands):
        band(panel, x, bands, COLOURS[k % 7])
    panel.plot(
        x,
        y,
        color=COLOURS[k % 7],
        linestyle=DASHES[k % 5],
        linewidth=1.6,
        marker=MARKERS[k % 12],
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        gid=gid,
    )


def _axes(panel: "Axes", sizes: Sequence[int], from_zero: bool, values: Sequence[float]) -> None:
    """A band that is far wider than the values are apart leaves the panel, so that lines can be told apart."""
    size_axis(panel, sizes)
    panel.set_xlabel("")
    low, high = min(values, default=1.0), max(values, default=1.0)
    if from_zero:
        panel.set_ylim(0, max(min(1.06 * panel.dataLim.y1, _BEYOND * high), 1e-9))
    else:
        panel.set_yscale("log")
        bottom, top = panel.get_ylim()
        panel.set_ylim(max(bottom, low / _BEYOND), min(top, high * _BEYOND))
        time_axis(panel)
        panel.yaxis.set_major_formatter(lambda value, _: format_time(value * 1e-6))
    panel.minorticks_off()
    panel.tick_params(length=0, bottom=False, left=False)


def skew(lines: Sequence[SkewLine], prefix: str) -> Drawing:
    """Median skew against size, with a band from the first to the third quartile."""

    def draw() -> "Figure":
        whole, panel = _panel()
        least = 1e-3  # us: a log axis has no 0
        for k, line in enumerate(lines):
            points = [point for point in line.points if point.nbytes]
            bands: list[Band] = [(max(point.p25_us, least), max(point.p75_us, least)) for point in points]
            if points:
                _line(panel, k, [p.nbytes for p in points], [max(p.p50_us, least) for p in points], bands, line_id(k))
        middles = [max(point.p50_us, least) for line in lines for point in line.points]
        _axes(panel, sorted({point.nbytes for line in lines for point in line.points if point.nbytes}), False, middles)
        return whole

    return drawing(draw, prefix)


def fabric(network: Fabric, prefix: str, marks: Sequence[Mark] = (), whole: Fabric | None = None) -> Drawing:
    """Hosts, switches and links; what marks name stands out. `network` may be a part of `whole`."""
    return drawing(lambda: fabric_picture(network, marks, whole), prefix)


# ---- what a plot says, for those who do not see it ----------------------------------------------------------


def told(facet: Facet, name: str) -> str:
    """The best point, then where every line begins and ends."""
    metric = METRICS[name]
    points = [(metric.value(p), line, p) for line in facet.lines for p in line.points if p.nbytes]
    known = [(value, line, point) for value, line, point in points if value is not None]
    if not known:
        return "No value is known."
    pick, word = (max, "Highest") if metric.more_is_better else (min, "Lowest")
    _, line, point = pick(known, key=lambda one: one[0])
    ends = [_ends(line, metric) for line in facet.lines]
    return f"{word}: {_value(metric, point)} at {size(point.nbytes)} ({line.label}). {' '.join(filter(None, ends))}"


def _ends(line: Line, metric: Metric) -> str:
    points = [point for point in line.points if point.nbytes and metric.value(point) is not None]
    if not points:
        return ""
    both = points[:1] if len(points) == 1 else [points[0], points[-1]]
    each = [f"{_value(metric, point)} at {size(point.nbytes)}" for point in both]
    return f"{line.label}: {', '.join(each)}."


def _value(metric: Metric, point: Point) -> str:
    value = metric.value(point)
    known = 2 if metric.unit == "%" else int(known_digits(point.rows).min())
    return f"{figure(value, known)} {metric.unit}"


def told_skew(lines: Iterable[SkewLine]) -> str:
    """The largest median."""
    points = [(point, line.label) for line in lines for point in line.points if point.nbytes]
    if not points:
        return "No value is known."
    worst, label = max(points, key=lambda pair: pair[0].p50_us)
    least, other = min(points, key=lambda pair: pair[0].p50_us)
    return (
        f"Ranks are farthest apart at {size(worst.nbytes)} ({one_line(label)}): {microseconds(worst.p50_us)} in the "
        f"median. They are closest at {size(least.nbytes)} ({one_line(other)}): {microseconds(least.p50_us)}."
    )


def microseconds(value: float | None) -> str:
    """Two digits, in plain notation."""
    if value is None or math.isnan(value):
        return "-"
    return f"{figure(value, 2)} us"
