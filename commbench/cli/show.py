"""`commbench show`: a run folder as a table, JSON or CSV."""

import gc
from pathlib import Path

import click


def show(folder: Path, form: str) -> None:
    """Prints a run folder; reads neither torch nor mpi4py."""
    gc.disable()  # nothing here is a cycle, and 100,000 rows are a fifth faster without looking for one
    try:
        click.echo(_text(folder, form))
    finally:
        gc.enable()


def _text(folder: Path, form: str) -> str:
    from commbench import store
    from commbench.report import table
    from commbench.stats.rows import rows, spread

    run, measurements = store.stream(folder)
    found = rows(measurements, run.spec["stop"]["confidence"], who=form != "table")
    note = None
    if run.machine.fabric is not None:
        from commbench.model import wire

        found, note = wire.with_limits(found, run.machine), wire.beyond(found, run.machine)
    if form == "json":
        return table.as_json(run, found).decode()
    lines = table.csv_lines(found) if form == "csv" else table.table(run, found, spread(found), note)
    return "\n".join(lines)


@click.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "form", flag_value="json", help="Every row with its interval, and the run's record.")
@click.option("--csv", "form", flag_value="csv", help="The rows, for a spreadsheet.")
def command(folder: Path, form: str | None) -> None:
    """Print the table of the run in FOLDER."""
    show(folder, form or "table")
