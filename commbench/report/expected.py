"""Rows beside published figures of the same size: for orientation, never a pass mark."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from commbench.reference import Nearest, nearest
from commbench.report.view import one_line, size
from commbench.stats.rows import Row

_MOST_SIZES = 12
_LEFT = (0, 2, 7)  # columns of words


def beside(rows: Iterable[Row], system: str) -> list[tuple[Row, Nearest]]:
    """Each row of a whole world that has a bus bandwidth, with the reference. SpecError: unknown system."""
    return [
        (row, nearest(system, row.op, row.nbytes, row.ranks or 0, row.in_place))
        for row in rows
        if row.busbw_gbps is not None and row.group == "world"
    ]


def as_dicts(found: Iterable[tuple[Row, Nearest]]) -> list[dict[str, Any]]:
    """For JSON: null where there is no figure of that size."""
    return [
        {
            "op": row.op,
            "backend": row.backend,
            "nbytes": row.nbytes,
            "in_place": row.in_place,
            "busbw_gbps": row.busbw_gbps,
            "reference": near.row,
            "ratio": (row.busbw_gbps or 0.0) / near.row.value if near.row else None,
        }
        for row, near in found
    ]


def lines(found: Sequence[tuple[Row, Nearest]]) -> Iterator[str]:
    """Comment lines for the end of the table."""
    matched = [(row, near.row) for row, near in found if near.row is not None]
    if matched:
        system = matched[0][1].system
        yield f"# beside published busbw of {system} (GB/s; orientation, not a pass mark):"
        head = ("op", "size", "buffer", "here", "published", "ratio", "wire%", "published for")
        cells = [
            (
                row.op,
                size(row.nbytes),
                "in" if row.in_place else "out",
                f"{row.busbw_gbps:.4g}",
                f"{there.value:g}",
                f"{(row.busbw_gbps or 0.0) / there.value:.2f}",
                "-" if row.wire_share is None else f"{100 * row.wire_share:.0f}",
                one_line(_published(there)),
            )
            for row, there in matched
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        for line in (head, *cells):
            left = (0, 2, 7)
            padded = (
                f"{cell:<{w}}" if k in left else f"{cell:>{w}}"
                for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            yield f"#   {'  '.join(padded)}".rstrip()
        for source in dict.fromkeys(there.source for _, there in matched):
            yield f"#   source: {one_line(source)}"
    alone = len(found) - len(matched)
    if alone or not found:
        sizes = sorted({nbytes for _, near in found for nbytes in near.sizes})
        known = ", ".join(size(nbytes) for nbytes in sizes[:_MOST_SIZES]) or "none for these collectives"
        yield f"# no published figure of the same size: {alone} rows (sizes there are: {known})"


def _published(there: Any) -> str:
    where = f" on {there.nodes} node{'s' * (there.nodes != 1)}" if there.nodes else ""
    words = [
        f"{there.ranks} ranks{where}" if there.ranks else "",
        there.placement,
        there.algorithm,
        there.library_version,
    ]
    return ", ".join(word for word in words if word)
