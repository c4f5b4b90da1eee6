"""`commbench show`: a run folder as a table, JSON or CSV."""

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commbench.errors import SpecError

if TYPE_CHECKING:
    from commbench.jobs.runs import Loaded
    from commbench.stats.rows import Row


def show(path: Path, form: str, expect: str | None = None) -> None:
    """Prints a run, or several; reads neither torch nor mpi4py."""
    if expect and form == "csv":
        raise SpecError("--expect has no place in CSV: take --json, or the table")
    gc.disable()  # nothing here is a cycle, and 100,000 rows are a fifth faster without looking for one
    try:
        click.echo(_text(path, form, expect))
    finally:
        gc.enable()


def _text(path: Path, form: str, expect: str | None) -> str:
    from commbench import store
    from commbench.errors import FolderError
    from commbench.jobs.runs import Loaded, load_runs, tabulate
    from commbench.records import Measurement
    from commbench.stats.rows import Unattributed

    if (path / "run.json").exists():
        brief = form == "table"
        run, measurements = store.stream(path, Unattributed if brief else Measurement)
        if run.origin is None:  # one measurement after another: it may be a large run
            return _one(Loaded(run, [], store.load_parts(path)), tabulate(run, measurements, brief=brief), form, expect)
    loaded = load_runs(path)
    if len(loaded) > 1 and form != "table":
        names = ", ".join(one.where or one.run.name for one in loaded)
        raise FolderError(f"{path} holds {len(loaded)} runs ({names}): name one, or ask them all with commbench query")
    return "\n\n".join(_one(one, tabulate(one.run, one.measurements), form, expect) for one in loaded)


def _one(loaded: "Loaded", found: "list[Row]", form: str, expect: str | None) -> str:
    from commbench import traps
    from commbench.model import wire
    from commbench.report import expected, table
    from commbench.stats.spread import spread

    run = loaded.run
    beside = expected.beside(found, expect) if expect else None
    if form == "json":
        return table.as_json(run, found, beside).decode()
    if form == "csv":
        return "\n".join(table.csv_lines(found))
    note = wire.beyond(found, run.machine) if run.machine.fabric is not None else None
    lines = [*table.table(run, found, spread(found), note)]
    if beside is not None:
        lines += expected.lines(beside)
    findings = traps.find(run, loaded.measurements, found, loaded.parts)
    lines += table.finding_lines(findings)
    return "\n".join(lines)


@click.command("show")
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@click.option("--json", "form", flag_value="json", help="Every row with its interval, and the run's record.")
@click.option("--csv", "form", flag_value="csv", help="The rows, for a spreadsheet.")
@click.option("--expect", metavar="SYSTEM", help="Put published figures of the same size beside the rows.")
def command(path: Path, form: str | None, expect: str | None) -> None:
    """Print the table of a run folder, of all runs in a folder, or of another tool's file."""
    # No table needs a matrix product; the threads that OpenBLAS starts for them burn 0.05 s waiting for one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    show(path, form or "table", expect)
