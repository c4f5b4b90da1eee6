"""`commbench verdict`: judge a run of `commbench accept` again, with the same or other criteria."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from commbench.records.verdict import Verdict

_UNKNOWN = 3  # of Nagios: nobody can tell


@click.command("verdict")
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
    from commbench.errors import CommbenchError, SpecError
    from commbench.jobs.verdict import conclude
    from commbench.spec.accept import load

    try:
        if overrides and criteria is None:
            raise SpecError("--set changes the spec of --criteria; name it")
        found = conclude(folder, load(criteria, overrides) if criteria is not None else None)
    except CommbenchError as error:
        if exit_style != "nagios":
            raise
        click.echo(f"commbench: {error}", err=True)
        sys.exit(_UNKNOWN)
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
