"""`commbench plot`: bus bandwidth and latency against size."""

from collections.abc import Sequence
from pathlib import Path

import click


@click.command("plot")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR|FILE...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .png, .svg or .pdf file.")
def command(folders: Sequence[Path], output: Path) -> None:
    """Draw runs into one picture: run folders, folders of them, other tools' files; or one search for a bucket plan."""
    if len(folders) == 1 and (folders[0] / "plan.json").exists():
        from commbench.jobs.plan import read
        from commbench.report import plan_plot

        plan_plot.plot(read(folders[0]), output)
        click.echo(str(output))
        return
    from commbench.jobs.runs import load_runs, tabulate
    from commbench.report.plots import plot

    loaded = [one for folder in folders for one in load_runs(folder)]
    plot([(one.run, tabulate(one.run, one.measurements)) for one in loaded], output)
    click.echo(str(output))
