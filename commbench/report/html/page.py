"""The page: what goes into which section, and the one HTML file that holds it all.

The page asks for nothing from outside: style, script and plots are in it, and its Content-Security-Policy forbids
everything else. The script is allowed by its hash alone, so that text of a run that reached the page unescaped would
still not run. All text goes through the template's escaping.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from commbench import __version__
from commbench.records.finding import SEVERITIES, Finding
from commbench.report import fabric as fabrics
from commbench.report.html import plots_svg, summary
from commbench.report.html.advised import PLANS, RULES, advised
from commbench.report.html.compared import Compared
from commbench.report.html.examined import Examined, hosts, listed, tool
from commbench.report.html.judged import MOST_HOSTS, verdicts
from commbench.report.html.maps import heat_map
from commbench.report.html.meetings import met
from commbench.report.html.pairs import MOST_HEATS, heats
from commbench.report.html.phrases import Said, sentence
from commbench.report.html.plots_svg import Plot
from commbench.report.html.record import record
from commbench.report.html.rowtable import of_pairs, percent, row_table
from commbench.report.html.svg import Swatch
from commbench.report.lines import Facet, Line, picture
from commbench.report.view import figure, known_digits, one_line, size

SECTIONS = {
    "verdict": "Verdict",
    "summary": "Summary",
    "advice": "Recommendation",
    "findings": "Findings",
    "curves": "Curves",
    "pairs": "Pairs",
    "skew": "Skew",
    "comparison": "Comparison",
    "fabric": "Network",
    "rows": "Rows",
    "record": "Record",
    "repeat": "Repeat",
}
MOST_PANELS = 32  # of curves: a panel takes about a tenth of a second and 20 kB
MOST_SKEWS = 8  # runs with a plot of their skew
_MOST_RANKS = 32  # of a run, in the list of who was late


class Legend(NamedTuple):
    label: str
    swatch: Swatch | None


class Values(NamedTuple):
    """The points of one line, as cells: one row a point, in the order of the markers."""

    label: str
    rows: Sequence[Sequence[str]]


class Curves(NamedTuple):
    """Lines that share panels. `bars`: (name, share of the longest, cells) where there is only one size."""

    id: str
    title: str
    caption: str
    plots: Sequence[Plot]
    legend: Sequence[Legend]
    head: Sequence[str]
    values: Sequence[Values]
    bars: Sequence[tuple[str, float, Sequence[str]]]


def page(
    runs: Sequence[Examined],
    findings: Sequence[Finding] = (),
    compared: Compared | None = None,
    command: str = "",
) -> str:
    """The report as one HTML document. The same arguments give the same text.

    `findings`: what is suspicious (see commbench.traps). `compared`: NEW against BASE, where there is a question.
    `command` is what makes this page again.
    """
    findings = together(findings)
    curves, not_drawn = _all_curves(runs)
    judged = verdicts(runs)
    maps = [heat for one in runs for heat in (*heats(one), *(met(one) if not one.accepts else ()))]
    words = summary.summary(runs, findings, compared=compared is not None)
    if compared is not None:
        words = words._replace(
            stands_out=[Said(compared.answer, "comparison"), *words.stands_out],
            next_steps=[*(Said(text, "comparison") for text in compared.advice), *words.next_steps],
        )
    advice = [advised(k, one) for k, one in enumerate(one for one in runs if one.searched)]
    there = {"verdict": bool(judged), "advice": bool(advice), "comparison": compared is not None}
    return _render(
        version=__version__,
        names={name: title for name, title in SECTIONS.items() if there.get(name, True)},
        title=listed((one.name for one in runs), 3) or "nothing",
        verdicts=judged,
        advice=advice,
        heads=(RULES, PLANS),
        summary=words,
        runs=runs,
        overview=[_overview(one) for one in runs],
        findings=findings,
        compared=compared,
        curves=curves,
        not_drawn=not_drawn,
        maps=[heat_map(f"pairs{k}", heat) for k, heat in enumerate(maps[:MOST_HEATS])],
        maps_left_out=len(maps[MOST_HEATS:]),
        lateness=[_late(k, one) for k, one in enumerate(runs) if one.lateness.ranks or one.lateness.lines],
        fabrics=_fabrics(runs),
        table=row_table(runs),
        records=[record(one) for one in runs],
        command=command,
    )


def together(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first; what is the same in several places once, with all places and all evidence."""
    found: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        found.setdefault((one.code, one.severity, one.sentence, one.next), []).append(one)
    merged = [
        msgspec.structs.replace(
            same[0],
            where=listed(dict.fromkeys(filter(None, (one.where for one in same)))),
            evidence=tuple(dict.fromkeys(text for one in same for text in one.evidence)),
        )
        for same in found.values()
    ]
    return sorted(merged, key=lambda finding: SEVERITIES.index(finding.severity))


def _overview(one: Examined) -> Sequence[str]:
    """One line of the list of runs."""
    count = Counter[str](row.status for row in one.rows)
    others = ", ".join(f"{count[status]} {status}" for status in ("failed", "hung", "skipped") if count[status])
    ops = listed((one_line(op) for op in dict.fromkeys(row.op for row in one.rows)), 4)
    return (one.name, summary.date(one), tool(one.run), summary.place(one), ops or "-", str(count["ok"]), others or "-")


# ---- curves ------------------------------------------------------------------------------------------------


