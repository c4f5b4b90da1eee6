"""The run folder: run.json, written first and atomically, and journal.jsonl, one Measurement a line.

Format history
  1  a line is {"crc":"xxxxxxxx", then the Measurement's fields}; crc is CRC-32 of the line with the crc removed
  2  a Measurement may have `kind` and `told`, a Run an `origin`; parts.json: what another tool's file told beside
  3  a Measurement may have `proof`

A line is fsynced before the next case is measured. After a crash the last line may be torn: it is dropped. A
damaged line in the middle is an error, because data that was once safe has changed. Only one process writes
a folder at a time (a lock on the journal); a resumed run removes a half-written case, so no case is there twice.
"""

import contextlib
import errno
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from commbench import allowlist
from commbench.errors import FolderError, StoreError
from commbench.records import Case, Measurement, Part, Run

FORMAT = 3
_HEAD = len(b'{"crc":"01234567",')
_decode = msgspec.json.Decoder(Measurement).decode
_LOCK_PATIENCE = 10.0  # seconds in which the ranks of a killed run disappear


def encode_line(measurement: Measurement) -> bytes:
    body = msgspec.json.encode(measurement)
    return b'{"crc":"%08x",' % zlib.crc32(body) + body[1:] + b"\n"


def decode_line(line: bytes, decode: Callable[[bytes], Measurement] = _decode) -> Measurement:
    """Raises ValueError where the line is not what was written."""
    body = b"{" + line[_HEAD:]
    if line[:_HEAD] != b'{"crc":"%08x",' % zlib.crc32(body):
        raise ValueError("checksum mismatch")
    return decode(body)


