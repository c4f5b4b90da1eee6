"""Rows as plain text in the manner of nccl-tests, as CSV and as JSON.

What is the same in all rows is said once above the table. What differs is a column, so that a line says
everything about its figure; only what would make lines wider than a terminal moves to a title over its block.
Cells are made column by column: 100,000 rows take about a second.
"""

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from commbench.records import Run
from commbench.records.measurement import Status
from commbench.report.view import ABOUT, confidence, figures, group_ranks, known_digits, one_line, size, where
from commbench.stats.rows import Row, Spread, series

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
    about = {name: list(map(text, rows)) for name, (text, _) in ABOUT.items()}
    varies = [name for name, cells in about.items() if len(set(cells) - {""}) > 1]
    notes = _notes(rows)
    ranks = group_ranks(run.machine, rows) if "group" in varies else {}
    columns = {name: [cell or "-" for cell in about[name]] for name in varies} | _figures(rows, ranks, notes)
    titles = _make_room(columns)
    lines = _aligned(columns)
    yield from _header(run, rows, {name: cells for name, cells in about.items() if name not in varies})
    yield f"# {next(lines)}"
    yield from _blocks(lines, rows, titles)
    yield "#"
    if spreads:
        series_names = [name for name in varies if name not in ("group", "launches", "clock")]
        yield from _spread_lines(spreads, series_names, ranks)
    yield from _footnotes(rows, notes)
    yield from (f"# note: {one_line(warning)}" for warning in (*run.machine.warnings, *([note] if note else [])))
    count = Counter(row.status for row in rows)
    said = (f"{count[status]} {status}" for status in ("ok", "skipped", "failed", "hung"))
    yield f"# {len(rows)} rows: {', '.join(said)}"


def _header(run: Run, rows: Sequence[Row], same: _Columns) -> Iterator[str]:
    machine = run.machine
    simulated = any(row.clock == "simulated" for row in rows)
    model = " · SIMULATED: these times come from a model, not from a network" if simulated else ""
    yield f"# {one_line(run.name)} · commbench {run.commbench} · {run.created}{model}"
    yield f"# {where(machine)} · launched by {one_line(machine.launcher)}"
    told = {name: next((row for row, cell in zip(rows, same[name], strict=True) if cell), None) for name in same}
    if said := [text for name, row in told.items() if row and (text := ABOUT[name][1](row))]:
        text = f"{'all rows: ' if len(same) < len(ABOUT) else ''}{' · '.join(said)}"
        yield from _wrapped(text)
    interval = f"half of its {confidence(run)} interval"
    yield f"# time_us = median over samples of the slowest rank; ±% = {interval}"
    yield "# skew_us = from the fastest to the slowest rank; algbw, busbw in GB/s (1e9 bytes/s); n = samples"
    if _limited(rows):
        yield "# wire% = least time that the links allow, by time_us; above 100: more than its share of a link"
    yield "#"