def _all_curves(runs: Sequence[Examined]) -> tuple[list[Curves], Sequence[str]]:
    """(curves, what had no room), a collective at a time."""
    out: list[Curves] = []
    not_drawn: list[str] = []
    panels = 0
    for op in dict.fromkeys(row.op for one in runs for row in one.rows):
        shown = picture([(one.run, [row for row in one.rows if row.op == op and not of_pairs(row)]) for one in runs])
        if shown is None:
            continue
        caption = "; ".join(filter(None, (shown.subtitle, shown.caption)))
        for number, facet in enumerate(shown.facets, 1):
            part = f"part {number} of {len(shown.facets)}" if len(shown.facets) > 1 else ""
            title = " · ".join(filter(None, (one_line(op), facet.title, part)))
            if panels >= MOST_PANELS:
                not_drawn.append(f"{title} ({len(facet.lines)} lines)")
                continue
            curves = _curves(f"c{len(out)}", title, facet, caption)
            panels += len(curves.plots)
            out.append(curves)
    return out, not_drawn


_HEAD = ("size", "time (us)", "±% or spread", "busbw (GB/s)", "wire%", "samples")


def _curves(name: str, title: str, facet: Facet, caption: str) -> Curves:
    if facet.as_bars:
        return Curves(name, title, caption, (), (), _HEAD, (), _bars(facet))
    thin = facet._replace(lines=[plots_svg.thinned(line) for line in facet.lines])
    if any(len(line.points) < len(whole.points) for line, whole in zip(thin.lines, facet.lines, strict=True)):
        caption += f"; at most {plots_svg.MOST_POINTS} points of a line are drawn"
    if plots_svg.cut(thin):
        caption += "; bands that are very wide leave the panel: the table has them in full"
    plots = [
        Plot(
            f"{name}-{metric}",
            f"{plots_svg.METRICS[metric].title} ({plots_svg.METRICS[metric].unit}) against message size, {title}",
            plots_svg.told(thin, metric),
            plots_svg.curves(thin, metric, f"{name}{metric[0]}"),
        )
        for metric in plots_svg.shows(thin)
    ]
    swatches: dict[int, Swatch] = {}
    for plot in reversed(plots):
        swatches.update(plot.drawing.swatches)
    legend = [Legend(line.label, swatches.get(k)) for k, line in enumerate(thin.lines)]
    values = [Values(line.label, _values(line)) for line in thin.lines]
    return Curves(name, title, caption, plots, legend, _HEAD, values, ())


def _values(line: Line) -> Sequence[tuple[str, ...]]:
    out = []
    for point in line.points:
        known = int(known_digits(point.rows).min())
        band = "?" if point.time_band is None else percent((point.time_band[1] - point.time_band[0]) / 2 / point.time)
        share = plots_svg.share(point)
        wire = "-" if share is None else percent(share / 100)
        samples = str(sum(row.samples for row in point.rows))
        where = size(point.nbytes) if point.nbytes else "-"
        out.append((where, figure(point.time, known), band, figure(point.rate, known), wire, samples))
    return out


def _bars(facet: Facet) -> list[tuple[str, float, Sequence[str]]]:
    """A bar for each line: bandwidth where there is one, else time."""
    points = [(line, line.points[0]) for line in facet.lines]
    rated = all(point.rate for _, point in points)
    lengths = [(point.rate or 0.0) if rated else point.time for _, point in points]
    most = max(lengths) or 1.0
    return [
        (line.label, 100 * length / most, _values(line)[0]) for (line, _), length in zip(points, lengths, strict=True)
    ]


# ---- pairs, skew, fabric -----------------------------------------------------------------------------------


def _late(k: int, one: Examined) -> dict[str, Any]:
    lateness = one.lateness
    ranks = sorted(lateness.ranks, key=lambda rank: -rank.excess)[:_MOST_RANKS]
    plot = None
    if k < MOST_SKEWS and len({point.nbytes for line in lateness.lines for point in line.points} - {0}) > 1:
        title = f"Skew against message size, {one.name}"
        plot = Plot(f"skew{k}", title, plots_svg.told_skew(lateness.lines), plots_svg.skew(lateness.lines, f"skew{k}-"))
    return {
        "name": one.name,
        "id": f"skew{k}",
        "ranks": sorted(ranks, key=lambda rank: rank.rank),
        "most": max((rank.share for rank in ranks), default=1.0) or 1.0,
        "left_out": len(lateness.ranks) - len(ranks),
        "hosts": {rank.rank: hosts(one.run.machine, [rank.rank]) for rank in ranks},
        "plot": plot,
        "legend": [Legend(line.label, plot.drawing.swatches.get(j)) for j, line in enumerate(lateness.lines)]
        if plot
        else [],
        "lines": lateness.lines,
        "lines_left_out": lateness.left_out,
    }


def _fabrics(runs: Sequence[Examined]) -> list[dict[str, Any]]:
    """Each network once, with the runs that were made on it."""
    found: dict[Any, list[str]] = {}
    for one in runs:
        if one.run.machine.fabric is not None:
            found.setdefault(one.run.machine.fabric, []).append(one.name)
    out = []
    for k, (network, names) in enumerate(found.items()):
        tree = list(fabrics.text(network))
        drawn = plots_svg.fabric(network, f"fabric{k}-") if len(network.hosts) <= MOST_HOSTS else None
        plot = Plot(f"fabric{k}", f"Network {one_line(network.name)}", tree[0], drawn) if drawn else None
        out.append(
            {
                "plot": plot,
                "tree": tree,
                "runs": listed(names, 6),
                "several": len(names) > 1,
                "name": one_line(network.name),
            }
        )
    return out


# ---- the file ----------------------------------------------------------------------------------------------


def _visible(value: Any) -> Any:
    """What a template prints: text without characters that nobody sees but that do something."""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in value)


def _render(**told: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("commbench.report.html", "."),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = resources.files(__package__)
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    templates.filters["sentence"] = sentence
    templates.globals.update(microseconds=plots_svg.microseconds, size=size)
    return templates.get_template("page.html.j2").render(**told, style=style, script=script, script_hash=digest)
