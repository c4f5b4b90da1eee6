"""`commbench query`: SQL over runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from commbench.jobs.query import Answer


@click.command("query")
@click.argument("places", nargs=-1, metavar="DIR...", required=True)
@click.argument("sql", metavar='"SELECT ..."')
@click.option("--json", "form", flag_value="json", help="A list of objects.")
@click.option("--csv", "form", flag_value="csv", help="For a spreadsheet.")
def command(places: tuple[str, ...], sql: str, form: str | None) -> None:
    """Ask any number of runs with SQL. DIR is a run folder, a folder of them, another tool's file, or s3://...

    \b
    Tables: rows (as in show --json, with the run's folder), samples, runs, facts.
    commbench query results "SELECT run, nbytes, busbw_gbps FROM rows WHERE op = 'all_reduce' ORDER BY 2"
    """
    from commbench.jobs.query import query

    answer = query(places, sql)
    click.echo({"json": _as_json, "csv": _as_csv}.get(form or "", _as_text)(answer))


def _as_text(answer: "Answer") -> str:
    from commbench.report.view import one_line

    lines = [answer.columns, *(tuple(_cell(value) for value in row) for row in answer.rows)]
    lines = [tuple(one_line(cell) for cell in line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [_numeric([row[k] for row in answer.rows]) for k in range(len(widths))]
    form = "  ".join(f"{{:{'>' if number else '<'}{width}}}" for width, number in zip(widths, right, strict=True))
    return "\n".join(form.format(*line).rstrip() for line in lines)


def _numeric(column: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, int | float) for value in column)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _as_csv(answer: "Answer") -> str:
    from commbench.report.spreadsheet import csv_text

    return csv_text(*answer).rstrip("\n")


def _as_json(answer: "Answer") -> str:
    import msgspec

    told = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    return msgspec.json.encode(told, enc_hook=str).decode()
