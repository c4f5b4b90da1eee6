"""Runs, wherever they are: run folders, folders of them, and files of other tools, all as the same records."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from commbench import __version__, readers, store
from commbench.errors import FolderError, ReadError
from commbench.model import wire
from commbench.model.workload import merge
from commbench.readers.base import Found
from commbench.readers.source import Problem, Source
from commbench.records import Machine, Measurement, NcclLog, Origin, Part, Run, Workload
from commbench.records import recommendation as recommendations
from commbench.records import verdict as verdicts
from commbench.records.recommendation import Recommendation
from commbench.records.verdict import Verdict
from commbench.stats.rows import Row, rows


class Loaded(NamedTuple):
    """A run, its measurements, and what else is known about it."""

    run: Run
    measurements: list[Measurement]
    parts: tuple[Part, ...] = ()
    where: str = ""  # below the folder that was asked for
    concluded: Verdict | Recommendation | None = None  # what an acceptance test or a search wrote beside them


class Gathered(NamedTuple):
    """What the files of other tools gave: the runs, what looked like data and could not be read, what was no data."""

    runs: list[Loaded]
    problems: list[Problem]
    refused: list[ReadError]


def tabulate(run: Run, measurements: Iterable[Measurement], *, brief: bool = False) -> list[Row]:
    """The rows of a run, with the limits of its network where that is known."""
    found = rows(measurements, run.confidence, brief=brief)
    return wire.with_limits(found, run.machine) if run.machine.fabric is not None else found


def load_runs(path: Path) -> list[Loaded]:
    """The run of a run folder, all runs below a folder, or those that another tool's file tells of.

    Raises FolderError or ReadError where there is none.
    """
    if path.is_dir():
        folders = sorted(found.parent for found in path.rglob("run.json"))
        if folders:
            return [_of_folder(one, str(one.relative_to(path))) for one in folders]
    elif not path.exists():
        raise FolderError(f"{path}: there is no such file or folder")
    gathered = gather([path])
    if not gathered.runs:
        raise (
            gathered.refused[0] if not path.is_dir() else FolderError(f"{path} holds neither a run nor a readable file")
        )
    return gathered.runs


def _of_folder(folder: Path, where: str) -> Loaded:
    concluded: Verdict | Recommendation | None = None
    if (folder / verdicts.NAME).exists():
        concluded = verdicts.read(folder)
    elif (folder / recommendations.NAME).exists():
        concluded = recommendations.read(folder)
    return Loaded(*store.load(folder), store.load_parts(folder), where, concluded)


def gather(paths: Iterable[Path]) -> Gathered:
    """Reads files, and all files below folders."""
    out = Gathered([], [], [])
    traces: dict[Path, list[Loaded]] = {}
    for path in paths:
        for file in _files(path):
            try:
                reading = readers.read(Source(file))
            except ReadError as error:
                out.refused.append(error)
                continue
            out.problems.extend(reading.problems)
            for loaded in _runs(reading):
                trace = not loaded.measurements and len(loaded.parts) == 1 and isinstance(loaded.parts[0], Workload)
                (traces.setdefault(file.parent, []) if trace else out.runs).append(loaded)
    for folder, several in traces.items():
        out.runs.extend(_one_job(folder, several))
    return out


def _one_job(folder: Path, traces: list[Loaded]) -> list[Loaded]:
    """Traces of one folder are the ranks of one job, where they can be."""
    if len(traces) == 1:
        return traces
    try:
        job = merge([part for trace in traces for part in trace.parts if isinstance(part, Workload)])
    except ReadError:
        return traces
    first, name = traces[0].run, Source(folder).name
    origin = msgspec.structs.replace(first.origin, path=name) if first.origin else None
    return [Loaded(msgspec.structs.replace(first, name=Path(name).name, origin=origin), [], (job,))]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.is_file() and not hidden and not (file.parent / "run.json").exists():
            yield file


def _runs(reading: readers.Reading) -> Iterator[Loaded]:
    """What a file tells of one world is one run; what it tells again about the same case is another launch."""
    parts = tuple(part for found in reading.found for part in found.parts)
    worlds: dict[tuple[object, ...], list[Found]] = {}
    for found in reading.found:
        if found.measurements:
            ranks = {m.ranks for m in found.measurements if m.case.groups == "world"}
            worlds.setdefault((found.tool, msgspec.json.encode(found.machine), *sorted(ranks)), []).append(found)
    for founds in worlds.values() or [list(reading.found)]:
        yield Loaded(_run(reading, founds), list(_launches(founds)), parts)


def _run(reading: readers.Reading, founds: Sequence[Found]) -> Run:
    source, first = reading.source, founds[0]
    told = next((found.created for found in founds if found.created), "")
    origin = Origin(
        path=source.name,
        nbytes=source.nbytes,
        sha256=source.sha256,
        tool=first.tool,
        options=_together(found.options for found in founds),
        results=_together(found.results for found in founds),
        unread=len(reading.problems),
        dated="file" if told else "mtime",
    )
    return Run(
        format=store.FORMAT,
        name=Path(source.name).name,  # which can be written whatever bytes the file is called by
        created=told or f"{np.datetime64(int(source.changed), 's')}+00:00",
        commbench=__version__,
        seed=0,
        spec={},
        machine=_machine(first.machine, reading.found),
        origin=origin,
    )


def _machine(machine: Machine, told: Sequence[Found]) -> Machine:
    """What a run tells of its machine, and what all else in the file does: NCCL's log knows the settings in force."""
    facts: dict[str, str] = {}
    environment: dict[str, str] = {}
    for found in told:
        facts |= found.machine.facts
        environment |= found.machine.environment
        for part in found.parts:
            facts |= _network(part) if isinstance(part, NcclLog) else {}
    return msgspec.structs.replace(
        machine,
        facts=facts | machine.facts,
        environment=environment | machine.environment,
        hidden=tuple(sorted({name for found in told for name in found.machine.hidden})),
    )


def _network(log: NcclLog) -> dict[str, str]:
    """How NCCL talked, in words that can be compared from run to run: without channels and numbers of devices."""
    kinds = {re.sub(r"/\d+(?=/|$)", "", transport.kind) for transport in log.transports}
    told = {
        "nccl_network": ", ".join(sorted({one.name for one in log.network})),
        "nccl_transports": ", ".join(sorted(kinds)),
    }
    return {name: text for name, text in told.items() if text}


def _together(each: Iterable[dict[str, str]]) -> dict[str, str]:
    """Every value that an option has, once."""
    values: dict[str, dict[str, None]] = {}
    for options in each:
        for name, value in options.items():
            values.setdefault(name, {})[value] = None
    return {name: " | ".join(found) for name, found in values.items()}


def _launches(founds: Iterable[Found]) -> Iterator[Measurement]:
    taken: set[tuple[str, int, int]] = set()
    for found in founds:
        for m in found.measurements:
            key = m.case.key
            launch = next(k for k in count(m.launch) if (key, m.group, k) not in taken)
            taken.add((key, m.group, launch))
            yield m if launch == m.launch else msgspec.structs.replace(m, launch=launch)