def _wrapped(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


def _figures(rows: Sequence[Row], ranks: Mapping[str, str], notes: _Notes) -> _Columns:
    known = known_digits(rows)
    several = {row.ranks for row in rows if row.ranks}
    columns: _Columns = {}
    if ranks or len(several) > 1:
        columns["ranks"] = [ranks.get(row.group) or str(row.ranks or "-") for row in rows]
    columns["size"] = [size(row.nbytes) if row.nbytes else "-" for row in rows]
    for title, field in (("time_us", "median_us"), ("algbw", "algbw_gbps"), ("busbw", "busbw_gbps")):
        columns[title] = figures([getattr(row, field) for row in rows], known)
        if title == "time_us":
            columns["±%"] = _half_widths(rows)
            columns["skew_us"] = figures([row.skew_us for row in rows], np.full(len(rows), 2))
    if _limited(rows):
        columns["wire%"] = _percents([row.wire_share for row in rows], ["-"] * len(rows))
    columns["wrong"] = ["-" if row.wrong is None else str(row.wrong) for row in rows]
    columns["n"] = [str(row.samples) for row in rows]
    columns["stopped"] = [_outcome(row, notes) for row in rows]
    return columns


def _half_widths(rows: Sequence[Row]) -> list[str]:
    return _percents([row.half_width for row in rows], ["?" if row.samples else "-" for row in rows])


def _percents(shares: Sequence[float | None], unknown: Sequence[str]) -> list[str]:
    percents = [100 * share for share in shares if share is not None]
    forms = ["%.1f" if percent < 9.95 else "%.0f" for percent in percents]
    known = iter(("\n".join(forms) % tuple(percents)).splitlines())
    return [next(known) if share is not None else cell for share, cell in zip(shares, unknown, strict=True)]


def _limited(rows: Iterable[Row]) -> bool:
    return any(row.wire_share is not None for row in rows)


def _outcome(row: Row, notes: _Notes) -> str:
    if row.status == "ok":
        return row.stopped or ""
    word = row.status if row.status == "skipped" else row.status.upper()
    return f"{word} [{notes[row.status, row.why]}]"


def _widths(columns: _Columns) -> dict[str, int]:
    return {title: max(len(title), max(map(len, cells), default=0)) for title, cells in columns.items()}


def _make_room(columns: _Columns) -> list[str]:
    """Takes out columns until lines fit; names those taken."""
    taken = []
    space = {title: width + 2 for title, width in _widths(columns).items()}
    for name in _GIVES_WAY:
        if name in columns and sum(space.values()) > WIDTH:
            del columns[name], space[name]
            taken.append(name)
    return taken


def _aligned(columns: _Columns) -> Iterator[str]:
    """The titles, then the lines."""
    form = "  ".join(f"%{'-' * (title in _LEFT)}{width}s" for title, width in _widths(columns).items())
    yield (form % tuple(columns)).rstrip()
    for cells in zip(*columns.values(), strict=True):
        yield (form % cells).rstrip()


def _blocks(lines: Iterator[str], rows: Sequence[Row], titles: Sequence[str]) -> Iterator[str]:
    """An empty line between series, unless most have one line; titles say what no column has room for."""
    starts = []
    before: tuple[Any, ...] | None = None
    for k, row in enumerate(rows):
        key = series(row)
        if key != before:
            starts.append(k)
        before = key
    apart = bool(titles) or len(rows) > 2 * len(starts)
    begins = set(starts) if apart else ()
    for k, line in enumerate(lines):
        if k in begins:
            if k:
                yield ""
            if titles:
                words = [ABOUT[name][1](rows[k]) for name in titles]
                yield f"# {' · '.join(text for text in words if text) or 'no settings'}"
        yield f"  {line}"


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
    yield from (f"#   {line}" for line in _aligned(columns))
    yield "#"


def _own(rows: Sequence[Row]) -> list[str]:
    return figures([row.median_us for row in rows], known_digits(rows))


def _notes(rows: Iterable[Row]) -> dict[_Reason, int]:
    """Each reason has one number, however many rows share it."""
    reasons = dict.fromkeys((row.status, row.why) for row in rows if row.status != "ok")
    return {reason: k for k, reason in enumerate(reasons, 1)}


def _footnotes(rows: Sequence[Row], notes: _Notes) -> Iterator[str]:
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
    if unsure := sum(row.samples > 0 and row.half_width is None for row in rows):
        yield f"# ±% is ? where independent samples are too few for an interval ({_rows(unsure)})"
    links = Counter(row.wire_link for row in rows if row.wire_share is not None)
    if links:
        each = [f"{one_line(link or '?')} ({_rows(k)})" for link, k in links.most_common(_MOST_LINKS)]
        left_out = f"; and {len(links) - len(each)} more" if len(links) > len(each) else ""
        yield from _wrapped(f"the limit is set by {', '.join(each)}{left_out}")


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """A title line and one line a row, without line ends. Unknown is empty."""
    yield ",".join(Row.__struct_fields__)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    for row in rows:
        writer.writerow([value if type(value) is float else _cell(value) for value in msgspec.structs.astuple(row)])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers stay numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        value = " ".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, str):
        value = one_line(value)
        return f"'{value}" if value.lstrip()[:1] in {"=", "+", "-", "@"} else value
    return value


def as_json(run: Run, rows: Sequence[Row]) -> bytes:
    """The document of `show --json`."""
    return msgspec.json.encode({"schema": 1, "run": run, "rows": rows})
