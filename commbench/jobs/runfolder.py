"""The folder of a search: refused where nothing can be written, gone on with, and what is said of it at an early end.

What a search concludes is written last, the evidence before the recommendation: where recommendation.json is, all is.
"""

import contextlib
import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from commbench import store
from commbench.errors import CommbenchError, FolderError, SpecError, StoreError
from commbench.records import Machine, Measurement, Run
from commbench.records import recommendation as records
from commbench.records.recommendation import differences, versions_of
from commbench.spec import differing

_ROOM = 2**16  # bytes; what a search writes between two looks is less
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = "refused.txt"  # rank 0's sentence, for the process that started the ranks


def check_room(folder: Path) -> None:
    """StoreError where nothing, or no more, can be written. To be asked before anything is started, and before the
    settings of a failed trial get the blame for what a full disc did."""
    probe = folder / ".room"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_ROOM))
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise cannot_write(folder, folder, error) from error


def cannot_write(path: Path, folder: Path, error: OSError) -> StoreError:
    """What to do where `path` in the folder of a search cannot be written."""
    advice = "make room or choose another --out" if error.errno in _FULL else "choose a folder you may write with --out"
    return StoreError(f"{path}: {error.strerror or error}; {advice}; {kept(folder)}")


def kept(folder: Path) -> str:
    """What is left of a search that ends early, and how it goes on."""
    try:
        trials = (folder / "journal.jsonl").read_bytes().count(b"\n") if (folder / "run.json").exists() else 0
    except OSError:
        trials = 0
    if not trials:
        return "nothing was tried"
    return f"{trials} trials are kept in {folder}, --resume --out {folder} goes on"


def forget(folder: Path, *names: str) -> None:
    """Takes away what an earlier search concluded, the recommendation first: its trials are about to become more."""
    for name in (records.NAME, *names, _REFUSED):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{folder / name}: {error.strerror}; choose another --out") from error


def discard(folder: Path, *names: str) -> None:
    """A run in which nothing was tried: the same command, with a larger budget, then starts anew."""
    for name in ("run.json", "journal.jsonl", *names):
        (folder / name).unlink(missing_ok=True)


# ---- what rank 0 refuses, told by whoever started it ---------------------------------------------------------


def refuse(folder: Path, error: CommbenchError) -> None:
    """A launcher's exit code and output do not say what was wrong: the sentence does."""
    with contextlib.suppress(OSError, StoreError):
        folder.mkdir(parents=True, exist_ok=True)
        store.write_atomically(folder / _REFUSED, str(error).encode())


def unless_refused(folder: Path, say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` without what rank 0 says as it refuses: that is the error, and is told once."""
    return lambda line: None if (folder / _REFUSED).exists() else say(line)


def check_refused(folder: Path) -> None:
    """SpecError with rank 0's sentence, where there is one."""
    with contextlib.suppress(FileNotFoundError):
        sentence = (folder / _REFUSED).read_text(encoding="utf-8")
        (folder / _REFUSED).unlink()
        raise SpecError(sentence)


# ---- a search that goes on -----------------------------------------------------------------------------------


def check_versions(folder: Path, before: Machine, now: Machine) -> None:
    """FolderError where the trials so far are of other libraries: a recommendation is of one version."""
    if changed := differences(versions_of(before), versions_of(now)):
        raise FolderError(f"{folder} cannot go on: {'; '.join(map(str, changed))}; choose another --out")


def check_spec(folder: Path, spec: Mapping[str, Any]) -> None:
    """FolderError where the folder holds a run of another spec (in its canonical form)."""
    if changed := differing(store.load_run(folder).spec, spec):
        raise FolderError(
            f"{folder} holds a run of another spec (it differs in {', '.join(changed)}); choose another --out"
        )


class Book:
    """The journal of a search whose trials are one row each: what is there already, and each trial as it is made.

    A new run begins with its first trial, so a refused budget leaves none behind.
    """

    def __init__(self, folder: Path, run: Run, resume: bool) -> None:
        """FolderError where the run that is there is of another spec, layout or library version."""
        self._folder, self._run = folder, run
        self._journal: store.Journal | None = None
        self._gone_on = resume and (folder / "run.json").exists()
        if not self._gone_on:
            return
        check_spec(folder, run.spec)
        self._journal = store.reopen(folder, lambda case: 1)
        before = self._journal.run.machine
        if before.host_of != run.machine.host_of:
            raise FolderError(
                f"{folder} was measured with {before.size} ranks on {len(before.hosts)} hosts, this job has "
                f"{run.machine.size} on {len(run.machine.hosts)}; resume with the same layout, or choose another --out"
            )
        check_versions(folder, before, run.machine)
        changed = {one.fact: f"{one.then} -> {one.now}" for one in differences(before.facts, run.machine.facts)}
        known = {fact: told for fact, told in changed.items() if not fact.endswith("_timer_ns")}
        store.note_resume(self._journal, {"at": run.created, **known})

    @property
    def trials(self) -> tuple[Measurement, ...]:
        return tuple(self._journal.measurements) if self._journal else ()

    @property
    def compared(self) -> tuple[Measurement, ...]:
        """Those of rounds that the default is in: of a round that was cut off before, others compare with nothing."""
        rounds = {trial.launch for trial in self.trials if not trial.case.settings and not trial.control}
        return tuple(trial for trial in self.trials if trial.control or trial.launch in rounds)

    def add(self, trial: Measurement) -> None:
        if self._journal is None:
            self._journal = store.create(self._folder, self._run)
        self._journal.append((trial,))

    def give_up(self) -> None:
        """Leaves no run behind where nothing was tried: a trial of the default that told its cost is no trial."""
        if self._journal and not self._gone_on and all(trial.control for trial in self.trials):
            discard(self._folder)

    def close(self) -> None:
        if self._journal:
            self._journal.close()
