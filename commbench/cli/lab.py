"""`commbench lab`: hosts and shaped links on this one machine, and faults in them."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from commbench.errors import CommbenchError, LaunchError, SpecError

if TYPE_CHECKING:
    from commbench.lab.client import Found, Lab

_MUCH = 64  # hosts; more are warned about
_PER_HOST = 3  # MB: the process that holds a host, its namespaces and interfaces; seen with 300 hosts


@click.group("lab")
def command() -> None:
    """Hosts, switches and shaped links on this machine, with real traffic; no root needed.

    \b
    commbench lab run star4 -- mpirun -n 4 commbench sweep quick
    commbench lab fault slow h3 50%        while it runs, from another terminal
    """


@command.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("topology")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD...")
@click.option("--host", help="Where CMD runs; default: the first host.")
def run(topology: str, argv: Sequence[str], host: str | None) -> NoReturn:
    """Bring TOPOLOGY up, run CMD in it, take it down again, whatever happens. The exit code is CMD's."""
    with _up(topology) as net:
        net.command(argv, *([host] if host else []))  # is there such a host?
        net.script()
        code = _run(net.folder, host or net.hosts[0], argv)
    sys.exit(code)


@command.command("check")
@click.argument("topology")
@click.option("--seconds", default=0.5, show_default=True, help="How long each link is measured in each direction.")
def check(topology: str, seconds: float) -> NoReturn:
    """Measure every link of TOPOLOGY with plain sockets: declared rate against measured rate. Exit 1 beyond 5 %."""
    from commbench.lab.check import TOLERANCE
    from commbench.lab.check import check as measure
    from commbench.units import format_rate

    bad = 0
    with _up(topology) as net:
        click.echo(f"# {topology}: {len(net.fabric.links)} links, {seconds:g} s each way; headers included")
        width = max(len(name) for name in net.fabric.links_of)
        for one in measure(net, seconds):
            bad += not one.ok
            verdict = "" if one.ok else f"  beyond {100 * TOLERANCE:g} %"
            declared, measured = format_rate(one.link.rate), format_rate(one.measured)
            click.echo(
                f"{one.source:>{width}} -> {one.target:<{width}}  declared {declared:>12}  "
                f"measured {measured:>12}  {100 * one.share:5.1f} %{verdict}"
            )
    sys.exit(1 if bad else 0)


@command.command("show")
@click.argument("topology")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A picture: .svg, .png or .pdf.")
def show(topology: str, output: Path | None) -> None:
    """Print TOPOLOGY as a tree of hosts, switches and links, or draw it."""
    from commbench.lab.addresses import plan
    from commbench.report import fabric
    from commbench.spec.topology import load

    found = load(topology).fabric
    for line in fabric.text(found, plan(found).names):
        click.echo(line)
    if output:
        fabric.draw(found, output)
        click.echo(output)


@command.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD...")
@click.option("--lab", "name", help="Which lab, where several run (see lab ps).")
def execute(host: str, argv: Sequence[str], name: str | None) -> NoReturn:
    """Run CMD in HOST of a running lab."""
    from commbench.lab import blueprint

    folder = _which(name)
    known = list(blueprint.read(folder).fabric.links_of)
    if host not in known:
        raise SpecError(f"this lab has no host {host!r}; it has {', '.join(known[:20])}")
    sys.exit(_run(folder, host, argv))


@command.command("fault")
@click.argument("kind")
@click.argument("target")
@click.argument("amount", required=False)
@click.option("--for", "duration", help="Undo it after this time, as in 3s.")
@click.option("--lab", "name", help="Which lab, where several run (see lab ps).")
def fault(kind: str, target: str, amount: str | None, duration: str | None, name: str | None) -> None:
    """Put a fault into a running lab.

    \b
    slow LINK|HOST 50%     its rate becomes this share of the declared one (100%: whole again)
    down LINK|HOST         up LINK|HOST         flap LINK PERIOD
    pause HOST             resume HOST          starve HOST 10%
    loss LINK|HOST 1%
    """
    from commbench.lab.client import inject
    from commbench.spec.topology import parse_fault

    inject(_which(name), parse_fault(kind, target, amount, duration))


@command.command("ps")
def ps() -> None:
    """List the labs of this user, with their processes and faults."""
    from commbench.lab.client import labs

    found = labs()
    for one in found:
        running = ", ".join(f"{host} {count}" for host, count in one.status.get("processes", {}).items() if count)
        state = (
            f"pid {one.pid}; processes: {running or 'none'}" if one.alive else "dead: `commbench lab down` clears it"
        )
        click.echo(f"{one.id}  {state}")
        for what, words in one.status.get("faults", {}).items():
            click.echo(f"    fault: {what}: {words}")
    if not found:
        click.echo("no lab")


@command.command("down")
@click.argument("name", required=False)
def down(name: str | None) -> None:
    """End one lab, or all labs of this user, and clear away what a killed one left."""
    from commbench.lab.client import labs, remove

    for one in [_named(name, labs())] if name else labs():
        remove(one)
        click.echo(f"{one.id} is gone")


def _up(topology: str) -> "Lab":
    from commbench.lab.client import lab
    from commbench.spec.topology import load

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    for kind in (signal.SIGTERM, signal.SIGHUP):  # which would end this process without leaving the lab's block
        signal.signal(kind, leave)
    found = load(topology)
    hosts = len(found.fabric.hosts)
    if hosts > _MUCH:
        click.echo(
            f"commbench: {hosts} hosts take about {hosts * _PER_HOST} MB of memory before anything runs in them",
            err=True,
        )
    return lab(found)


def _run(folder: Path, host: str, argv: Sequence[str]) -> int:
    from commbench.lab import agent

    try:
        return agent.run(folder, [host], argv)
    except agent.NoLab as error:
        raise LaunchError(str(error)) from None


def _named(name: str, found: "Sequence[Found]") -> "Found":
    fitting = [one for one in found if one.id == name or one.id.startswith(name)]
    if len(fitting) != 1:
        raise SpecError(f"{name!r} names {len(fitting)} labs; there are {', '.join(one.id for one in found) or 'none'}")
    return fitting[0]


def _which(name: str | None) -> Path:
    """The folder of the lab that is meant: the named one, the one around this process, or the only one."""
    from commbench.lab.client import labs

    if not name and "COMMBENCH_LAB" in os.environ:
        folder = Path(os.environ["COMMBENCH_LAB"])
        if not folder.is_dir():
            raise CommbenchError(f"the lab around this process is gone ({folder})")
        return folder
    found = [one for one in labs() if one.alive]
    if name:
        return _named(name, found).folder
    if len(found) != 1:
        raise CommbenchError("no lab runs here" if not found else f"{len(found)} labs run here: choose with --lab")
    return found[0].folder
