"""`commbench import`: other tools' files into run folders."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from commbench.errors import ReadError
    from commbench.jobs.runs import Loaded
    from commbench.readers.source import Problem

_SHOWN = 10  # unreadable lines of one file that are printed
_NAMED = 3  # files of no known format that are named


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="FILE|DIR...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder, or a folder of run folders.")
@click.option("--json", "as_json", is_flag=True, help="Print what was read as JSON.")
@click.option("--quiet", is_flag=True, help="Only what could not be read.")
def command(paths: tuple[Path, ...], out: Path, as_json: bool, quiet: bool) -> None:
    """Read results of other tools: nccl-tests, rccl-tests, OSU, IMB, PARAM, NCCL logs, topologies, profiler traces.

    What a file is, its content says. One run becomes the run folder --out, several become folders in it. Every line
    that looked like data and could not be read is told; all of them are in unread.txt.
    """
    from commbench import store
    from commbench.jobs import imports
    from commbench.jobs.runs import gather
    from commbench.report.view import one_line

    gathered = gather(paths)
    _refuse([str(error) for error in gathered.refused])
    _tell(gathered.problems)
    if not gathered.runs:
        click.echo(f"commbench: nothing was read from {', '.join(map(str, paths))}", err=True)
        sys.exit(1)
    folders = imports.write(gathered.runs, out)
    if gathered.problems:
        lines = (f"{one_line(str(one))}\n" for one in gathered.problems)
        store.write_atomically(out / "unread.txt", "".join(lines).encode())
    if as_json:
        click.echo(_as_json(gathered.runs, folders, gathered.problems, gathered.refused))
    elif not quiet:
        for loaded, folder in zip(gathered.runs, folders, strict=True):
            click.echo(f"{folder}: {_summary(loaded)}")


def _summary(loaded: "Loaded") -> str:
    """`nccl-tests 2.18.3, 24 measurements on 16 ranks of 2 hosts`."""
    from commbench.report.view import one_line, where

    origin, machine = loaded.run.origin, loaded.run.machine
    count = len(loaded.measurements)
    words = [one_line(origin.tool if origin else "")]
    if count:
        words.append(f"{count} measurement{'s' * (count != 1)}" + (f" of {where(machine)}" if machine.size else ""))
    words += [type(part).__name__ for part in loaded.parts]
    return ", ".join(words)


def _refuse(reasons: list[str]) -> None:
    """Files that could not be read; those of no known format share a line."""
    from commbench.readers import UNKNOWN
    from commbench.report.view import one_line

    strange = [reason.removesuffix(f": {UNKNOWN}") for reason in reasons if reason.endswith(UNKNOWN)]
    if len(strange) > 1:
        reasons = [reason for reason in reasons if not reason.endswith(UNKNOWN)]
        more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
        reasons.append(f"{len(strange)} files are of {UNKNOWN}: {', '.join(strange[:_NAMED])}{more}")
    for reason in reasons:
        click.echo(f"commbench: {one_line(reason)}", err=True)


def _tell(problems: "Iterable[Problem]") -> None:
    from commbench.report.view import one_line

    told: Counter[str] = Counter()
    for problem in problems:
        told[problem.path] += 1
        if told[problem.path] <= _SHOWN:
            click.echo(f"commbench: {one_line(str(problem))}", err=True)
    for path, count in told.items():
        if count > _SHOWN:
            click.echo(f"commbench: {one_line(path)}: {count - _SHOWN} more lines like these, see unread.txt", err=True)
    sys.stderr.flush()


def _as_json(
    runs: "Iterable[Loaded]", folders: Iterable[Path], problems: "Iterable[Problem]", refused: "Iterable[ReadError]"
) -> str:
    import msgspec

    told = {
        "schema": 1,
        "runs": [
            {
                "folder": str(folder),
                "origin": loaded.run.origin,
                "ranks": loaded.run.machine.size or None,
                "measurements": len(loaded.measurements),
                "parts": [type(part).__name__ for part in loaded.parts],
            }
            for loaded, folder in zip(runs, folders, strict=True)
        ],
        "unread": list(problems),
        "refused": [str(error) for error in refused],
    }
    return msgspec.json.format(msgspec.json.encode(told)).decode()
