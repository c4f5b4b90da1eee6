"""`commbench sweep`: inside a launch it is a rank, without one it starts the ranks."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from commbench.cli import fail
from commbench.cli.launches import IN_A_LAB, launch_of, leave_unless, on_hosts, ranks_of
from commbench.errors import CommbenchError, SpecError

if TYPE_CHECKING:
    from commbench.jobs.request import Request, Watcher
    from commbench.spec import SweepSpec
    from commbench.world.discover import Place


@click.command("sweep")
@click.argument("spec")
@click.option(
    "-n", "ranks", type=click.IntRange(1, 65535), help=f"Start this many ranks (simulated: play them); {IN_A_LAB}."
)
@click.option("--launcher", help="mpirun, torchrun or srun; default: what suits the spec and the place.")
@click.option("--lab", "topology", help="Start the ranks on the hosts of this lab topology (commbench lab).")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: results/NAME-UTC.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the spec, as in stop.ci=5%."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out: measure what is missing.")
@click.option("--dry-run", is_flag=True, help="Print the cases and the expected time, measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (like show --json).")
@click.option("--quiet", is_flag=True, help="No progress and no table; errors only.")
@click.option("--seed", type=click.IntRange(0), help="Same as --set seed=...")
@click.option("--allow-single", is_flag=True, help="Measure a world of one rank (bus bandwidth is null).")
@click.option("--launch", "launch_index", type=int, hidden=True, help="Set in ranks that commbench started.")
def command(
    spec: str,
    ranks: int | None,
    launcher: str | None,
    topology: str | None,
    out: Path | None,
    overrides: Sequence[str],
    resume: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    seed: int | None,
    allow_single: bool,
    launch_index: int | None,
) -> NoReturn:
    """Measure what SPEC asks for: a YAML file, or the name of a shipped spec (commbench specs)."""
    from commbench.world.discover import discover

    place = discover(os.environ)
    if place and place.size > 1:
        from commbench.measure.launch import die_with_parent

        die_with_parent()
    first = place is None or place.rank == 0
    if seed is not None:
        overrides = [*overrides, f"seed={seed}"]
    asked = _Asked(
        spec, ranks, launcher, topology, out, tuple(overrides), resume, dry_run, quiet, allow_single, launch_index
    )
    try:
        folder, code = _sweep(asked, place, first)
    except CommbenchError as error:
        leave_unless(first, error.exit_code)
        fail(error)
    except KeyboardInterrupt:
        raise click.Abort from None
    if folder and first and launch_index is None:
        _result(folder, as_json, quiet)
    sys.exit(code)


class _Asked(NamedTuple):
    spec: str
    ranks: int | None
    launcher: str | None
    topology: str | None
    out: Path | None
    overrides: tuple[str, ...]
    resume: bool
    dry_run: bool
    quiet: bool
    allow_single: bool
    launch: int | None


def _sweep(asked: _Asked, place: "Place | None", first: bool) -> tuple[Path | None, int]:
    """(the run folder, the exit code); no folder for a dry run."""
    from commbench.jobs.inside import simulate, work
    from commbench.jobs.request import Request, Watcher, check, check_libraries
    from commbench.report.progress import Progress
    from commbench.spec import load

    spec = load(asked.spec, asked.overrides)
    inside = launch_of(place, asked.ranks, asked.topology)
    otherwise = 1 if asked.allow_single else 2 if asked.dry_run else None
    size = ranks_of(inside, asked.ranks, asked.topology, f"sweep {asked.spec}", otherwise)
    if asked.dry_run:
        if first:
            _dry_run(spec, size)
        return None, 0
    if asked.resume and asked.out is None:
        raise SpecError("--resume needs --out DIR: which run is to go on?")
    now = datetime.now(timezone.utc)
    request = Request(
        spec=spec,
        out=asked.out or Path("results") / f"{spec.name}-{now:%Y%m%dT%H%M%SZ}",
        resume=asked.resume,
        created=now.isoformat(timespec="seconds"),
        command=("commbench", *sys.argv[1:]),
        launch=asked.launch,
        allow_single=asked.allow_single,
        now=time.time,
    )
    check(request, size)
    silent = asked.quiet or not first or asked.launch is not None
    with Progress(sys.stderr, silent) as progress:
        watcher = Watcher(progress.begin, progress.rows, _say)
        if spec.backends == ("simulated",):
            if inside:
                raise SpecError(
                    "backend simulated plays all ranks in one process: start it without a launcher, with -n"
                )
            return request.out, simulate(request, size, watcher)
        if inside or (size == 1 and not asked.topology):
            check_libraries(spec.backends)
            return request.out, work(request, inside, watcher)
        return request.out, _start(asked, request, size, watcher)


def _start(asked: _Asked, request: "Request", size: int, watcher: "Watcher") -> int:
    """Starts the ranks, on this machine or on the hosts of a lab; returns the exit code."""
    from commbench.jobs.outside import start
    from commbench.jobs.request import check_libraries
    from commbench.measure.launch import choose

    backends = request.spec.backends
    launcher = asked.launcher or choose(backends, {} if asked.topology else os.environ)
    if launcher != "srun":  # srun reaches machines that this one knows nothing about
        check_libraries(backends)
    again = ["sweep", asked.spec, *(f"--set={item}" for item in asked.overrides)]
    return on_hosts(asked.topology, lambda net: start(request, size, launcher, again, watcher, net))


def _say(sentence: str) -> None:
    click.echo(f"commbench: {sentence}", err=True)


def _result(folder: Path, as_json: bool, quiet: bool) -> None:
    """The table, and what to do next."""
    if quiet and not as_json:
        return
    from commbench.cli.show import show

    show(folder, "json" if as_json else "table")
    if not as_json:
        click.echo(f"# run folder: {folder}   (commbench plot {folder} -o plot.png)")


def _dry_run(loaded: "SweepSpec", size: int) -> None:
    from commbench.collectives import COLLECTIVES
    from commbench.spec import estimate, guess, rounded
    from commbench.units import format_bytes, format_time

    found = guess(loaded, size)
    for case in found:
        redop = f" {case.redop}" if COLLECTIVES[case.op].reduces else ""
        place = " in-place" if case.in_place else ""
        click.echo(
            f"{case.backend} {case.op} {format_bytes(case.nbytes)} {case.dtype}{redop} {case.groups} {case.mode}{place}"
        )
    for sentence in rounded(found, [0] * size):
        click.echo(f"# rounded: {sentence}")
    expected, most = estimate(loaded, found)
    launches = f" x {loaded.launches} launches" if loaded.launches > 1 else ""
    click.echo(
        f"# {len(found)} cases{launches} on {size} ranks of one host: about {format_time(expected)}, "
        f"at most {format_time(most)}"
    )
