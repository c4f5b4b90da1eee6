"""`commbench sweep`: inside a launch it is a rank, without one it starts the ranks."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

import click

from commbench.cli import fail
from commbench.errors import CommbenchError, SpecError


@click.command("sweep")
@click.argument("spec")
@click.option("-n", "ranks", type=click.IntRange(1, 65535), help="Start this many ranks (simulated: play them).")
@click.option("--launcher", help="mpirun, torchrun or srun; default: what suits the spec and the place.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: results/NAME-UTC.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the spec, as in stop.ci=5%.")
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
    from commbench import jobs
    from commbench.measure.launch import choose, die_with_parent
    from commbench.report.progress import Progress
    from commbench.spec import load
    from commbench.world.discover import discover

    place = discover(os.environ)
    if place and place.size > 1:
        die_with_parent()
    first = place is None or place.rank == 0
    try:
        if seed is not None:
            overrides = [*overrides, f"seed={seed}"]
        loaded = load(spec, overrides)
        if resume and out is None:
            raise SpecError("--resume needs --out DIR: which run is to go on?")
        now = datetime.now(timezone.utc)
        request = jobs.Request(
            spec=loaded,
            out=out or Path("results") / f"{loaded.name}-{now:%Y%m%dT%H%M%SZ}",
            resume=resume,
            created=now.isoformat(timespec="seconds"),
            command=("commbench", *sys.argv[1:]),
            launch=launch_index,
            allow_single=allow_single,
        )
        inside = place is not None and not (ranks and place.size == 1)
        if inside and ranks and place and ranks != place.size:
            raise SpecError(f"-n {ranks} inside a launch of {place.size} ranks ({place.source}): leave -n out")
        size = place.size if inside and place else ranks or (1 if allow_single else 0)
        if dry_run:
            if first:
                _dry_run(loaded, size or 2)
            sys.exit(0)
        if size == 0:
            raise SpecError(f"how many ranks? commbench sweep {spec} -n 2, or mpirun -n 2 commbench sweep {spec}")
        jobs.check(request, size)
        progress = Progress(sys.stderr, quiet or not first or launch_index is not None)
        watcher = jobs.Watcher(progress.begin, progress.rows, _say)
        with progress:
            if loaded.backends == ("simulated",):
                if inside:
                    raise SpecError("backend simulated plays all ranks in one process: commbench sweep SPEC -n 64, without a launcher")
                code = jobs.simulate(request, size, watcher)
            elif inside or size == 1:
                if not os.environ.get("SLURM_STEP_ID"):
                    jobs.check_libraries(loaded.backends)
                code = jobs.work(request, place if inside else None, watcher)
            else:
                chosen = launcher or choose(loaded.backends, os.environ)
                if chosen != "srun":  # srun reaches machines that this one knows nothing about
                    jobs.check_libraries(loaded.backends)
                again = ["sweep", spec, *(f"--set={item}" for item in overrides)]
                code = jobs.start(request, size, chosen, again, watcher)
    except CommbenchError as error:
        # All ranks meet the same mistake; one of them says so.
        if not first:
            sys.exit(error.exit_code)
        fail(error)
    except KeyboardInterrupt:
        raise click.Abort from None
    if first and launch_index is None:
        _result(request.out, as_json, quiet)
    sys.exit(code)


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


def _dry_run(loaded: "object", size: int) -> None:
    from commbench.spec import SweepSpec, cases, estimate, rounded
    from commbench.units import format_bytes, format_time

    assert isinstance(loaded, SweepSpec)
    found = cases(loaded, [0] * size)
    for case in found:
        redop = f" {case.redop}" if case.redop else ""
        place = " in-place" if case.in_place else ""
        click.echo(f"{case.backend} {case.op} {format_bytes(case.nbytes)} {case.dtype}{redop} {case.groups} {case.mode}{place}")
    for sentence in rounded(found, [0] * size):
        click.echo(f"# rounded: {sentence}")
    expected, most = estimate(loaded, found)
    launches = f" x {loaded.launches} launches" if loaded.launches > 1 else ""
    click.echo(
        f"# {len(found)} cases{launches} on {size} ranks of one host: about {format_time(expected)}, "
        f"at most {format_time(most)}"
    )
