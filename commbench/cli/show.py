"""`commbench show`: a run folder as a table, JSON or CSV."""

import gc
from pathlib import Path

import click


def show(folder: Path, form: str) -> None:
    """Prints a run folder; reads neither torch nor mpi4py."""
    from commbench import store
    from commbench.report import table
    from commbench.stats.rows import rows, spread

    gc.disable()  # nothing here is a cycle, and 100,000 rows are a fifth faster without looking for one
    run, measurements = store.load(folder)
    found = rows(measurements, run.spec["stop"]["confidence"])
    if form == "json":
        click.echo(table.as_json(run, found))
        return
    lines = table.csv_lines(found) if form == "csv" else table.table(run, found, spread(found))
    click.echo("\n".join(lines))


@click.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "form", flag_value="json", help="Every row with its interval, and the run's record.")
@click.option("--csv", "form", flag_value="csv", help="The rows, for a spreadsheet.")
def command(folder: Path, form: str | None) -> None:
    """Print the table of the run in FOLDER."""
    show(folder, form or "table")
