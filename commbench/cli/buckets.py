"""Bucket sizes, for `commbench tune`: in the reference training job, or in a job of the user's own."""

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commbench.cli.launches import on_hosts
from commbench.cli.tune import Given, argv, in_order, inside_of, out_of
from commbench.errors import SpecError

if TYPE_CHECKING:
    from commbench.jobs.recheck import Held
    from commbench.world.discover import Place

_CODES = {"holds": 0, "gone": 1, "unsure": 3}
_BUDGET = "10m"


def of_model(given: Given, place: "Place | None") -> int:
    """Bucket sizes in the reference training job."""
    from commbench.jobs import plan, runfolder
    from commbench.jobs.recheck import plan_holds, plan_of
    from commbench.measure.launch import choose
    from commbench.spec.train import load
    from commbench.units import parse_time

    at, ranks = inside_of(given, place)
    spec, only = plan_of(given.recheck, ranks) if given.recheck else (load(given.spec, given.of_model), None)
    budget = given.budget or _BUDGET
    now = datetime.now(timezone.utc)
    out = out_of(given, f"{spec.name}-plan", now)
    seed = given.seed or 0
    created = now.isoformat(timespec="seconds")
    request = plan.PlanRequest(spec, out, created, argv(), parse_time(budget), seed, given.resume, only, given.started)
    if at is None or at.rank == 0:
        plan.check(request)
    if at:
        code = plan.work(request, at, given.say, tell=given.tell)
    else:
        launcher = given.launcher or choose((spec.backend,), {} if given.topology else os.environ)
        what = ["--recheck", str(given.recheck)] if given.recheck else [given.spec]
        again = ["tune", *what, *(f"--set={item}" for item in given.set), "--budget", budget]
        again += ["--seed", str(seed), "--started", *(["--resume"] if given.resume else [])]
        with in_order(lambda: runfolder.kept(out)):
            code = on_hosts(given.topology, lambda net: plan.start(request, ranks, launcher, again, given.tell, net))
    if (at is None or at.rank == 0) and not given.started:
        held = None if only is None else plan_holds(plan.read(out), only)
        _planned(given, out, held)
        if held:
            return _CODES[held.word]
    return code


def of_own_job(given: Given, place: "Place | None") -> int:
    """Bucket sizes in the user's own job, which is started by the command in its spec."""
    from commbench.jobs import ownjob, runfolder
    from commbench.spec.ownjob import load

    if place and place.size > 1:
        raise SpecError(f"{given.spec} starts the job itself: run commbench tune {given.spec} outside of any launch")
    if given.ranks or given.topology or given.launcher:
        raise SpecError(f"-n, --lab and --launcher do not go with a command: {given.spec} says all of it")
    if given.resume and given.out is None:
        raise SpecError("--resume needs --out DIR: which search is to go on?")
    now = datetime.now(timezone.utc)
    spec = load(given.spec, given.overrides)
    out = out_of(given, spec.name, now)
    request = ownjob.Request(spec, out, now.isoformat(timespec="seconds"), argv(), given.resume)
    ownjob.check(request)
    with in_order(lambda: runfolder.kept(out)):
        found = ownjob.tune(request, given.tell, os.environ)
    _planned(given, out)
    return ownjob.exit_code(found)


def _planned(given: Given, folder: Path, held: "Held | None" = None) -> None:
    """Prints what was found. `held`: what became of a plan that was raced again."""
    import msgspec

    from commbench.jobs.plan import read
    from commbench.jobs.recheck import changed
    from commbench.records import recommendation as records
    from commbench.report import plans
    from commbench.report.findings import safe

    planned, found = read(folder), records.read(folder)
    facts = changed(given.recheck, found) if held and given.recheck else ()
    if given.as_json:
        more: dict[str, object] = {}
        if held:
            one = {"settings": dict(held.settings), "word": held.word, "why": held.why}
            more = {"rechecked": [one], "changed": msgspec.to_builtins(facts)}
        click.echo(plans.as_json(planned, found, **more))
    elif not given.quiet:
        for line in plans.text(planned, found, folder):
            click.echo(line)
        if held:
            delete = f"; delete what {given.recheck} emitted" if held.word == "gone" else ""
            for line in (f"{held.word}: {held.why}{delete}", *(f"# changed: {fact}" for fact in facts)):
                click.echo(safe(line))
