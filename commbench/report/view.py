"""How a row is told, in the table and in the picture alike: what it is about, its figures, who took part."""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

from commbench.errors import SpecError
from commbench.layouts import Groups, expand, label
from commbench.records import Machine, Run
from commbench.stats.rows import Row
from commbench.units import format_bytes

_MOST_DECIMALS = 6
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
    return f"{ranks} rank{'s' * (ranks != 1)} on {hosts} host{'s' * (hosts != 1)}"


def confidence(run: Run) -> str:
    """That of the run's intervals, as in `95 %`."""
    stop = run.spec.get("stop")
    return f"{100 * stop.get('confidence', 0.95):g} %" if isinstance(stop, dict) else "95 %"


_PLAIN = [9.99 * 10 ** (digits - 2) for digits in range(12)]  # below this, %g has no exponent and no lost digit


def figure(value: float | None, known: int) -> str:
    """At most `known` significant digits, in plain notation."""
    if value is None:
        return "-"
    if value < 5e-5:  # bandwidth of a few bytes: as plain digits it would be mostly zeros
        return f"{value:.0e}" if value > 0 else "0"
    if 1 <= value < _PLAIN[known]:  # nearly all figures, and three times as fast
        return f"{value:#.{known}g}".rstrip(".")
    decimals = min(known - 1 - math.floor(math.log10(value)), _MOST_DECIMALS)
    if decimals >= 0:
        return f"{value:.{decimals}f}"
    return str(round(value / 10**-decimals) * 10**-decimals)


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
