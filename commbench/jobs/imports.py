"""Files of other tools into run folders: each run of a file a folder of its own.

A folder's run.json is written last: what a killed import leaves is no run folder.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from commbench import store
from commbench.errors import FolderError, StoreError
from commbench.jobs.runs import Loaded

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_ENDINGS = (".txt", ".log", ".out", ".json", ".jsonl", ".csv", ".xml", ".gz")
_LONGEST = 100  # characters of a folder's name


def write(runs: Sequence[Loaded], out: Path) -> list[Path]:
    """One run becomes `out` itself, several become folders in it. Raises FolderError, StoreError."""
    folders = [out] if len(runs) == 1 else [out / name for name in _names(loaded.run.name for loaded in runs)]
    for folder in (out, *folders):
        if (folder / "run.json").exists():
            raise FolderError(f"{folder} already holds a run; choose another --out")
    for loaded, folder in zip(runs, folders, strict=True):
        _write(loaded, folder)
    return folders


def _write(loaded: Loaded, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "parts.json").unlink(missing_ok=True)  # of a killed import
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; choose another --out") from None
    store.write_parts(folder, loaded.parts)
    store.write_atomically(folder / "journal.jsonl", b"".join(map(store.encode_line, loaded.measurements)))
    store.write_atomically(folder / "run.json", msgspec.json.format(msgspec.json.encode(loaded.run)))


def _names(files: Iterable[str]) -> list[str]:
    """A folder's name for each file: its own without the ending, and a number where two are the same."""
    count: Counter[str] = Counter()
    names: dict[str, None] = {}
    for file in files:
        while file.endswith(_ENDINGS):
            file = file[: file.rindex(".")]
        plain = name = _NOT_IN_NAMES.sub("-", file)[:_LONGEST].strip(".-") or "run"
        while name in names or not count[plain]:
            count[plain] += 1
            name = f"{plain}-{count[plain]}" if count[plain] > 1 else plain
        names[name] = None
    return list(names)
