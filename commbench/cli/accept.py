"""`commbench accept`: inside a launch it is a rank, without one it starts the ranks, and others where some are lost."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from commbench.cli.launches import launch_of, leave_unless, on_hosts
from commbench.cli.verdict import Styled, exit_code
from commbench.errors import CommbenchError, LaunchError, SpecError

if TYPE_CHECKING:
    from commbench.jobs.accept import Asked
    from commbench.jobs.supervise import Stop
    from commbench.records.verdict import Verdict
    from commbench.world.discover import Place


class Given(NamedTuple):
    """The command line."""

    spec: str
    ranks: int | None
    launcher: str | None
    topology: str | None
    faults: tuple[str, ...]
    out: Path | None
    set: tuple[str, ...]
    budget: str | None
    exclude: tuple[str, ...]
    seed: int | None
    resume: bool
    as_json: bool
    quiet: bool
    exit_style: str
    started: bool

    def tell(self, sentence: str) -> None:
        """A line on stderr, unless nobody wants to read any."""
        if not self.quiet:
            click.echo(f"commbench: {sentence}", err=True)

    @property
    def overrides(self) -> tuple[str, ...]:
        """What changes the spec, from all options that do."""
        more = [f"seed={self.seed}"] if self.seed is not None else []
        more += [f"budget={self.budget}"] if self.budget else []
        more += [f"exclude=[{', '.join(self.exclude)}]"] if self.exclude else []
        return (*self.set, *more)


@click.command("accept", cls=Styled)
@click.argument("spec")
@click.option("-n", "ranks", type=click.IntRange(1, 65535), help="Start this many ranks.")
@click.option("--launcher", help="mpirun, torchrun or srun; default: what suits the spec and the place.")
@click.option("--lab", "topology", help="Start the ranks on the hosts of this lab topology (commbench lab).")
@click.option("--fault", "faults", multiple=True, metavar="'slow uplink1 40%'", help="Put a fault into the lab first.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: results/NAME-UTC.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the spec.")
@click.option("--budget", help="Time that it may take, as in 10m; same as --set budget=...")
@click.option("--exclude", multiple=True, metavar="HOST", help="Leave a host out; same as --set exclude=[...]")
@click.option("--resume", is_flag=True, help="Go on with the test in --out.")
@click.option("--explain", metavar="HOST", help="SPEC is a run folder: every test that HOST took part in.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option(
    "--exit-style",
    type=click.Choice(["commbench", "nagios"]),
    default="commbench",
    show_default=True,
    help="nagios: 0 PASS, 1 unstable, 2 FAIL, 3 INCONCLUSIVE or no answer.",
)
@click.option("--quiet", is_flag=True, help="No progress and no verdict; errors only.")
@click.option("--seed", type=click.IntRange(0), help="Same as --set seed=...")
@click.option("--started", is_flag=True, hidden=True, help="Set in ranks that commbench started.")
def command(
    spec: str,
    ranks: int | None,
    launcher: str | None,
    topology: str | None,
    faults: Sequence[str],
    out: Path | None,
    overrides: Sequence[str],
    budget: str | None,
    exclude: Sequence[str],
    resume: bool,
    explain: str | None,
    as_json: bool,
    exit_style: str,
    quiet: bool,
    seed: int | None,
    started: bool,
) -> NoReturn:
    """Is this cluster fit for work? PASS, FAIL with the culprit named, or INCONCLUSIVE; never PASS without evidence.

    \b
    commbench accept lab -n 8 --lab two-racks
    commbench accept lab -n 8 --lab two-racks --fault 'slow uplink1 40%'
    mpirun -n 512 commbench accept SPEC.yaml
    commbench accept --explain h17 DIR

    Writes verdict.json into the run folder; commbench verdict DIR judges again.

    Exit codes: 0 PASS; 1 FAIL; 2 usage or spec error; 3 INCONCLUSIVE; 4 internal error.
    """
    from commbench.world.discover import discover

    place = discover(os.environ)
    if place and place.size > 1:
        from commbench.measure.launch import die_with_parent

        die_with_parent()
    first = place is None or place.rank == 0
    what = (spec, ranks, launcher, topology, tuple(faults), out, tuple(overrides), budget, tuple(exclude), seed)
    given = Given(*what, resume, as_json, quiet, exit_style, started)
    try:
        code = _explain(Path(spec), explain) if explain else _accept(given, place)
    except CommbenchError as error:
        leave_unless(first, exit_code(error, exit_style))
        raise
    except KeyboardInterrupt:
        raise click.Abort from None
    sys.exit(code)


def _explain(folder: Path, host: str) -> int:
    from commbench import store
    from commbench.jobs.verdict import judged
    from commbench.report import acceptance

    run, rows = store.load(folder)
    for line in acceptance.host(judged(folder), run, rows, host):
        click.echo(line)
    return 0


def _accept(given: Given, place: "Place | None") -> int:
    """One rank's part, or the whole test. The exit code."""
    from commbench.jobs import accept, inside, supervise, verdict
    from commbench.jobs.request import Request, Watcher
    from commbench.spec import topology
    from commbench.spec.accept import load

    at = _inside(given, place)
    stop = supervise.Stop()
    spec = load(given.spec, given.overrides)
    if at is None or at.rank == 0:  # mistakes in what the spec names are found before anything is measured
        if spec.fabric:
            topology.load(spec.fabric)
        verdict.named(spec)
    now = datetime.now(timezone.utc)
    request = Request(
        spec=spec.sweep,
        out=given.out or Path("results") / f"{spec.name}-{now:%Y%m%dT%H%M%SZ}",
        resume=given.resume,
        created=now.isoformat(timespec="seconds"),
        command=("commbench", *sys.argv[1:]),
        now=time.time,
        also=spec.also,
        keep_hosts=True,
    )
    asked = accept.Asked(spec, request, stop, given.started)
    if given.resume and (at is None or at.rank == 0):
        supervise.forget_nobody(request.out)
    with stop.listening():
        if at:
            watcher = Watcher(lambda total, expected: None, lambda rows: None, given.tell)
            inside.work(request, at, watcher, accept.conduct(asked))
            if given.started or at.rank:
                return 0
        else:
            _start(given, asked, stop)
    return _result(given, request.out)


