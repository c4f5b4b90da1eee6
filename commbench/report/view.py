"""How a row is told, in the table and in the picture alike: what it is about, its figures, who took part."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from commbench.errors import SpecError
from commbench.layouts import Groups, expand, label
from commbench.records import Machine, Run
from commbench.stats.rows import Row
from commbench.stats.summary import digits
from commbench.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_DECIMALS = 6
_FOREIGN_DIGITS = 4
size = lru_cache(format_bytes)


def one_line(text: str) -> str:
    """Reasons come from libraries: no line break or escape sequence of theirs reaches the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _settings(row: Row, between: str) -> str:
    if not row.settings:
        return ""
    return one_line(between.join(f"{name}={value}" for name, value in row.settings.items()))


# What a row is about: its cell ("" where that is no question for the row), and its words in a running text
# ("" where they go without saying).
ABOUT: dict[str, tuple[Callable[[Row], str], Callable[[Row], str]]] = {
    "op": (lambda row: row.op, lambda row: row.op),
    "backend": (lambda row: row.backend, lambda row: row.backend),
    "dtype": (lambda row: row.dtype if row.nbytes else "", lambda row: row.dtype if row.nbytes else ""),
    "redop": (lambda row: row.redop or "", lambda row: row.redop or ""),
    "mode": (lambda row: row.mode, lambda row: f"{row.mode} mode"),
    "buffer": (
        lambda row: "in" if row.in_place else "out",
        lambda row: "in place" if row.in_place else "out of place",
    ),
    "root": (lambda row: str(row.root), lambda row: f"root {row.root}" if row.root else ""),
    "settings": (lambda row: _settings(row, ",") or "none", lambda row: _settings(row, " ")),
    "clock": (lambda row: row.clock or "", lambda row: f"{row.clock} clock" if row.clock else ""),
    "launches": (
        lambda row: str(row.launches or ""),
        lambda row: f"{row.launches} launches" if row.launches > 1 else "",
    ),
    "group": (lambda row: row.group, lambda row: row.group),
}


def where(machine: Machine) -> str:
    """`4 ranks on 2 hosts`."""
    ranks, hosts = machine.size, len(machine.hosts)
    if not ranks:
        return "ranks and hosts not told"
    return f"{ranks} rank{'s' * (ranks != 1)} on {hosts} host{'s' * (hosts != 1)}"


def confidence(run: Run) -> str:
    """That of the run's intervals, as in `95 %`."""
    return f"{100 * run.confidence:g} %"


# The forms of a column of figures. Spaces behind the shorter ones put the decimal points in one line.
_TINY = 5e-5  # bandwidth of a few bytes: as plain digits it would be mostly zeros
_FORMS = [*(f"%.{decimals}f" for decimals in range(_MOST_DECIMALS + 1)), "%.0e"]
_BEHIND = [0, *range(2, _MOST_DECIMALS + 2), 0]  # characters from the point on


def figure(value: float | None, known: int) -> str:
    """At most `known` significant digits, in plain notation."""
    return figures([value], np.array([known]))[0].rstrip()


def figures(values: Sequence[float | None], known: "NDArray[np.int64]") -> list[str]:
    """As `figure`, for a column, at the point: one formatting of all cells is far faster than one a cell."""
    numbers = np.array(values, np.float64)
    positive = numbers > 0
    above = np.where(positive, numbers, 1)
    decimals = known - 1 - np.floor(np.log10(above)).astype(np.int64)
    decimals -= np.round(above * 10.0**decimals) >= 10.0**known  # 9.99 is 10 to two digits
    decimals = np.minimum(decimals, _MOST_DECIMALS)
    shown = np.where(decimals < 0, np.round(above * 10.0**decimals) / 10.0**decimals, above)
    form = np.where(above < _TINY, _MOST_DECIMALS + 1, np.maximum(decimals, 0))
    most = max((_BEHIND[k] for k in set(form[positive].tolist())), default=0)
    forms = [text + " " * (most - behind) for text, behind in zip(_FORMS, _BEHIND, strict=True)]
    cells = ("\n".join([forms[k] for k in form.tolist()]) % tuple(shown.tolist())).splitlines()
    for k in np.flatnonzero(~positive).tolist():
        cells[k] = ("-" if values[k] is None else "0") + " " * most
    return cells


def intervals(rows: Sequence[Row]) -> "NDArray[np.float64]":
    """(median, low, high) of each row in microseconds; NaN: not known."""
    return np.array([[getattr(row, name) for row in rows] for name in ("median_us", "ci_low_us", "ci_high_us")], float)


def known_digits(rows: Sequence[Row]) -> "NDArray[np.int64]":
    """How many digits each row's interval lets be shown; of what another tool printed, as many as it prints."""
    return told_digits(rows, *intervals(rows))


def told_digits(rows: Sequence[Row], *interval: "NDArray[np.float64]") -> "NDArray[np.int64]":
    """As `known_digits`, from the intervals of these rows."""
    foreign = np.array([row.kind != "samples" for row in rows], bool) & np.isnan(interval[1])
    return np.where(foreign, _FOREIGN_DIGITS, digits(*interval))


def group_ranks(machine: Machine, rows: Iterable[Row]) -> dict[str, str]:
    """group -> its ranks (`4-7`); without an entry where nobody can tell."""
    layouts: dict[str, Groups] = {}
    for symbol in {row.groups for row in rows} if machine.host_of else ():
        try:
            layouts[symbol] = expand(symbol, machine.host_of)
        except SpecError:  # a layout of another tool
            continue
    out = {}
    for group in {row.group for row in rows}:
        symbol, _, index = group.partition("[")
        groups, k = layouts.get(symbol, ()), int(index.rstrip("]") or 0)
        if k < len(groups):
            out[group] = label(groups[k])
    return out
