"""CSV that a spreadsheet shows as it is: text that it would run as a formula gets an apostrophe in front."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from commbench.report.view import one_line


def cell(value: Any) -> Any:
    """Numbers stay numbers, unknown is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        value = " ".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, str):
        value = one_line(value)
        return f"'{value}" if value.lstrip()[:1] in {"=", "+", "-", "@"} else value
    return value


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A title line and one line a row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue()
