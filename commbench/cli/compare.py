"""`commbench compare`: is NEW slower than BASE, or did anything change over many runs?"""

import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from commbench.errors import SpecError
from commbench.units import parse_share

if TYPE_CHECKING:
    from commbench.records import Measurement, Run


def _share(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_share(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("compare")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--min-effect", callback=_share, default="3%", show_default=True, help="The least difference that matters."
)
@click.option(
    "--confidence", callback=_share, default="95%", show_default=True, help="That no verdict of the table is wrong."
)
@click.option("--ignore", multiple=True, metavar="FIELD", help="Leave a field out of the match: backend, dtype, ...")
@click.option("--launch-spread", callback=_share, help="Assume this from launch to launch where each side has one.")
@click.option("--history", is_flag=True, help="Find when times changed, in nine or more runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Draw the ratios: a .png, .svg or .pdf file.")
def command(
    paths: Sequence[Path],
    min_effect: float,
    confidence: float,
    ignore: Sequence[str],
    launch_spread: float | None,
    history: bool,
    as_json: bool,
    out: Path | None,
) -> NoReturn:
    """Compare the runs in BASE with those in NEW: run folders, folders of them, or files of other tools.

    \b
    commbench compare BASE NEW               exit code 0: same or faster, 1: slower, 3: cannot tell
    commbench compare --history DIR...       0: no change for the worse, 1: slower since, 3: too few runs
    """
    if history:
        if out or ignore or launch_spread:
            raise SpecError("--history takes neither --out nor --ignore nor --launch-spread")
        code = _history(paths, min_effect, confidence, as_json)
    elif len(paths) != 2:
        raise SpecError(f"compare takes two paths, BASE and NEW; {len(paths)} given (--history takes many)")
    else:
        code = _compare(paths[0], paths[1], min_effect, confidence, ignore, launch_spread, as_json, out)
    sys.exit(code)


def _load(path: Path) -> "list[tuple[Run, Sequence[Measurement]]]":
    from commbench.jobs.runs import load_runs

    return [(one.run, one.measurements) for one in load_runs(path)]


def _compare(
    base_path: Path,
    new_path: Path,
    min_effect: float,
    confidence: float,
    ignore: Sequence[str],
    spread: float | None,
    as_json: bool,
    out: Path | None,
) -> int:
    from commbench.errors import nearest
    from commbench.report import comparison as report
    from commbench.stats.compare import compare
    from commbench.stats.matching import IGNORABLE

    for name in ignore:
        if name not in IGNORABLE:
            raise SpecError(f"--ignore {name}: cannot be left out of the match; {nearest(name, IGNORABLE)}")
    if out:
        from commbench.report.image import format_of

        format_of(out)  # a mistake is told before the work
    base, new = _load(base_path), _load(new_path)
    found = compare(base, new, ignore=ignore, confidence=confidence, min_effect=min_effect, spread=spread)
    runs = [run for run, _ in base], [run for run, _ in new]
    click.echo(report.as_json(found, *runs).decode() if as_json else "\n".join(report.text(found, *runs)))
    if out:
        from commbench.report.comparison_plot import plot

        plot(found, out)
        click.echo(str(out), err=as_json)
    return found.code


def _history(paths: Sequence[Path], min_effect: float, confidence: float, as_json: bool) -> int:
    from commbench.report import comparison as report
    from commbench.stats.history import history

    runs = sorted((run for path in paths for run in _load(path)), key=lambda one: _date(one[0]))
    if undated := sum(run.origin is not None and run.origin.dated == "mtime" for run, _ in runs):
        click.echo(f"commbench: {undated} of {len(runs)} runs are dated by the last change of their file", err=True)
    found = history(runs, confidence=confidence, min_effect=min_effect)
    click.echo(report.history_json(found).decode() if as_json else "\n".join(report.history_text(found)))
    return found.code


def _date(run: "Run") -> datetime:
    try:
        date = datetime.fromisoformat(run.created.replace("Z", "+00:00"))
    except ValueError:
        raise SpecError(f"{run.name!r} tells no date ({run.created!r}): a history needs one of every run") from None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