def _inside(given: Given, place: "Place | None") -> "Place | None":
    """The launch that this process is a rank of; None where commbench is to start the ranks."""
    inside = launch_of(place, given.ranks, given.topology)
    if given.faults and not given.topology:
        raise SpecError(f"--fault '{given.faults[0]}' goes with --lab: faults are put into a lab, never into a cluster")
    if given.resume and given.out is None:
        raise SpecError("--resume needs --out DIR: which test is to go on?")
    return inside


def _start(given: Given, asked: "Asked", stop: "Stop") -> None:
    """Starts the ranks, in a lab or on this machine's hosts, until the test has come to its end."""
    from commbench.jobs import accept, supervise
    from commbench.jobs.request import check_libraries
    from commbench.measure.launch import choose
    from commbench.spec.topology import load, parse_fault

    for text in given.faults:
        if not 2 <= len(text.split()) <= 4:
            raise SpecError(f"--fault {text!r}: write what and where, as in --fault 'slow h3 50%'")
    faults = [parse_fault(*text.split()) for text in given.faults]
    if given.topology:
        load(given.topology)  # a mistake in it is found before anything starts
    ranks = accept.ranks(asked.spec, given.ranks)
    backends = asked.spec.sweep.backends
    launcher = given.launcher or choose(backends, {} if given.topology else os.environ)
    if launcher != "srun":  # srun reaches machines that this one knows nothing about
        check_libraries(backends)
    again = [
        "accept",
        given.spec,
        *(f"--set={item}" for item in given.overrides),
        *(["--quiet"] if given.quiet else []),
    ]

    def run(net: "object") -> int:
        from commbench.lab.client import Lab, inject

        if isinstance(net, Lab):
            for fault in faults:
                inject(net.folder, fault)
        here = net if isinstance(net, Lab) else None
        if why := supervise.start(asked, ranks, launcher, again, given.tell, here):
            given.tell(f"the test could not go on: {why}")
        return 0

    try:
        on_hosts(given.topology, run)
    except LaunchError as error:
        supervise.unlaunched(asked, str(error))


def _result(given: Given, folder: Path) -> int:
    """Judges, writes the verdict and what is made of it, and prints it."""
    from commbench.cli.verdict import show
    from commbench.jobs.verdict import conclude

    verdict: Verdict = conclude(folder)
    return show(verdict, folder, given.as_json, given.quiet, given.exit_style)
