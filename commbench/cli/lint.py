"""`commbench lint`: settings that are misspelt, dead or dangerous."""

import os
import sys
from pathlib import Path

import click


@click.command("lint")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE|DIR]...")
@click.option("--nccl", "version", metavar="VERSION", help="The version of NCCL the settings are for, as in 2.27.5.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings too.")
@click.option("--quiet", "-q", is_flag=True, help="Leave notes out.")
def command(files: tuple[Path, ...], version: str | None, as_json: bool, strict: bool, quiet: bool) -> None:
    """Find settings of NCCL, MPI, UCX and libfabric that are misspelt, dead, dangerous or contradictory.

    Without FILE: the environment of this process and NCCL's conf files. FILE: env files, job scripts, nccl.conf, YAML,
    JSON, logs of NCCL, run folders. Nothing is run. Values that may be secret are not printed.

    Exit codes: 0 no error, 1 errors (with --strict also warnings), 2 a file cannot be read.
    """
    from commbench import lint
    from commbench.errors import SpecError
    from commbench.knobs import version as parse
    from commbench.report import findings

    nccl = parse(version) if version else None
    if version and nccl is None:
        raise SpecError(f"--nccl {version!r} is no version; write it as in 2.27.5")
    missing = [path for path in files if not path.exists()]
    if missing:
        raise SpecError(f"{findings.safe(str(missing[0]))} is not there")
    report = lint.paths(files, nccl) if files else lint.environment(os.environ, nccl)
    shown = [finding for finding in report.findings if not (quiet and finding.severity == "note")]
    if as_json:
        click.echo(findings.as_json(shown, files=report.files, settings=report.settings))
    else:
        for line in findings.lines(shown):
            click.echo(line)
        where = f"{report.files} file{'s' * (report.files != 1)}" if files else "this environment"
        click.echo(f"{findings.summary(shown)}; {report.settings} setting{'s' * (report.settings != 1)} in {where}")
    sys.exit(2 if report.unreadable else int(bool(report.count("error") or (strict and report.count("warning")))))
