"""`commbench verify`: the user's own job with and without a recommendation."""

import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from commbench.cli.tune import in_order, seconds_of
from commbench.errors import SpecError
from commbench.units import parse_share

if TYPE_CHECKING:
    from commbench.measure.trial import Pattern
    from commbench.stats.trials import Restart

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return parse_share(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _time(ctx: click.Context, param: click.Parameter, value: str) -> float:
    return seconds_of(value)


@click.command("verify", context_settings={"ignore_unknown_options": True})
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD...")
@click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(3, 1000), help="Restarts of each side, at most."
)
@click.option(
    "--skip-steps", default=5, show_default=True, type=click.IntRange(0), help="First steps that do not count."
)
@click.option("--step-regex", "regex", metavar="RE", help="Find step times in the job's output: one group, a number.")
@click.option(
    "--unit", default="s", show_default=True, type=click.Choice(list(_UNITS)), help="Of what --step-regex finds."
)
@click.option("--budget", callback=_time, default="10m", show_default=True, help="Time for all restarts together.")
@click.option(
    "--min-effect", callback=_share, default="1%", show_default=True, help="The least difference that matters."
)
@click.option(
    "--confidence", callback=_share, default="95%", show_default=True, help="That neither verdict, speed or loss, errs."
)
@click.option(
    "--force", is_flag=True, help="Also on another machine, rank count or version: nobody measured a gain there."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the order of restarts.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No line for each restart.")
def command(
    folder: Path,
    argv: Sequence[str],
    rounds: int,
    skip_steps: int,
    regex: str | None,
    unit: str,
    budget: float,
    min_effect: float,
    confidence: float,
    force: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    """Run CMD with and without the recommendation in DIR, in turn: is it really faster, and does it learn the same?

    \b
    commbench verify results/mine -- mpirun -n 4 python train.py
    commbench verify results/mine --step-regex 'step time: ([0-9.]+)' --unit ms -- torchrun train.py

    Exit code 0: faster, proved. 1: slower, or it learns worse. 3: cannot tell, or no difference.
    """
    from commbench.emit import refuse
    from commbench.jobs.verify import Request, verify
    from commbench.records import recommendation as records
    from commbench.report import verdicts

    if not argv:
        raise SpecError(f"which job? commbench verify {folder} -- mpirun -n 4 python train.py")
    refuse.ll128(records.read(folder))
    request = Request(
        folder=folder,
        argv=tuple(argv),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        rounds=rounds,
        skip=skip_steps,
        pattern=_pattern(regex, unit),
        budget=budget,
        min_effect=min_effect,
        confidence=confidence,
        seed=seed,
        force=force,
    )

    def tell(one: "Restart") -> None:
        if not quiet:
            click.echo(f"commbench: {verdicts.restart(one, rounds, skip_steps)}", err=True)

    with in_order(lambda: f"no verdict; what its restarts said is in {folder}"):
        found = verify(request, tell, os.environ)
    if as_json:
        click.echo(verdicts.as_json(found.judgement, found.restarts, found.settings, found.notes, skip_steps))
    else:
        for line in verdicts.text(found.judgement, found.settings, found.notes, min_effect):
            click.echo(line)
    sys.exit(found.code)


def _pattern(regex: str | None, unit: str) -> "Pattern | None":
    from commbench.measure.trial import Pattern

    if regex is None:
        return None
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise SpecError(f"--step-regex {regex!r}: {error}") from None
    names = set(compiled.groupindex)
    if not (names <= {"seconds", "step", "loss"} and ("seconds" in names or (compiled.groups == 1 and not names))):
        raise SpecError(
            f"--step-regex {regex!r}: give one group that holds the time, as in 'step time: ([0-9.]+)', or name its "
            "groups: (?P<seconds>...), and if you like (?P<step>...) and (?P<loss>...)"
        )
    return Pattern(compiled, _UNITS[unit])
