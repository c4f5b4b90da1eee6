"""The command line: parse, call one job, hand the result to report, turn errors into one line and a code.

Commands are loaded when they are used, so that `commbench --help` does not pay for numpy or torch.
"""

import sys
from importlib import import_module
from typing import NoReturn

import click

from commbench import __version__, allowlist
from commbench.errors import CommbenchError

# name -> (module, one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "sweep": ("commbench.cli.sweep", "Measure collectives: inside mpirun, torchrun or srun, or started here with -n."),
    "show": ("commbench.cli.show", "Print the table of a run, as text, JSON or CSV."),
    "plot": ("commbench.cli.plot", "Draw bus bandwidth and latency of one or more runs."),
    "report": ("commbench.cli.report", "One page about one or more runs: words, curves, what stands out."),
    "compare": (
        "commbench.cli.compare",
        "Say whether NEW is slower than BASE, or when times changed (--history).",
    ),
    "accept": ("commbench.cli.accept", "Is this cluster fit for work? PASS, FAIL with the culprit, or INCONCLUSIVE."),
    "tune": ("commbench.cli.tune", "Find faster settings or bucket sizes; a recommendation, or: keep the defaults."),
    "emit": ("commbench.cli.emit", "Write a recommendation as the file that a library or framework reads."),
    "verify": ("commbench.cli.verify", "Prove a recommendation in your own job: restarts with and without it."),
    "train": ("commbench.cli.train", "Train a small model on real text: DDP or FSDP2, each step recorded."),
    "import": ("commbench.cli.imports", "Read results and logs of other tools into run folders."),
    "export": ("commbench.cli.export", "Write runs as Parquet, CSV, or nccl-tests' text and JSON."),
    "query": ("commbench.cli.query", "Ask any number of runs with SQL."),
    "verdict": ("commbench.cli.verdict", "Judge an acceptance run again, with the same or other criteria."),
    "baseline": ("commbench.cli.baseline", "Keep what an accepted machine did; compare later runs with it."),
    "apply": ("commbench.cli.apply", "Print (or, with --yes, run) what takes a failed host out of service."),
    "lint": ("commbench.cli.lint", "Settings that are misspelt, dead, dangerous or contradictory."),
    "lab": ("commbench.cli.lab", "Hosts and shaped links on this machine: run, check, show, exec, fault, ps, down."),
    "specs": ("commbench.cli.specs", "List the shipped specs, or print one."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = import_module(COMMANDS[name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from commbench.errors import nearest

            raise click.UsageError(f"unknown command {args[0]!r}; {nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="commbench")
def group() -> None:
    """Measure collective communication, and know what the numbers are worth.

    \b
    mpirun -n 2 commbench sweep quick      inside a launch (also torchrun, srun)
    commbench sweep quick -n 2             started by commbench itself
    commbench show results/DIR             the table again

    Exit codes: 0 ok, 1 wrong data, failed rows, slower, or nothing read, 2 usage or spec error,
    3 nothing could be measured, or cannot tell, 4 launch or internal error (a hung rank, a full disc).
    """


def fail(error: CommbenchError) -> NoReturn:
    """One sentence on stderr, and the error's exit code."""
    click.echo(f"commbench: {allowlist.text(str(error))}", err=True)
    sys.exit(error.exit_code)


def main() -> NoReturn:
    try:
        group(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.Abort:
        click.echo("commbench: interrupted; what was on disc before is kept, and --resume goes on", err=True)
        sys.exit(CommbenchError.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"commbench: {allowlist.text(error.format_message())}", err=True)
        sys.exit(2)
    except CommbenchError as error:
        fail(error)
    except BrokenPipeError:  # `commbench show DIR | head`
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        import traceback

        traceback.print_exc()
        click.echo(f"commbench: internal error, please report it with the lines above: {error}", err=True)
        sys.exit(CommbenchError.exit_code)
    sys.exit(0)
