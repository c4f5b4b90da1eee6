"""A baseline made from an accepted run, and a run compared with one."""

from pathlib import Path
from typing import NamedTuple

from commbench import store
from commbench.accept import baseline as records
from commbench.accept.baseline import Baseline, Comparison
from commbench.accept.evidence import gather
from commbench.errors import FolderError, SpecError
from commbench.jobs.verdict import digest, judged
from commbench.records import Run
from commbench.records.recommendation import Difference

NAME = "baseline.json"


class Compared(NamedTuple):
    """`differs`: facts of another machine that were overlooked because somebody said so."""

    base: Baseline
    run: Run
    comparison: Comparison
    differs: tuple[Difference, ...]


def create(folder: Path, force: bool = False) -> Baseline:
    """From the run in a folder, judged again now. FolderError: it did not pass (`force`: the file says so)."""
    verdict = judged(folder)
    if verdict.word != "PASS" and not force:
        why = next((reason.sentence for reason in verdict.reasons), "")
        raise FolderError(
            f"{folder}: the verdict is {verdict.word} ({why}); a baseline is made of a run that passed "
            "(--force makes it all the same, and says so in the file)"
        )
    run, rows = store.load(folder)
    found = records.make(run, gather(run.machine, rows), verdict.word, digest(folder), verdict.word != "PASS")
    if not found.series:
        raise FolderError(f"{folder}: nothing was measured well, so there is nothing to compare with")
    return found


def write(path: Path, baseline: Baseline) -> None:
    """Whole or not at all. StoreError where it cannot be written."""
    store.write_atomically(path, records.encode(baseline))


def path_of(where: Path) -> Path:
    """A baseline is a file, or lies in a folder under its usual name."""
    return where / NAME if where.is_dir() else where


def compare(where: Path, folder: Path, slowdown: float, confidence: float, force: bool = False) -> Compared:
    """The run in a folder against a baseline. SpecError: of another machine (`force`: compared all the same)."""
    base = records.read(path_of(where))
    run, rows = store.load(folder)
    differs = records.elsewhere(base, run.machine)
    if differs and not force:
        facts = "; ".join(f"{one.fact}: {one.then} in the baseline, {one.now} in the run" for one in differs)
        raise SpecError(f"{path_of(where)} is of another machine: {facts} (--force compares all the same)")
    now = records.series(gather(run.machine, rows))
    return Compared(base, run, records.compare(base.series, now, slowdown, confidence), differs)