def write_atomically(path: Path, data: bytes) -> None:
    """The file has its old content or the new one, at any moment and after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _cannot_write(path, error) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    advice = {
        errno.ENOSPC: "make room or choose another --out",
        errno.EDQUOT: "your quota is used up; choose another --out",
        errno.EROFS: "the file system is read-only; choose another --out",
        errno.EACCES: "choose a folder you may write with --out",
        errno.EPERM: "choose a folder you may write with --out",
    }.get(error.errno or 0, "choose another --out")
    return StoreError(f"{path}: {error.strerror or error}; {advice}; rows written before are kept")


def load_run(folder: Path) -> Run:
    path = folder / "run.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FolderError(f"{folder} is not a run folder: it has no run.json") from None
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from None
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise FolderError(
                f"{folder} was written by a newer commbench (format {version}, this one reads up to {FORMAT}); "
                "upgrade to read it"
            )
        return msgspec.json.decode(data, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is damaged: {error}") from None


def load(folder: Path) -> tuple[Run, list[Measurement]]:
    """A run and its measurements in the order they were made."""
    run, measurements = stream(folder)
    return run, list(measurements)


def stream(folder: Path, kind: type[Measurement] = Measurement) -> tuple[Run, Iterator[Measurement]]:
    """As `load`, one measurement after another: samples of a large run need not all be held at once.

    `kind` may be a Measurement that leaves fields undecoded.
    """
    return load_run(folder), map(itemgetter(0), _read(folder / "journal.jsonl", kind))


def _read(path: Path, kind: type[Measurement] = Measurement) -> Iterator[tuple[Measurement, int]]:
    """(measurement, the offset at which its line ends). A torn last line is left out."""
    decode, end = msgspec.json.Decoder(kind).decode, 0
    try:
        with path.open("rb", buffering=2**18) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    measurement = decode_line(line[:-1], decode)
                except ValueError as error:  # msgspec's errors are ValueErrors too
                    # Torn: the last line, and only one (a newline that was changed makes two of them one).
                    if not file.read(1) and line.count(b'{"crc":"') < 2:
                        return
                    raise FolderError(
                        f"{path}:{number}: this line was changed after it was written ({error})"
                    ) from None
                end += len(line)
                yield measurement, end
    except FileNotFoundError:
        return
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from None


def write_parts(folder: Path, parts: Sequence[Part]) -> None:
    if parts:
        write_atomically(folder / "parts.json", msgspec.json.encode(parts) + b"\n")


def load_parts(folder: Path) -> tuple[Part, ...]:
    """What was told beside the measurements: () where nothing was."""
    path = folder / "parts.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Part, ...])
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is damaged: {error}") from None


class Journal:
    """The one writer of a run folder."""

    def __init__(self, folder: Path, run: Run, measurements: Sequence[Measurement] = ()) -> None:
        self.folder, self.run = folder, run
        self.measurements = list(measurements)
        path = folder / "journal.jsonl"
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _cannot_write(path, error) from error
        self._path = path

    def append(self, rows: Sequence[Measurement]) -> None:
        """All groups of a case in one write, on disk when this returns. Raises StoreError, leaving whole lines."""
        data = b"".join(map(encode_line, rows))
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise _cannot_write(self._path, error) from error
        self.measurements.extend(rows)

    def done(self, groups_of: Callable[[Case], int]) -> set[tuple[str, int]]:
        """(case key, launch) that need not be measured again: whole, and not hung."""
        seen: dict[tuple[str, int], set[int]] = {}
        hung: set[tuple[str, int]] = set()
        for m in self.measurements:
            if not m.control:
                seen.setdefault((m.case.key, m.launch), set()).add(m.group)
                (hung.add if m.status == "hung" else hung.discard)((m.case.key, m.launch))
        cases = {m.case.key: m.case for m in self.measurements}
        return {key for key, groups in seen.items() if len(groups) == groups_of(cases[key[0]]) and key not in hung}

    def close(self) -> None:
        os.close(self._file)


def already(folder: Path) -> FolderError:
    return FolderError(f"{folder} already holds a run; --resume goes on with it, another --out keeps both")


def create(folder: Path, run: Run) -> Journal:
    """A new run folder. Raises FolderError where there is a run already, StoreError where it cannot be written."""
    try:
        if (folder / "run.json").exists():
            raise already(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    run = msgspec.structs.replace(run, command=allowlist.argv(run.command))
    journal = Journal(folder, run)
    _lock(journal)
    if (folder / "run.json").exists():  # made by another process while this one waited
        journal.close()
        raise already(folder)
    write_atomically(folder / "run.json", msgspec.json.format(msgspec.json.encode(run)))
    return journal


def reopen(folder: Path, groups_of: Callable[[Case], int]) -> Journal:
    """A run folder to go on with: locked, and cut back to whole cases. `groups_of`: groups of a case's layout."""
    run = load_run(folder)
    journal = Journal(folder, run)
    _lock(journal)
    read = list(_read(folder / "journal.jsonl"))
    measurements = [measurement for measurement, _ in read]
    # The lines of a case were written together: only the last case can be incomplete.
    whole = len(measurements)
    if measurements:
        # Groups are written in order, so the last line says how much of its case is there.
        here = measurements[-1].group + 1
        if here < groups_of(measurements[-1].case):
            whole -= here
    try:
        os.ftruncate(journal._file, read[whole - 1][1] if whole else 0)
    except OSError as error:
        raise _cannot_write(folder / "journal.jsonl", error) from error
    journal.measurements = measurements[:whole]
    return journal


def note_resume(journal: Journal, entry: dict[str, str]) -> None:
    """Adds to run.json that, when, and on what changed machine the run was resumed."""
    run = msgspec.structs.replace(journal.run, resumed=(*journal.run.resumed, entry))
    write_atomically(journal.folder / "run.json", msgspec.json.format(msgspec.json.encode(run)))
    journal.run = run


def _lock(journal: Journal) -> None:
    until = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(journal._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise FolderError(
                    f"{journal.folder} is being written by another process; wait for it or stop it"
                ) from None
            time.sleep(0.1)
        except OSError:
            return  # a file system without locks: the user's discipline must do
