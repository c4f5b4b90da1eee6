"""`commbench verdict`: judge a run of `commbench accept` again, with the same or other criteria."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from commbench import allowlist
from commbench.cli import fail
from commbench.errors import CommbenchError

if TYPE_CHECKING:
    from commbench.records.verdict import Verdict

_UNKNOWN = 3  # of Nagios: nobody can tell


class Styled(click.Command):
    """A command with --exit-style. A mistake in the command or the spec has exit code 2, which Nagios would take for
    CRITICAL: for it the answer is unknown."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        written = " ".join(args).replace("=", " ")  # taken apart below, and not yet read when that fails
        try:
            return super().make_context(info_name, args, *more, **extra)
        except click.UsageError as error:
            if "--exit-style nagios" not in written:
                raise
            click.echo(f"commbench: {allowlist.text(error.format_message())}", err=True)
            sys.exit(_UNKNOWN)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommbenchError as error:
            error.exit_code = exit_code(error, ctx.params["exit_style"])
            fail(error)


def exit_code(error: CommbenchError, exit_style: str) -> int:
    return _UNKNOWN if exit_style == "nagios" else error.exit_code


@click.command("verdict", cls=Styled)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--criteria", metavar="SPEC", help="Judge by what this acceptance spec expects and asks for.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the spec of --criteria.")
@click.option("--json", "as_json", is_flag=True, help="Print verdict.json.")
@click.option(
    "--exit-style",
    type=click.Choice(["commbench", "nagios"]),
    default="commbench",
    show_default=True,
    help="nagios: 0 PASS, 1 unstable, 2 FAIL, 3 INCONCLUSIVE or no answer.",
)
@click.option("--quiet", is_flag=True, help="No text: verdict.json and the exit code tell it.")
def command(
    folder: Path, criteria: str | None, overrides: Sequence[str], as_json: bool, exit_style: str, quiet: bool
) -> NoReturn:
    """Judge the run in DIR again and write its verdict.json: the same journal gives the same bytes.

    \b
    commbench verdict results/accepted
    commbench verdict results/accepted --criteria stricter.yaml --exit-style nagios

    Exit code 0: PASS. 1: FAIL. 3: INCONCLUSIVE.
    """
    from commbench.errors import SpecError
    from commbench.jobs.verdict import conclude
    from commbench.spec.accept import load

    if overrides and criteria is None:
        raise SpecError("--set changes the spec of --criteria; name it")
    found = conclude(folder, load(criteria, overrides) if criteria is not None else None)
    sys.exit(show(found, folder, as_json, quiet, exit_style))


def show(verdict: "Verdict", folder: Path, as_json: bool, quiet: bool, exit_style: str) -> int:
    """Prints the verdict for people, or as it is in the file. The exit code."""
    from commbench.records.verdict import NAME, encode
    from commbench.report.acceptance import nagios, text

    line, code = nagios(verdict)
    if as_json:
        click.echo(encode(verdict).decode(), nl=False)
    elif not quiet:
        for told in (line, *text(verdict)) if exit_style == "nagios" else text(verdict):
            click.echo(told)
        click.echo(f"{folder / NAME}")
    return code if exit_style == "nagios" else verdict.exit_code
