"""`commbench export`: runs for other tools."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from commbench.jobs.runs import Loaded

_FORMS = (".parquet", ".csv", ".txt", ".json")


@click.command("export")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "-o", "--out", "path", type=click.Path(path_type=Path), required=True, help="F.parquet, .csv, .txt, .json"
)
def command(folders: tuple[Path, ...], path: Path) -> None:
    """Write runs as Parquet or CSV (a line a row), or as nccl-tests' own text (.txt) or JSON (.json).

    In nccl-tests' formats stand the rows that it could have measured: throughput mode, their mean time.
    """
    from commbench import store
    from commbench.errors import SpecError
    from commbench.jobs import query
    from commbench.jobs.runs import load_runs
    from commbench.report.spreadsheet import csv_text

    places = [str(folder) for folder in folders]
    if path.suffix == ".parquet":
        data = query.parquet(places)
    elif path.suffix == ".csv":
        data = csv_text(*query.all_rows(places)).encode()
    elif path.suffix in _FORMS:
        data = _nccl_tests([loaded for folder in folders for loaded in load_runs(folder)], path)
    else:
        raise SpecError(f"{path}: unknown ending {path.suffix!r}; known: {', '.join(_FORMS)}")
    store.write_atomically(path, data)
    click.echo(path)


def _nccl_tests(runs: "list[Loaded]", path: Path) -> bytes:
    from commbench.errors import SpecError
    from commbench.jobs.runs import tabulate
    from commbench.report import nccl_tests

    each = [(one.run, table) for one in runs for table in nccl_tests.tables(tabulate(one.run, one.measurements))]
    if not each:
        raise SpecError("no row here has a place in nccl-tests' format: it knows throughput mode only")
    if path.suffix == ".txt":
        return "".join(f"{line}\n" for run, table in each for line in nccl_tests.text(run, table)).encode()
    if len(each) > 1:
        raise SpecError(f"nccl-tests' JSON holds one table, here are {len(each)}: write text, -o {path.stem}.txt")
    return nccl_tests.document(*each[0])
