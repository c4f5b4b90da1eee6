"""`commbench baseline`: what an accepted machine did, kept in a small file to compare later runs with."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from commbench.report.findings import safe
from commbench.units import format_bytes, format_time, parse_share

if TYPE_CHECKING:
    from commbench.accept.baseline import Baseline, Change, Series
    from commbench.jobs.baseline import Compared


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return parse_share(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group("baseline")
def command() -> None:
    """Keep what an accepted machine did, and compare later runs of it with that.

    \b
    commbench baseline create results/accepted -o baseline.json
    commbench baseline compare baseline.json results/today
    """


@command.command("create")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where to; DIR/baseline.json unless told.")
@click.option("--force", is_flag=True, help="Also from a run that did not pass; the file says so.")
def create(folder: Path, out: Path | None, force: bool) -> None:
    """Make a baseline from the run in DIR, which must have passed."""
    from commbench.jobs import baseline as job

    made = job.create(folder, force)
    path = out or folder / job.NAME
    job.write(path, made)
    click.echo(f"{path}: {len(made.series)} questions of {safe(made.name)}, {made.word}")


@command.command("show")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(path: Path, as_json: bool) -> None:
    """Print what a baseline holds."""
    from commbench.accept.baseline import encode, read
    from commbench.jobs.baseline import path_of

    found = read(path_of(path))
    click.echo(encode(found).decode() if as_json else "\n".join(_shown(found)), nl=not as_json)


@command.command("compare")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--slowdown", callback=_share, default="10%", show_default=True, help="The least loss that matters.")
@click.option(
    "--confidence", callback=_share, default="99%", show_default=True, help="That no word of the table is wrong."
)
@click.option("--force", is_flag=True, help="Compare also with a baseline of another machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compare(path: Path, folder: Path, slowdown: float, confidence: float, force: bool, as_json: bool) -> NoReturn:
    """Compare the run in DIR with a baseline, distribution against distribution.

    Exit code 0: nothing is slower. 1: something is. 2: of another machine. 3: cannot tell.
    """
    from commbench.jobs import baseline as job

    # A share of the rate that is lost is a larger share of the time.
    found = job.compare(path, folder, slowdown / (1 - slowdown), confidence, force)
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2))
    else:
        click.echo("\n".join(_compared(found, slowdown)))
    sys.exit(found.comparison.code)


def _what(one: "Series") -> str:
    return f"{one.op} {format_bytes(one.nbytes)} {one.mode}, {one.backend}, {one.where}, {one.ranks} ranks"


def _shown(found: "Baseline") -> Iterator[str]:
    forced = " (made by --force of a run that did not pass)" if found.forced else ""
    yield f"{safe(found.name)} of {safe(found.created)}: {found.word}{forced}"
    for name, value in {**found.machine, **found.versions}.items():
        yield f"# {safe(name)}: {safe(value)}"
    for one in found.series:
        ordered = sorted(value for samples in one.rounds for value in samples)
        low, middle, high = (format_time(ordered[int(q * (len(ordered) - 1))]) for q in (0.05, 0.5, 0.95))
        rounds = f"{len(one.rounds)} round{'s' * (len(one.rounds) != 1)}"
        yield f"{safe(_what(one)):60}  median {middle}, 5 to 95 %: {low} to {high}, {rounds}"


def _compared(found: "Compared", slowdown: float) -> Iterator[str]:
    word = {0: "As fast as the baseline", 1: "Slower than the baseline", 3: "Cannot tell"}[found.comparison.code]
    base = f"{safe(found.base.name)} of {safe(found.base.created)}"
    yield f"{word} ({base}); losing {100 * slowdown:.3g} % of the rate matters."
    for one in found.differs:
        yield f"# another machine: {safe(str(one))}"
    for change in found.comparison.changes:
        yield _line(change)
    for missing in found.comparison.missing:
        yield f"{safe(_what(missing)):60}  in the baseline and not measured now"


def _line(change: "Change") -> str:
    effect = change.effect
    low, high = effect.low, effect.high
    known = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "interval not known"
    times = f"{format_time(change.base)} -> {format_time(change.new)}"
    return f"{safe(_what(change.series)):60}  {times}  time x{effect.ratio:.3f} ({known})  {effect.verdict}"


def _plain(found: "Compared") -> dict[str, object]:
    import msgspec

    return {
        "code": found.comparison.code,
        "baseline": found.base.name,
        "created": found.base.created,
        "run": found.run.name,
        "differs": [msgspec.to_builtins(one) for one in found.differs],
        "changes": [
            {
                "question": _what(one.series),
                "base_us": one.base * 1e6,
                "new_us": one.new * 1e6,
                "ratio": one.effect.ratio,
                "low": one.effect.low,
                "high": one.effect.high,
                "verdict": one.effect.verdict,
            }
            for one in found.comparison.changes
        ],
        "missing": [_what(one) for one in found.comparison.missing],
    }
