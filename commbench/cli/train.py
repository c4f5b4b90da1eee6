"""`commbench train`: the reference training job. Inside a launch it is a rank, without one it starts the ranks."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from commbench.cli import fail
from commbench.cli.launches import IN_A_LAB, launch_of, leave_unless, on_hosts, ranks_of
from commbench.errors import CommbenchError, SpecError

if TYPE_CHECKING:
    from commbench.jobs.train import TrainRequest
    from commbench.training.record import Trained
    from commbench.world.discover import Place

_SEED, _STEPS = "COMMBENCH_SEED", "COMMBENCH_STEPS"


@click.command("train")
@click.argument("spec")
@click.option("-n", "ranks", type=click.IntRange(1, 65535), help=f"Start this many ranks; {IN_A_LAB}.")
@click.option("--launcher", help="mpirun, torchrun or srun; default: what suits the place.")
@click.option("--lab", "topology", help="Start the ranks on the hosts of this lab topology (commbench lab).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the result; default: $COMMBENCH_STEPS, or results/NAME-UTC.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the spec, as in layers=12."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No result; errors only.")
@click.option("--seed", type=click.IntRange(0), help="Same as --set seed=...")
@click.option("--started", is_flag=True, hidden=True, help="Set in ranks that commbench started.")
def command(
    spec: str,
    ranks: int | None,
    launcher: str | None,
    topology: str | None,
    out: Path | None,
    overrides: Sequence[str],
    as_json: bool,
    quiet: bool,
    seed: int | None,
    started: bool,
) -> NoReturn:
    """Train the small model of SPEC on Python's own sources: a YAML file, or the name of a shipped training spec.

    What commbench verify sets is obeyed: COMMBENCH_RECOMMENDATION, COMMBENCH_STEPS, COMMBENCH_SEED.
    """
    from commbench.world.discover import discover

    place = discover(os.environ)
    if place and place.size > 1:
        from commbench.measure.launch import die_with_parent

        die_with_parent()
    first = place is None or place.rank == 0
    try:
        overrides = [*overrides, *_seed(seed)]
        request = _request(spec, overrides, out)
        code = _train(request, place, ranks, launcher, topology, [spec, *(f"--set={item}" for item in overrides)])
    except CommbenchError as error:
        leave_unless(first, error.exit_code)
        fail(error)
    except KeyboardInterrupt:
        raise click.Abort from None
    if first and not started and not (quiet and not as_json):
        _show(request.out, as_json)
    sys.exit(code)


def _seed(asked: int | None) -> list[str]:
    """Overrides of the seed. The environment's comes last and counts: verify gives each round its own."""
    told = os.environ.get(_SEED)
    if told is not None and not (told.isascii() and told.isdigit()):
        raise SpecError(f"{_SEED}={told!r} is no seed; it must be a whole number from 0")
    return [f"seed={chosen}" for chosen in (asked, told) if chosen is not None]


def _request(source: str, overrides: Sequence[str], out: Path | None) -> "TrainRequest":
    from commbench.jobs.train import TrainRequest
    from commbench.spec.train import load

    spec = load(source, overrides)
    now = datetime.now(timezone.utc)
    folder = out or Path(os.environ.get(_STEPS) or Path("results") / f"{spec.name}-{now:%Y%m%dT%H%M%SZ}")
    return TrainRequest(spec, folder, now.isoformat(timespec="seconds"), ("commbench", *sys.argv[1:]))


def _train(
    request: "TrainRequest",
    place: "Place | None",
    ranks: int | None,
    launcher: str | None,
    topology: str | None,
    arguments: Sequence[str],
) -> int:
    from commbench.jobs.train import check, start, work
    from commbench.measure.launch import choose

    inside = launch_of(place, ranks, topology)
    ranks = ranks_of(inside, ranks, topology, f"train {arguments[0]}")
    if not inside or inside.rank == 0:  # another rank could find what this one writes a moment later
        check(request, None if inside else ranks)
    if inside or (ranks == 1 and topology is None):
        return work(request, inside, _say)
    chosen = launcher or choose((request.spec.backend,), {} if topology else os.environ)
    again = ["train", *arguments, "--started"]
    return on_hosts(topology, lambda net: start(request, ranks, chosen, again, _say, net))


def _say(sentence: str) -> None:
    click.echo(f"commbench: {sentence}", err=True)


def _show(folder: Path, as_json: bool) -> None:
    from commbench.jobs.train import read

    trained = read(folder)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(trained).decode())
        return
    for line in _lines(trained):
        click.echo(line)
    click.echo(f"# folder: {folder}")


def _lines(trained: "Trained") -> Sequence[str]:
    """The result in words; the slowest rank's medians."""
    from commbench.units import format_time

    slowest, spec = max(trained.ranks, key=lambda rank: rank.seconds), trained.spec
    total = sum(rank.tokens_per_s for rank in trained.ranks)
    nbytes = sum(gradient.nbytes for gradient in trained.gradients)
    first, last = (
        "no number" if loss is None else f"{loss:.4f}"
        for loss in (trained.ranks[0].first_loss, trained.ranks[0].last_loss)
    )
    lines = [
        f"{spec['model']}, {trained.parameters:,} parameters in {len(trained.gradients)} tensors "
        f"({nbytes / 1e6:.1f} MB of gradients), {spec['parallel']} over {spec['backend']}, {len(trained.ranks)} ranks",
        f"step      {format_time(slowest.seconds)}, {total:,.0f} tokens/s (median of {spec['steps'] - spec['warmup']})",
        f"parts     forward {format_time(slowest.forward_s)}, backward {format_time(slowest.backward_s)}, "
        f"optimizer {format_time(slowest.optimizer_s)}",
        f"loss      {first} at the first step of rank 0, {last} at the last",
    ]
    if slowest.alone:
        more = slowest.backward_s - slowest.alone.backward_s
        lines.append(
            f"alone     backward {format_time(slowest.alone.backward_s)} when nothing is sent; with communication "
            f"{'+' if more >= 0 else '-'}{format_time(abs(more))}"
        )
    if slowest.exposed_s is not None:
        lines.append(
            f"exposed   {format_time(slowest.exposed_s)} from the last gradient to the end of the backward pass"
        )
    else:
        lines.append(f"exposed   not measured: {trained.exposed}")
    applied = ", ".join(f"{key}={value}" for key, value in trained.applied.items()) or "defaults"
    state = {True: "in effect", False: f"NOT in effect: {trained.unproved}", None: f"unproved: {trained.unproved}"}
    lines.append(f"settings  {applied} (from {trained.origin}): {state[trained.in_effect]}")
    if trained.buckets:
        sizes = ", ".join(f"{size / 1e6:.3g}" for size in trained.buckets[:12])
        rest = f" and {len(trained.buckets) - 12} more" if len(trained.buckets) > 12 else ""
        lines.append(f"buckets   {len(trained.buckets)}: {sizes}{rest} MB")
    return lines
