"""`commbench tune`: inside a launch it is a rank, without one it starts the ranks."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from commbench.cli import fail
from commbench.errors import CommbenchError, SpecError

if TYPE_CHECKING:
    from commbench.jobs.tune import Asked
    from commbench.spec.topology import Topology
    from commbench.world.discover import Place

_LISTEN = 2.0  # seconds in which rank 0 speaks
_BUDGET = 600.0  # seconds, for a training spec


class _Given(NamedTuple):
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

    @property
    def of_model(self) -> tuple[str, ...]:
        """What changes a training spec, whose search has its budget beside it."""
        return (*self.set, *([f"seed={self.seed}"] if self.seed is not None else []))

    @property
    def overrides(self) -> tuple[str, ...]:
        """What changes the spec, from all options that do."""
        more = [f"seed={self.seed}"] if self.seed is not None else []
        return (*self.set, *more, *([f"budget={self.budget}"] if self.budget else []))


@click.command("tune")
@click.argument("spec", required=False)
@click.option("--recheck", metavar="DIR", type=click.Path(path_type=Path), help="Does what DIR recommends still hold?")
@click.option("-n", "ranks", type=click.IntRange(2, 65535), help="Start this many ranks.")
@click.option("--launcher", help="mpirun, torchrun or srun; default: what suits the spec and the place.")
@click.option("--lab", "topology", help="Start the ranks on the hosts of this lab topology (commbench lab).")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: results/NAME-UTC.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the spec.")
@click.option("--budget", help="Time that it may take, as in 10m; same as --set budget=...")
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
        code = _tune(_Given(spec or "", recheck, ranks, launcher, topology, out, *what, *how, *trial_of), place)
    except CommbenchError as error:
        if not first:  # rank 0 meets the same mistake and says so, before the launcher ends them all
            time.sleep(_LISTEN)
            sys.exit(error.exit_code)
        fail(error)
    except KeyboardInterrupt:
        raise click.Abort from None
    sys.exit(code)


def _tune(given: _Given, place: "Place | None") -> int:
    from commbench.spec import tune

    if given.recheck is not None:
        return (_buckets if (given.recheck / "plan.json").exists() else _settings)(given, place)
    match tune.what(given.spec, given.overrides):
        case "collectives":
            return _settings(given, place)
        case "model":
            return _buckets(given, place)
        case "command":
            return _own_job(given, place)


def _inside(given: _Given, place: "Place | None") -> "Place | None":
    """The launch that this process is a rank of; None where commbench is to start the ranks."""
    inside = place if place and not (given.ranks and place.size == 1) else None
    if inside and given.ranks and given.ranks != inside.size:
        raise SpecError(f"-n {given.ranks} inside a launch of {inside.size} ranks ({inside.source}): leave -n out")
    if inside and given.topology:
        raise SpecError(f"--lab inside a launch ({inside.source}): commbench starts the lab's ranks itself, with -n")
    if not inside and not given.ranks:
        name = given.spec or f"--recheck {given.recheck}"
        raise SpecError(f"how many ranks? commbench tune {name} -n 4, or mpirun -n 4 commbench tune {name}")
    if given.resume and given.out is None:
        raise SpecError("--resume needs --out DIR: which search is to go on?")
    return inside


def _say(sentence: str) -> None:
    click.echo(f"commbench: {sentence}", err=True)


def _silent(sentence: str) -> None:
    """Said by nobody."""


def _asked(given: _Given, first: bool) -> "Asked":
    """`first`: this process plans. What its job sends must be readable there alone."""
    from commbench.jobs import recheck, tune
    from commbench.jobs.request import Request
    from commbench.records import recommendation as records
    from commbench.spec.tune import load
    from commbench.units import parse_time

    now = datetime.now(timezone.utc)
    if given.recheck:
        if given.set:
            raise SpecError(f"--set {given.set[0]}: --recheck asks what {given.recheck} asked; --budget and --seed go")
        limits = {} if given.budget is None else {"budget": parse_time(given.budget)}
        spec = recheck.spec_of(given.recheck, seed=given.seed or 0, **limits)
    else:
        spec = load(given.spec, given.overrides)
    job = None
    if spec.job and first:
        spec, job = tune.of_job(spec)
    request = Request(
        spec=spec.sweep,
        out=_out(given, spec.name, now),
        resume=given.resume,
        created=now.isoformat(timespec="seconds"),
        command=_argv(),
        now=time.time,
        also=spec.also,
    )
    held = records.read(given.held).rules if given.held else ()
    return tune.Asked(spec, request, held, job)


def _settings(given: _Given, place: "Place | None") -> int:
    """Settings of a library, or whether those that were recommended still hold."""
    from commbench.jobs import inside, relaunch, tune
    from commbench.jobs.request import Watcher, check_libraries
    from commbench.spec import topology

    at = _inside(given, place)
    asked = _asked(given, at is None or at.rank == 0)
    net = topology.load(given.topology) if given.topology else None
    say = _silent if given.quiet else _say
    if at and given.trial is not None:
        os.environ.update(relaunch.prepare(given.variables, asked.spec.sweep.backends))
        watcher = Watcher(lambda total, expected: None, lambda rows: None, say)
        code = inside.work(asked.request._replace(launch=given.trial), at, watcher, relaunch.conduct())
    elif at and relaunch.needed(asked.spec):
        raise SpecError(
            "a candidate is read when a process starts, so each trial is a launch of its own: leave the launching to "
            f"commbench, as in commbench tune {given.spec} -n {at.size}"
        )
    elif at:
        check_libraries(asked.spec.sweep.backends)
        watcher = Watcher(lambda total, expected: None, lambda rows: None, say)
        code = inside.work(asked.request, at, watcher, tune.conduct(asked))
    else:
        code = _start(given, asked, net)
    if (at is None or at.rank == 0) and not given.started:
        code = _result(given, asked, code)
    return code


def _start(given: _Given, asked: "Asked", topology: "Topology | None") -> int:
    from commbench.jobs import relaunch, tune
    from commbench.jobs.request import check_libraries
    from commbench.measure.launch import choose

    backends = asked.spec.sweep.backends
    launcher = given.launcher or choose(backends, {} if topology else os.environ)
    if launcher != "srun":  # srun reaches machines that this one knows nothing about
        check_libraries(backends)
    again = ["tune", *(["--recheck", str(given.recheck)] if given.recheck else [given.spec])]
    again += [f"--set={item}" for item in given.set] + ([] if given.seed is None else ["--seed", str(given.seed)])
    again += ["--held", str(given.held)] if given.held else []
    again += ["--quiet"] if given.quiet else []
    start = relaunch.start if relaunch.needed(asked.spec) else tune.start
    assert given.ranks is not None
    if topology is None:
        return start(asked, given.ranks, launcher, again, _say)
    from commbench.lab.client import lab

    with lab(topology) as net:
        net.script()
        return start(asked, given.ranks, launcher, again, _say, net)


def _result(given: _Given, asked: "Asked", code: int) -> int:
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
    changed = recheck.changed(given.recheck, tuned) if given.recheck else ()
    if given.as_json:
        click.echo(tuning.as_json(told, again, changed))
    elif not given.quiet:
        for line in tuning.rechecked(again, changed) if given.recheck else tuning.text(told, folder):
            click.echo(line)
    words = {one.word for one in again}
    return 1 if "gone" in words else 3 if "unsure" in words else code


def _buckets(given: _Given, place: "Place | None") -> int:
    """Bucket sizes in the reference training job."""
    from commbench.jobs import plan
    from commbench.jobs.recheck import plan_holds, plan_of
    from commbench.measure.launch import choose
    from commbench.spec import topology
    from commbench.spec.train import load
    from commbench.units import parse_time

    at = _inside(given, place)
    spec, only = plan_of(given.recheck) if given.recheck else (load(given.spec, given.of_model), None)
    budget = parse_time(given.budget) if given.budget else _BUDGET
    now = datetime.now(timezone.utc)
    out = _out(given, f"{spec.name}-plan", now)
    seed = given.seed or 0
    created = now.isoformat(timespec="seconds")
    request = plan.PlanRequest(spec, out, created, _argv(), budget, seed, given.resume, only)
    net = topology.load(given.topology) if given.topology else None
    say = _silent if given.quiet else _say
    if at is None or at.rank == 0:
        plan.check(request)
    if at:
        code = plan.work(request, at, say)
    else:
        assert given.ranks is not None
        launcher = given.launcher or choose((spec.backend,), {} if net else os.environ)
        what = ["--recheck", str(given.recheck)] if given.recheck else [given.spec]
        again = ["tune", *what, *(f"--set={item}" for item in given.set), "--budget", f"{budget:g}s"]
        again += ["--seed", str(seed), "--started", *(["--quiet"] if given.quiet else [])]
        if net is None:
            code = plan.start(request, given.ranks, launcher, again, say)
        else:
            from commbench.lab.client import lab

            with lab(net) as hosts:
                hosts.script()
                code = plan.start(request, given.ranks, launcher, again, say, hosts)
    if (at is None or at.rank == 0) and not given.started:
        _planned(given, out)
        if only is not None:
            word, why = plan_holds(plan.read(out), only)
            click.echo(f"{word}: {why}" + (f"; delete what {given.recheck} emitted" if word == "gone" else ""))
            return {"holds": 0, "gone": 1, "unsure": 3}[word]
    return code


def _own_job(given: _Given, place: "Place | None") -> int:
    """Bucket sizes in the user's own job, which is started by the command in its spec."""
    from commbench.jobs import ownjob
    from commbench.spec.ownjob import load

    if place and place.size > 1:
        raise SpecError(f"{given.spec} starts the job itself: run commbench tune {given.spec} outside of any launch")
    if given.ranks or given.topology or given.launcher or given.resume:
        raise SpecError(f"-n, --lab, --launcher and --resume do not go with a command: {given.spec} says all of it")
    now = datetime.now(timezone.utc)
    spec = load(given.spec, given.overrides)
    out = _out(given, spec.name, now)
    request = ownjob.Request(spec, out, now.isoformat(timespec="seconds"), _argv())
    ownjob.check(request)
    for kind in (signal.SIGTERM, signal.SIGHUP):  # which would end this process and leave the job
        signal.signal(kind, lambda number, frame: sys.exit(128 + number))
    found = ownjob.tune(request, _silent if given.quiet else _say, os.environ)
    _planned(given, out)
    return ownjob.exit_code(found)


def _planned(given: _Given, folder: Path) -> None:
    from commbench.jobs.plan import read
    from commbench.records import recommendation as records
    from commbench.report import plans

    planned, found = read(folder), records.read(folder)
    if given.as_json:
        click.echo(plans.as_json(planned, found))
    elif not given.quiet:
        for line in plans.text(planned, found, folder):
            click.echo(line)


def _out(given: _Given, name: str, now: datetime) -> Path:
    return given.out or Path("results") / f"{name}-{now:%Y%m%dT%H%M%SZ}"


def _argv() -> tuple[str, ...]:
    return ("commbench", *sys.argv[1:])
