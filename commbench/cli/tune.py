"""`commbench tune`: inside a launch it is a rank, without one it starts the ranks."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from commbench.cli import fail
from commbench.cli.launches import IN_A_LAB, launch_of, leave_unless, on_hosts, ranks_of
from commbench.errors import CommbenchError, SpecError

if TYPE_CHECKING:
    from commbench.jobs.tune import Asked
    from commbench.world.discover import Place

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Given(NamedTuple):
    """The command line."""

    spec: str
    recheck: Path | None
    ranks: int | None
    launcher: str | None
    topology: str | None
    out: Path | None
    set: tuple[str, ...]
    budget: str | None
    seed: int | None
    held: Path | None
    resume: bool
    as_json: bool
    quiet: bool
    started: bool
    trial: int | None
    variables: tuple[str, ...]

    def tell(self, sentence: str) -> None:
        """A line on stderr, unless nobody wants to read any."""
        if not self.quiet:
            self.say(sentence)

    def say(self, sentence: str) -> None:
        """A line on stderr that everybody must read: an error."""
        click.echo(f"commbench: {sentence}", err=True)

    @property
    def of_model(self) -> tuple[str, ...]:
        """What changes a training spec, whose search has its budget beside it."""
        return (*self.set, *([f"seed={self.seed}"] if self.seed is not None else []))

    @property
    def overrides(self) -> tuple[str, ...]:
        """What changes the spec, from all options that do."""
        more = [f"seed={self.seed}"] if self.seed is not None else []
        return (*self.set, *more, *([f"budget={self.budget}"] if self.budget else []))


def seconds_of(text: str) -> float:
    """What an option gives to measure in. Raises click.BadParameter."""
    from commbench.units import parse_time

    try:
        seconds = parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not seconds > 0:
        raise click.BadParameter(f"{text!r} is no time to measure in; write more than 0, as in 5s, 200ms, 2m")
    return seconds


def _time(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        seconds_of(value)
    return value


@click.command("tune")
@click.argument("spec", required=False)
@click.option("--recheck", metavar="DIR", type=click.Path(path_type=Path), help="Does what DIR recommends still hold?")
@click.option("-n", "ranks", type=click.IntRange(2, 65535), help=f"Start this many ranks; {IN_A_LAB}.")
@click.option("--launcher", help="mpirun, torchrun or srun; default: what suits the spec and the place.")
@click.option("--lab", "topology", help="Start the ranks on the hosts of this lab topology (commbench lab).")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: results/NAME-UTC.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the spec.")
@click.option("--budget", callback=_time, help="Time that it may take, as in 10m; same as --set budget=...")
@click.option("--held", metavar="DIR", type=click.Path(path_type=Path), help="Rules in force: keep to them in ties.")
@click.option("--resume", is_flag=True, help="Go on with the search in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No progress and no result; errors only.")
@click.option("--seed", type=click.IntRange(0), help="Same as --set seed=...")
@click.option("--started", is_flag=True, hidden=True, help="Set in ranks that commbench started.")
@click.option("--trial", type=int, hidden=True, help="The round that these ranks were started for.")
@click.option("--variable", "variables", multiple=True, hidden=True, help="Of the environment of these ranks.")
def command(
    spec: str | None,
    recheck: Path | None,
    ranks: int | None,
    launcher: str | None,
    topology: str | None,
    out: Path | None,
    overrides: Sequence[str],
    budget: str | None,
    held: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
    seed: int | None,
    started: bool,
    trial: int | None,
    variables: Sequence[str],
) -> NoReturn:
    """Find out what is faster than the defaults, by measuring: settings of a library, or bucket sizes of a job.

    \b
    commbench tune allreduce -n 4 --lab star4    collectives: algorithms and segment sizes
    commbench tune gpt -n 4 --lab star4          model: buckets in the reference training job
    commbench tune myjob.yaml                    command: buckets in your own job, by restarts

    Writes recommendation.json into the run folder; commbench emit and commbench verify take it from there.

    Exit codes: 0 a recommendation, or shown: keep the defaults; 1 (--recheck) something no longer holds;
    2 usage or spec error; 3 nothing could be decided.
    """
    from commbench.world.discover import discover

    place = discover(os.environ)
    if place and place.size > 1:
        from commbench.measure.launch import die_with_parent

        die_with_parent()
    first = place is None or place.rank == 0
    try:
        if (spec is None) == (recheck is None):
            raise SpecError("say what to tune: commbench tune SPEC, or commbench tune --recheck DIR")
        what = (tuple(overrides), budget, seed, held)
        how = (resume, as_json, quiet, started)
        trial_of = (trial, tuple(variables))
        code = _tune(Given(spec or "", recheck, ranks, launcher, topology, out, *what, *how, *trial_of), place)
    except CommbenchError as error:
        leave_unless(first, error.exit_code)
        fail(error)
    except KeyboardInterrupt:
        raise click.Abort from None
    sys.exit(code)


def _tune(given: Given, place: "Place | None") -> int:
    from commbench.cli import buckets
    from commbench.spec import tune

    if given.recheck is not None:
        if given.set:
            raise SpecError(f"--set {given.set[0]}: --recheck asks what {given.recheck} asked; --budget and --seed go")
        return (buckets.of_model if (given.recheck / "plan.json").exists() else _settings)(given, place)
    match tune.what(given.spec, given.overrides):
        case "collectives":
            return _settings(given, place)
        case "model":
            return buckets.of_model(given, place)
        case "command":
            return buckets.of_own_job(given, place)


def inside_of(given: Given, place: "Place | None") -> "tuple[Place | None, int]":
    """As `launch_of`, and how many ranks there are or are to be started."""
    inside = launch_of(place, given.ranks, given.topology)
    ranks = ranks_of(inside, given.ranks, given.topology, f"tune {given.spec or f'--recheck {given.recheck}'}")
    if not inside and ranks < 2:
        raise SpecError(f"--lab {given.topology} has one host for one rank, which sends nothing; give -n 2 or more")
    if given.resume and given.out is None:
        raise SpecError("--resume needs --out DIR: which search is to go on?")
    return inside, ranks


@contextmanager
def in_order(left: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C, and what would end this process and leave its children: all is ended in order, then one sentence with
    what is `left`. Raises CommbenchError."""

    def end(number: int, frame: object) -> NoReturn:
        for kind in _ENDING:  # once is enough: what was started is being ended
            signal.signal(kind, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {kind: signal.getsignal(kind) for kind in _ENDING}
    for kind, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(kind, end)
    try:
        yield
    except KeyboardInterrupt:
        raise CommbenchError(f"interrupted; {left()}") from None
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _asked(given: Given, ranks: int, first: bool) -> "Asked":
    """`first`: this process plans. What its job sends must be readable there alone."""
    from commbench.jobs import recheck, tune
    from commbench.jobs.request import Request
    from commbench.records import recommendation as records
    from commbench.spec.tune import load
    from commbench.units import parse_time

    now = datetime.now(timezone.utc)
    if given.recheck:
        limits = {} if given.budget is None else {"budget": parse_time(given.budget)}
        spec = recheck.spec_of(given.recheck, ranks, seed=given.seed or 0, **limits)
    else:
        spec = load(given.spec, given.overrides)
    job = None
    if spec.job and first:
        spec, job = tune.of_job(spec)
    request = Request(
        spec=spec.sweep,
        out=out_of(given, spec.name, now),
        resume=given.resume,
        created=now.isoformat(timespec="seconds"),
        command=argv(),
        now=time.time,
        also=spec.also,
    )
    held = records.read(given.held).rules if given.held else ()
    return tune.Asked(spec, request, held, job)


def _settings(given: Given, place: "Place | None") -> int:
    """Settings of a library, or whether those that were recommended still hold."""
    from commbench.jobs import inside, relaunch, tune
    from commbench.jobs.request import Watcher, check_libraries

    at, ranks = inside_of(given, place)
    asked = _asked(given, ranks, at is None or at.rank == 0)
    if at and given.trial is not None:
        os.environ.update(relaunch.prepare(given.variables, asked.spec.sweep.backends))
        watcher = Watcher(lambda total, expected: None, lambda rows: None, given.say)
        code = inside.work(asked.request._replace(launch=given.trial), at, watcher, relaunch.conduct())
    elif at and relaunch.needed(asked.spec):
        raise SpecError(
            "a candidate is read when a process starts, so each trial is a launch of its own: leave the launching to "
            f"commbench, as in commbench tune {given.spec} -n {at.size}"
        )
    elif at:
        check_libraries(asked.spec.sweep.backends)
        watcher = Watcher(lambda total, expected: None, lambda rows: None, given.say)
        code = inside.work(asked.request, at, watcher, tune.conduct(asked, given.tell, given.started))
    else:
        code = _start(given, asked, ranks)
    if (at is None or at.rank == 0) and not given.started:
        code = _result(given, asked, code)
    return code


def _start(given: Given, asked: "Asked", ranks: int) -> int:
    from commbench.jobs import relaunch, runfolder, tune
    from commbench.jobs.request import check_libraries
    from commbench.measure.launch import choose

    backends = asked.spec.sweep.backends
    launcher = given.launcher or choose(backends, {} if given.topology else os.environ)
    if launcher != "srun":  # srun reaches machines that this one knows nothing about
        check_libraries(backends)
    again = ["tune", *(["--recheck", str(given.recheck)] if given.recheck else [given.spec])]
    again += [f"--set={item}" for item in given.set] + ([] if given.seed is None else ["--seed", str(given.seed)])
    again += ["--held", str(given.held)] if given.held else []
    start = relaunch.start if relaunch.needed(asked.spec) else tune.start
    with in_order(lambda: runfolder.kept(asked.request.out)):
        return on_hosts(given.topology, lambda net: start(asked, ranks, launcher, again, given.tell, net))


def _result(given: Given, asked: "Asked", code: int) -> int:
    """Prints what was found. Of a recheck the exit code tells whether everything still holds."""
    from commbench.jobs import recheck, tune
    from commbench.report import tuning

    folder = asked.request.out
    tuned = tune.read(folder, asked.spec)
    told = tuning.Tuned(
        tuned.measurements,
        tuned.race,
        tuned.searched.report,
        tuned.recommendation,
        tune.explained(tuned, asked),
        asked.spec.options,
        asked.job,
    )
    again = recheck.rechecked(given.recheck, tuned) if given.recheck else ()
    changed = recheck.changed(given.recheck, tuned.recommendation) if given.recheck else ()
    if given.as_json:
        click.echo(tuning.as_json(told, again, changed))
    elif not given.quiet:
        for line in tuning.rechecked(again, changed) if given.recheck else tuning.text(told, folder):
            click.echo(line)
    words = {one.word for one in again}
    return 1 if "gone" in words else 3 if "unsure" in words else code


def out_of(given: Given, name: str, now: datetime) -> Path:
    return given.out or Path("results") / f"{name}-{now:%Y%m%dT%H%M%SZ}"


def argv() -> tuple[str, ...]:
    return ("commbench", *sys.argv[1:])
