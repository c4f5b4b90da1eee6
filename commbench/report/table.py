"""Rows as plain text in the manner of nccl-tests, as CSV and as JSON.

What is the same in all rows is said once above the table. What differs is a column, so that a line says
everything about its figure; only what would make lines wider than a terminal moves to a title over its block.
Cells are made column by column, not row by row: it is how 100,000 rows take half a second.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from commbench.records import Finding, Run
from commbench.records.measurement import Status
from commbench.reference import Nearest
from commbench.report.expected import as_dicts
from commbench.report.spreadsheet import csv_text
from commbench.report.view import (
    ABOUT,
    confidence,
    figures,
    group_ranks,
    intervals,
    known_digits,
    one_line,
    size,
    told_digits,
    where,
)
from commbench.stats.rows import Row, series
from commbench.stats.spread import Spread, alike

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 119
_MOST_SPREADS = 20
_MOST_ROUNDED = 6
_MOST_LINKS = 6
_Columns = dict[str, list[str]]
_Reason = tuple[Status, str | None]
_Notes = Mapping[_Reason, int]
# The order in which columns give way to titles where lines become too long.
_GIVES_WAY = ("settings", "clock", "root", "buffer", "mode", "redop", "dtype", "backend", "op")
_LEFT = {*ABOUT, "ranks", "stopped", "layout", "ranks "} - {"root", "launches"}


def table(run: Run, rows: Sequence[Row], spreads: Sequence[Spread], note: str | None = None) -> Iterator[str]:
    """Lines without line ends; all but those of rows begin with `#`. `note` stands with the machine's warnings."""
    blocks = alike(rows)
    first = [block[0] for block in blocks]
    about = {name: [one_line(text(row)) for row in first] for name, (text, _) in ABOUT.items()}
    groups = {"group": list(map(one_line, [row.group for row in rows]))}
    varies = [name for name, cells in (about | groups).items() if len(set(cells) - {""}) > 1]
    notes = _notes(rows)
    ranks = group_ranks(run.machine, rows) if "group" in varies else {}
    columns = {name: groups.get(name) or _each([cell or "-" for cell in about[name]], blocks) for name in varies}
    columns |= _figures(rows, blocks, ranks, notes)
    widths = _widths(columns)
    titles = _make_room(columns, widths)
    lines = _aligned(columns, widths)
    yield from _header(run, first, {name: cells for name, cells in about.items() if name not in varies})
    yield f"# {next(lines)}"
    yield from _blocks(lines, blocks, titles)
    yield "#"
    if spreads:
        series_names = [name for name in varies if name not in ("group", "launches", "clock")]
        yield from _spread_lines(spreads, series_names, ranks)
    yield from _footnotes(rows, notes, columns["±%"].count("?"))
    yield from (f"# note: {one_line(warning)}" for warning in (*run.machine.warnings, *([note] if note else [])))
    count = Counter(row.status for row in rows)
    said = (f"{count[status]} {status}" for status in ("ok", "skipped", "failed", "hung"))
    yield f"# {len(rows)} rows: {', '.join(said)}"


def _each(cells: Sequence[str], blocks: Sequence[Sequence[Row]]) -> list[str]:
    """A column from one cell for each block."""
    return [cell for cell, block in zip(cells, blocks, strict=True) for _ in block]


def _header(run: Run, rows: Sequence[Row], same: _Columns) -> Iterator[str]:
    simulated = any(row.clock == "simulated" for row in rows)
    model = " · SIMULATED: these times come from a model, not from a network" if simulated else ""
    yield from _titles(run, model)
    told = {name: next((row for row, cell in zip(rows, same[name], strict=True) if cell), None) for name in same}
    if said := [text for name, row in told.items() if row and (text := ABOUT[name][1](row))]:
        text = f"{'all rows: ' if len(same) < len(ABOUT) else ''}{' · '.join(said)}"
        yield from _wrapped(text)
    kinds = sorted({row.kind for row in rows if row.samples} - {"samples"})
    median = f"the {' or '.join(kinds)} that the tool printed" if kinds else "median over samples of the slowest rank"
    yield f"# time_us = {median}; ±% = half of its {confidence(run)} interval"
    yield "# skew_us = from the fastest to the slowest rank; algbw, busbw in GB/s (1e9 bytes/s); n = samples"
    if _limited(rows):
        yield "# wire% = least time that the links allow, by time_us; above 100: more than its share of a link"
    yield "#"


