"""Rows -> what a picture shows: facets of lines, their points, bands and names. Nothing is drawn here."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from commbench.records import Run
from commbench.report.view import ABOUT, confidence, group_ranks, one_line, where
from commbench.stats.rows import Row, series
from commbench.stats.spread import spread

MOST_LINES = 12  # in one facet
MOST_FACETS = 16
MOST_BARS = 40
_LONGEST = 90

Runs = Sequence[tuple[Run, Sequence[Row]]]
Band = tuple[float, float] | None  # from, to; None: not known
_Traits = dict[str, tuple[str, str]]  # as in ABOUT: cell and words


class Point(NamedTuple):
    """One size: the middle and the band around it, in us and GB/s."""

    nbytes: int
    time: float
    time_band: Band
    rate: float | None
    rate_band: Band
    rows: Sequence[Row]  # several: one a group, and the band goes from the fastest to the slowest


class Line(NamedTuple):
    """What differs in size only."""

    label: str
    points: Sequence[Point]


class Facet(NamedTuple):
    """Lines that share a pair of panels, drawn against size, or as bars where there is only one size."""

    title: str
    lines: Sequence[Line]
    as_bars: bool


class Picture(NamedTuple):
    title: str
    subtitle: str
    caption: str
    facets: Sequence[Facet]


class _Series(NamedTuple):
    run: int
    row: Row  # any of its rows, for what all of them have in common
    points: Sequence[Point]
    traits: _Traits


def picture(runs: Runs) -> Picture | None:
    """None where no row is ok: the time of a failed transfer says nothing about the network."""
    names = run_names([run for run, _ in runs])
    found = [one for k, (_, rows) in enumerate(runs) for one in _series(k, names[k], rows)]
    if not found:
        return None
    shared = _same(found)
    split = _split(found)
    facets = []
    for members in split[:MOST_FACETS]:
        own = [words for name, words in _same(members).items() if words and name not in shared]
        title = " · ".join(own) if len(split) > 1 else ""
        facets.append(_facet(title, members, runs))
    return Picture(
        title=_title(runs, names),
        subtitle=_subtitle(runs, shared),
        caption=_caption(runs, facets, sum(map(len, split[MOST_FACETS:]))),
        facets=facets,
    )


def _series(run: int, name: str, rows: Iterable[Row]) -> list[_Series]:
    found: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in rows:
        if row.status == "ok" and row.median_us:
            found.setdefault(series(row), {}).setdefault(row.asked, []).append(row)
    out = []
    for sizes in found.values():
        row = next(iter(sizes.values()))[0]
        traits = {trait: (cell(row), words(row)) for trait, (cell, words) in ABOUT.items()}
        traits |= {"run": (name, name), "group": (row.layout, row.layout)}
        # Two sizes that were rounded to the same one asked the same: one of their answers is enough.
        points = {point.nbytes: point for point in (_point(sizes[asked]) for asked in sorted(sizes))}
        out.append(_Series(run, row, [*points.values()], traits))
    return out


def _point(rows: Sequence[Row]) -> Point:
    if len(rows) > 1:
        (groups,) = spread(rows)
        times = (groups.fastest.median_us or 0.0, groups.slowest.median_us or 0.0)
        rates = (groups.slowest.busbw_gbps or 0.0, groups.fastest.busbw_gbps or 0.0)
        rate = groups.median_busbw_gbps
        return Point(rows[0].nbytes, groups.median_us, times, rate, None if rate is None else rates, rows)
    row = rows[0]
    time, rate = row.median_us or 0.0, row.busbw_gbps
    if row.ci_low_us is None or row.ci_high_us is None:
        return Point(row.nbytes, time, None, rate, None, rows)
    low, high = max(row.ci_low_us, time / 1e3), row.ci_high_us  # a log axis has no 0
    band = None if rate is None else (rate * time / high, rate * time / low)
    return Point(row.nbytes, time, (low, high), rate, band, rows)


def _split(found: Sequence[_Series]) -> list[list[_Series]]:
    """What shares a facet. Modes are never compared with each other, so they never do."""
    out = []
    for mode in dict.fromkeys(one.row.mode for one in found):
        same = [one for one in found if one.row.mode == mode]
        by_op: dict[str, list[_Series]] = {}
        for one in same:
            by_op.setdefault(one.row.op if len(same) > MOST_LINES else "", []).append(one)
        for members in by_op.values():
            length = math.ceil(len(members) / math.ceil(len(members) / MOST_LINES))
            out += [members[k : k + length] for k in range(0, len(members), length)]
    return out


def _facet(title: str, members: Sequence[_Series], runs: Runs) -> Facet:
    lines = [Line(label, one.points) for label, one in zip(_labels(members), members, strict=True)]
    if len({point.nbytes for one in members for point in one.points if point.nbytes}) > 1:
        return Facet(title, lines, as_bars=False)
    if sum(len(point.rows) for line in lines for point in line.points) <= MOST_BARS:
        ranks = [group_ranks(run.machine, rows) for run, rows in runs]
        lines = [
            bar
            for line, one in zip(lines, members, strict=True)
            for bar in _bars(line, ranks[one.run], len(lines) == 1)
        ]
    return Facet(title, lines, as_bars=True)


def _bars(line: Line, ranks: dict[str, str], alone: bool) -> list[Line]:
    """A bar for each group, named by its ranks."""
    rows = [row for point in line.points for row in point.rows]
    if len(rows) < 2:
        return [line]
    names = [f"{row.layout} {ranks[row.group]}" if row.group in ranks else row.group for row in rows]
    if not alone:
        names = [f"{line.label} · {name}" for name in names]
    return [Line(name, [_point([row])]) for name, row in zip(names, rows, strict=True)]


def _same(members: Sequence[_Series]) -> dict[str, str]:
    """The traits in which all agree that have them, in words."""
    out = {}
    for name in members[0].traits:
        told = {one.traits[name][0]: one.traits[name][1] for one in members if one.traits[name][0]}
        if len(told) < 2:
            out[name] = "".join(told.values())
    return out


def _labels(members: Sequence[_Series]) -> list[str]:
    """What tells the lines apart; op and backend of a single line."""
    same = _same(members)
    names = [name for name in members[0].traits if name not in same] or ["op", "backend"]
    texts = [" · ".join(filter(None, (one.traits[name][1] for name in names))) for one in members]
    return [text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..." for text in (t or "no settings" for t in texts)]


def run_names(runs: Sequence[Run]) -> list[str]:
    """Names that differ: with the date, and a number where that is not enough."""
    names = [one_line(run.name) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} {_date(run)}" for name, run in zip(names, runs, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} ({k})" for k, name in enumerate(names, 1)]
    return names


def _date(run: Run) -> str:
    return one_line(run.created[:16].replace("T", " "))


def _title(runs: Runs, names: Sequence[str]) -> str:
    simulated = any(row.clock == "simulated" for _, rows in runs for row in rows)
    text = ", ".join(names)
    text = text if len(text) <= _LONGEST else f"{len(names)} runs"
    return f"{text}: SIMULATED, no network was measured" if simulated else text


def _subtitle(runs: Runs, shared: dict[str, str]) -> str:
    """Where, what all lines have in common, when."""
    places = dict.fromkeys(where(run.machine) for run, _ in runs)
    words = [text for name, text in shared.items() if text and name not in ("run", "launches", "clock")]
    dates = [_date(run) for run, _ in runs] if len(runs) == 1 else []
    return " · ".join([*(places if len(places) == 1 else ()), *words, *dates])


def _caption(runs: Runs, facets: Sequence[Facet], left_out: int) -> str:
    points = [point for facet in facets for line in facet.lines for point in line.points if point.time_band]
    said = []
    if any(len(point.rows) == 1 for point in points):
        said.append(f"band: {confidence(runs[0][0])} interval of the median")
    if any(len(point.rows) > 1 for point in points):
        said.append("line and band of several groups: the median group, and from the fastest to the slowest")
    if left_out:
        said.append(f"{left_out} more series are not drawn")
    return "; ".join(said)
