"""`commbench emit`: the file that applies a recommendation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@click.command("emit")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--for", "name", required=True, metavar="TARGET", help="nccl-csv, openmpi, mpich, ddp, ...; see docs.")
@click.option(
    "-o", "--out", "path", type=click.Path(path_type=Path), help="The file; by default TARGET's own name, here."
)
@click.option(
    "--ranks", type=click.IntRange(1), help="Ranks of the job that it is for; refused where others were measured."
)
@click.option("--hosts", type=click.IntRange(1), help="Hosts of that job.")
@click.option(
    "--library", type=click.Path(path_type=Path), help="MPICH's (or Open MPI's) libmpi.so, where it is not found."
)
@click.option("--build", is_flag=True, help="With nccl-plugin: build the plugin beside the file.")
@click.option(
    "--force", is_flag=True, help="Write it although machine, versions or date differ, or AWS's tuner is in use."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but the names of the files.")
def command(
    folder: Path,
    name: str,
    path: Path | None,
    ranks: int | None,
    hosts: int | None,
    library: Path | None,
    build: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write the recommendation of run DIR as the file that a library or framework reads.

    \b
    rules    nccl-csv nccl-plugin ncclx rccl openmpi openmpi-json mpich env slurm k8s
    buckets  ddp fsdp2 deepspeed megatron inductor

    Each file says where it is from, what it is worth, until when, and why each line is there. What is not proven is
    left out, and outside what was measured the library decides; the line `reach` says what it may miss there.

    Exit codes: 0 written, or the defaults are best; 2 refused.
    """
    import os
    from datetime import UTC, datetime

    from commbench import emit
    from commbench.emit import refuse
    from commbench.emit.build import build as compile_plugin
    from commbench.errors import SpecError
    from commbench.records import recommendation as record

    one = emit.target(name)
    if build and name != "nccl-plugin":
        raise SpecError(f"--build makes NCCL's plugin; there is nothing to build for {name}")
    found = record.read(folder)
    out = (path or Path(one.file)).absolute()
    if found.keep_default and not (found.rules or found.buckets or (one.kind == "both" and found.busbw_gbps)):
        stale = f"; delete {out}, which is of an earlier one" if out.exists() else ""
        click.echo(f"keep the default: {found.keep_default}; nothing is written{stale}")
        return
    refuse.ll128(found)
    facts, versions = _here({name for name in found.versions if not one.library or name == one.library}, library)
    facts |= {key: str(count) for key, count in (("ranks", ranks), ("hosts", hosts)) if count is not None}
    with _unless(force):
        refuse.other_place(refuse.elsewhere(found, one, facts, versions))
    with _unless(force):
        refuse.expired(found, datetime.now(UTC).date().isoformat())
    with _unless(force):
        refuse.aws(name, found, os.environ)
    if not out.parent.is_dir():
        raise SpecError(f"{out.parent} is no folder; make it, or name another file with -o")
    written = emit.emit(found, name, emit.Place(out.parent, out.name, library or emit.mpich.installed()))
    for file, text in written.items():
        _write(out.parent / file, text)
    names = [out.parent / file for file in written]
    for path in [*names, compile_plugin(out.parent)] if build else names:
        click.echo(path)
    if not quiet:
        for line in emit.header(found, name)[1:]:
            click.echo(f"  {line}")


@contextmanager
def _unless(force: bool) -> Iterator[None]:
    """A refusal that --force makes a warning."""
    from commbench.errors import SpecError

    try:
        yield
    except SpecError as reason:
        if not force:
            raise
        click.echo(f"commbench: forced: {reason}", err=True)


def _write(path: Path, text: str) -> None:
    from commbench import store
    from commbench.errors import SpecError, StoreError

    try:
        store.write_atomically(path, text.encode())
    except StoreError as error:
        why = getattr(error.__cause__, "strerror", error)
        raise SpecError(f"{path} cannot be written: {why}; name another file with -o") from error


def _here(names: set[str], library: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """Facts of this machine, and versions of the libraries `names`, as they are told without starting a rank.

    `library`: the libmpi.so that --library names; a package of this Python does not speak for it.
    """
    from commbench.emit import mpich
    from commbench.measure import probe
    from commbench.training.place import installed

    versions: dict[str, str] = {}
    if "mpich" in names and (found := library or mpich.installed()):
        versions["mpich"] = _told("mpichversion", r"MPICH Version:\s+v?(\d[\w.]*)", found)
    if "openmpi" in names and library:
        versions["openmpi"] = _told("mpirun", r"\(Open ?MPI\) v?(\d[\w.]*)", library)
    versions |= installed(names - set(versions))
    return probe.facts(), {name: text for name, text in versions.items() if text}


def _told(program: str, pattern: str, library: Path) -> str:
    """The version that the program beside a library tells; "" where there is none."""
    import os
    import re
    import shutil
    import subprocess

    where = [root / "bin" for path in (library.absolute(), library.resolve()) for root in path.parents[1:3]]
    if (found := shutil.which(program, path=os.pathsep.join(map(str, where)))) is None:
        return ""
    command = [found, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(pattern, done.stdout)
    return match[1] if match else ""