def _titles(run: Run, model: str) -> Iterator[str]:
    origin = run.origin
    if origin is None:
        yield f"# {one_line(run.name)} · commbench {run.commbench} · {run.created}{model}"
        yield f"# {where(run.machine)} · launched by {one_line(run.machine.launcher)}"
    else:
        dated = "" if origin.dated == "file" else " (last change of the file)"
        yield f"# {one_line(origin.path)} · {one_line(origin.tool)} · {run.created}{dated}"
        yield f"# {where(run.machine)} · read by commbench {run.commbench}"


def _wrapped(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


def _figures(rows: Sequence[Row], blocks: Sequence[Sequence[Row]], ranks: Mapping[str, str], notes: _Notes) -> _Columns:
    median, low, high = intervals(rows)
    known = told_digits(rows, median, low, high)
    several = {row.ranks for row in rows if row.ranks}
    columns: _Columns = {}
    if ranks or len(several) > 1:
        columns["ranks"] = [ranks.get(row.group) or str(row.ranks or "-") for row in rows]
    columns["size"] = _each([size(block[0].nbytes) if block[0].nbytes else "-" for block in blocks], blocks)
    for title, field in (("time_us", "median_us"), ("algbw", "algbw_gbps"), ("busbw", "busbw_gbps")):
        columns[title] = figures([getattr(row, field) for row in rows], known)
        if title == "time_us":
            half_widths = (high - low) / 2 / np.where(median > 0, median, np.nan)
            columns["±%"] = _percents(half_widths, ["?" if row.samples else "-" for row in rows])
            columns["skew_us"] = figures([row.skew_us for row in rows], np.full(len(rows), 2))
    if _limited(rows):
        shares = np.array([row.wire_share for row in rows], np.float64)
        columns["wire%"] = _percents(shares, ["-"] * len(rows))
    columns["wrong"] = ["-" if row.wrong is None else str(row.wrong) for row in rows]
    columns["n"] = [str(row.samples) if row.kind == "samples" else row.kind for row in rows]
    stopped = {text: one_line(text or "") for text in {row.stopped for row in rows}}
    columns["stopped"] = [stopped[row.stopped] if row.status == "ok" else _outcome(row, notes) for row in rows]
    return columns


def _percents(shares: "NDArray[np.float64]", unknown: list[str]) -> list[str]:
    """Cells of the shares, in percent; `unknown` where there is none."""
    at = np.flatnonzero(~np.isnan(shares)).tolist()
    percents = (100 * shares[at]).tolist()
    forms = ["%.1f" if percent < 9.95 else "%.0f" for percent in percents]
    cells = list(unknown)
    for k, cell in zip(at, ("\n".join(forms) % tuple(percents)).splitlines(), strict=True):
        cells[k] = cell
    return cells


def _limited(rows: Iterable[Row]) -> bool:
    return any(row.wire_us is not None for row in rows)


def _outcome(row: Row, notes: _Notes) -> str:
    word = row.status if row.status == "skipped" else row.status.upper()
    return f"{word} [{notes[row.status, row.why]}]"


def _widths(columns: _Columns) -> dict[str, int]:
    return {title: max(len(title), max(map(len, cells), default=0)) for title, cells in columns.items()}


def _make_room(columns: _Columns, widths: dict[str, int]) -> list[str]:
    """Takes out columns until lines fit; names those taken."""
    taken = []
    for name in _GIVES_WAY:
        if name in columns and sum(widths.values()) + 2 * len(widths) > WIDTH:
            del columns[name], widths[name]
            taken.append(name)
    return taken


def _aligned(columns: _Columns, widths: Mapping[str, int]) -> Iterator[str]:
    """The titles, then the lines."""
    form = "  ".join(f"%{'-' * (title in _LEFT)}{width}s" for title, width in widths.items())
    lines = [tuple(columns), *zip(*columns.values(), strict=True)]
    # One formatting of all cells takes half the time of one a line.
    yield from map(str.rstrip, ("\n".join([form] * len(lines)) % tuple(chain.from_iterable(lines))).split("\n"))


def _blocks(lines: Iterator[str], blocks: Sequence[Sequence[Row]], titles: Sequence[str]) -> Iterator[str]:
    """An empty line between series, unless most have one line; titles say what no column has room for."""
    of = [series(block[0]) for block in blocks]
    begins = [key != before for before, key in pairwise([None, *of])]
    apart = bool(titles) or sum(map(len, blocks)) > 2 * sum(begins)
    for k, block in enumerate(blocks):
        if apart and begins[k]:
            if k:
                yield ""
            if titles:
                words = [ABOUT[name][1](block[0]) for name in titles]
                yield f"# {' · '.join(text for text in words if text) or 'no settings'}"
        yield from map("  ".__add__, islice(lines, len(block)))


def _spread_lines(spreads: Sequence[Spread], names: Sequence[str], ranks: Mapping[str, str]) -> Iterator[str]:
    """How far apart the groups of a case are; where there are many cases, those that differ most."""
    by_ratio = sorted(range(len(spreads)), key=lambda k: -(spreads[k].ratio or 0))
    shown = [spreads[k] for k in sorted(by_ratio[:_MOST_SPREADS])]
    first = [spread.fastest for spread in shown]
    columns: _Columns = {name: [ABOUT[name][0](row) for row in first] for name in names}
    columns |= {
        "layout": [row.layout for row in first],
        "size": [size(row.nbytes) if row.nbytes else "-" for row in first],
        "groups": [str(spread.groups) for spread in shown],
        "fastest": _own([spread.fastest for spread in shown]),
        "ranks": [ranks.get(spread.fastest.group, spread.fastest.group) for spread in shown],
        "median": figures(
            [spread.median_us for spread in shown],
            np.minimum(known_digits(first), known_digits([spread.slowest for spread in shown])),
        ),
        "slowest": _own([spread.slowest for spread in shown]),
        "ranks ": [ranks.get(spread.slowest.group, spread.slowest.group) for spread in shown],
        "ratio": ["-" if spread.ratio is None else f"{spread.ratio:.2f}" for spread in shown],
    }
    left_out = f"; the {len(shown)} widest of {len(spreads)}" if len(shown) < len(spreads) else ""
    yield f"# spread between the groups of a case (time_us{left_out}):"
    yield from (f"#   {line}" for line in _aligned(columns, _widths(columns)))
    yield "#"


def _own(rows: Sequence[Row]) -> list[str]:
    return figures([row.median_us for row in rows], known_digits(rows))


def _notes(rows: Iterable[Row]) -> dict[_Reason, int]:
    """Each reason has one number, however many rows share it."""
    reasons = dict.fromkeys((row.status, row.why) for row in rows if row.status != "ok")
    return {reason: k for k, reason in enumerate(reasons, 1)}


def _footnotes(rows: Sequence[Row], notes: _Notes, unsure: int) -> Iterator[str]:
    count: Counter[_Reason] = Counter((row.status, row.why) for row in rows if row.status != "ok")
    for (status, why), k in notes.items():
        yield f"# [{k}] {status}, {_rows(count[status, why])}: {one_line(why or 'no reason was recorded')}"
    rounded = Counter((row.asked, row.nbytes) for row in rows if row.samples and row.nbytes not in (0, row.asked))
    if rounded:
        most = sorted(rounded.items())[:_MOST_ROUNDED]
        each = [f"asked {size(asked)} measured {size(moved)} ({_rows(k)})" for (asked, moved), k in most]
        left_out = f"; and {len(rounded) - len(most)} more sizes" if len(rounded) > len(most) else ""
        text = f"rounded to whole elements on every rank: {'; '.join(each)}{left_out}"
        yield from _wrapped(text)
    if unsure:
        yield f"# ±% is ? where independent samples are too few for an interval ({_rows(unsure)})"
    links = Counter(row.wire_link for row in rows if row.wire_share is not None)
    if links:
        each = [f"{one_line(link or '?')} ({_rows(k)})" for link, k in links.most_common(_MOST_LINKS)]
        left_out = f"; and {len(links) - len(each)} more" if len(links) > len(each) else ""
        yield from _wrapped(f"the limit is set by {', '.join(each)}{left_out}")


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """What stands out, below the table."""
    for finding in findings:
        yield from _wrapped(
            f"{finding.severity} {finding.code}: {one_line(finding.sentence)}; {one_line(finding.next)}"
        )


def csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """A title line and one line a row, without line ends. Unknown is empty."""
    return iter(csv_text(Row.__struct_fields__, map(msgspec.structs.astuple, rows)).splitlines())


def as_json(run: Run, rows: Sequence[Row], beside: Sequence[tuple[Row, Nearest]] | None = None) -> bytes:
    """The document of `show --json`; with `beside`, published figures too."""
    told: dict[str, Any] = {"schema": 1, "run": run, "rows": rows}
    return msgspec.json.encode(told if beside is None else told | {"expected": as_dicts(beside)})
