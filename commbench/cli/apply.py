"""`commbench apply`: what a verdict has the scheduler do, printed, and done only when asked."""

import sys
from pathlib import Path

import click


@click.command("apply")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--scheduler", type=click.Choice(["slurm", "k8s"]), default="slurm", show_default=True, help="Whose commands."
)
@click.option("--cap", "most", default="5%", show_default=True, help="Most hosts out at once: a share, or a number.")
@click.option("--ties", is_flag=True, help="Also hosts that only may be at fault: sets that the test could not part.")
@click.option("--nodes", type=click.Path(path_type=Path), help="Lines `HOST NODE`, where pods have names of their own.")
@click.option("--dry-run", is_flag=True, help="Print the commands and do nothing; so it is without --yes too.")
@click.option("--yes", is_flag=True, help="Run the commands.")
def command(folder: Path, scheduler: str, most: str, ties: bool, nodes: Path | None, dry_run: bool, yes: bool) -> None:
    """Drain (Slurm) or taint (Kubernetes) the hosts that the verdict of run DIR names with certainty.

    Commands are printed; --yes runs them. A verdict of PASS or INCONCLUSIVE does nothing. A node that somebody else
    holds stays as it is, and never are more hosts out than the cap, counting those that are out already.

    Exit codes: 0 printed, done, or nothing to do; 1 a command failed; 2 usage, or not the place to ask the scheduler;
    4 it does not answer.
    """
    import shlex
    from functools import partial
    from typing import get_args

    from commbench import store
    from commbench.accept import actions
    from commbench.errors import CommbenchError, SpecError
    from commbench.jobs import apply as job
    from commbench.records import verdict as record
    from commbench.report.findings import safe

    if yes and dry_run:
        raise SpecError("--yes and --dry-run contradict each other")
    chosen = next(one for one in get_args(actions.Scheduler) if one == scheduler)
    limit, mapped = actions.cap(most), job.names(nodes) if nodes else None
    verdict, run = record.read(folder), store.load_run(folder)
    plan = partial(actions.plan, verdict, run, chosen, limit, folder.resolve().name)
    found = plan(None, mapped, ties)
    if found.actions:  # else there is nothing to ask the scheduler about
        try:
            found = plan(job.ask(chosen), mapped, ties)
        except CommbenchError as error:
            if yes:
                raise
            click.echo(f"# {safe(str(error))}; whose reasons stand there was not looked at")
    for sentence in found.held:
        click.echo(f"# {safe(sentence)}")
    if not yes:
        for argv in (argv for action in found.actions for argv in action.commands):
            click.echo(shlex.join(argv))
        if found.actions:
            click.echo("# dry run: nothing was done; --yes does it")
        return
    for argv, why in job.carry_out(found.actions):
        click.echo(shlex.join(argv))
        if why:
            click.echo(f"commbench: {argv[0]} failed: {safe(why)}; the commands behind it were not run", err=True)
            sys.exit(1)
