"""`commbench report`: runs as one HTML file that opens offline."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from commbench.errors import SpecError


@click.command("report")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .html file to write.")
@click.option("--base", type=click.Path(path_type=Path), help="Compare all others with the runs of this folder.")
@click.option("--quiet", is_flag=True, help="Do not print the name of the file.")
def command(paths: Sequence[Path], output: Path, base: Path | None, quiet: bool) -> None:
    """Write a report about the runs in DIR...: run folders, folders of them, or files of other tools.

    The report is one file that opens offline and begins with a summary in words. Two DIRs are compared, the first
    being the base; --base compares any number of runs with those of a folder.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"{output}: a report is an .html file; a browser prints it to PDF")
    import msgspec

    from commbench import store, traps
    from commbench.jobs.runs import load_runs
    from commbench.report.html.compared import compared
    from commbench.report.html.examined import examine
    from commbench.report.html.page import page
    from commbench.report.lines import run_names

    sides = [load_runs(path) for path in ([base] if base else []) + list(paths)]
    loaded = [one for side in sides for one in side]
    runs = [
        examine(name, one.run, one.measurements, one.parts, one.concluded)
        for name, one in zip(run_names([one.run for one in loaded]), loaded, strict=True)
    ]
    found = [
        finding if len(loaded) == 1 else msgspec.structs.replace(finding, where=f"{run.name} {finding.where}".strip())
        for run, one in zip(runs, loaded, strict=True)
        for finding in traps.find(one.run, one.measurements, run.rows, one.parts)
    ]
    against = None
    if base is not None or len(sides) == 2:
        from commbench.stats.compare import compare

        old, new = ([(one.run, one.measurements) for one in side] for side in (sides[0], loaded[len(sides[0]) :]))
        against = compared(compare(old, new), [run for run, _ in old], [run for run, _ in new], "comparison-")
    again = ["commbench", "report", *map(str, paths), *(["--base", str(base)] if base else []), "-o", str(output)]
    text = page(runs, found, against, shlex.join(again))
    store.write_atomically(output, text.encode("utf-8", "replace"))
    if not quiet:
        click.echo(str(output))
