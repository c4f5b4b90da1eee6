"""`commbench plot`: bus bandwidth and latency against size."""

from collections.abc import Sequence
from pathlib import Path

import click


@click.command("plot")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .png, .svg or .pdf file.")
def command(folders: Sequence[Path], output: Path) -> None:
    """Draw the runs in FOLDERS into one picture."""
    from commbench import store
    from commbench.report.plots import plot
    from commbench.stats.rows import rows

    runs = []
    for folder in folders:
        run, measurements = store.stream(folder)
        runs.append((run, rows(measurements, run.spec["stop"]["confidence"])))
    plot(runs, output)
    click.echo(str(output))
