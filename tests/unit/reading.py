"""What the tests of several readers share: reading, what must hold of everything that was read, damaged copies."""

import os
import random
from collections.abc import Iterable
from math import isfinite
from pathlib import Path

import msgspec

from commbench.errors import ReadError
from commbench.readers.base import Found, Reader
from commbench.readers.source import Problem, Source
from commbench.records import Measurement

SAMPLES = Path(__file__).with_name("samples")
FUZZ = int(os.environ.get("COMMBENCH_FUZZ", "200"))


def read(reader: Reader, path: Path) -> tuple[list[Found], list[Problem]]:
    """(runs, problems) of a file, after a look at both."""
    items = list(reader.read(Source(path, path.name)))
    found = [item for item in items if isinstance(item, Found)]
    for one in found:
        sound(one)
    return found, [item for item in items if isinstance(item, Problem)]


def read_text(reader: Reader, text: str | bytes, folder: Path) -> tuple[list[Found], list[Problem]]:
    path = folder / "table.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(reader, path)


def sound(found: Found) -> None:
    """What no file, however damaged, may break."""
    assert found.measurements
    assert found.tool
    assert found.line >= 1
    seen = {(row.case.key, row.group, row.launch) for row in found.measurements}
    assert len(seen) == len(found.measurements), "two answers to one question in one launch"
    for row in found.measurements:
        assert row.clock == "imported"
        assert min(row.nbytes, row.ranks, row.calls) >= 0
        assert all(isfinite(value) and value > 0 for value in row.seconds)
        assert all(isfinite(value) and value >= 0 for value in row.told.values())
        assert (row.status == "ok") == (row.why == "")
        assert len(row.seconds) == (row.status != "skipped") or row.kind == "samples"
        assert row.nbytes >= 0
        assert msgspec.json.decode(msgspec.json.encode(row), type=Measurement) == row
    assert all(isinstance(value, str) and value for value in found.options.values())


def damaged(original: bytes, rng: random.Random) -> bytes:
    """A copy with lines and bytes cut, doubled, moved and replaced."""
    lines = original.split(b"\n")
    for _ in range(rng.randint(1, 6)):
        k = rng.randrange(len(lines))
        line = lines[k]
        match rng.randrange(8):
            case 0:
                del lines[k : k + rng.randint(1, 3)]
            case 1:
                lines.insert(k, lines[rng.randrange(len(lines))])
            case 2:
                lines[k] = line[: rng.randint(0, len(line))]
            case 3:
                at = rng.randint(0, len(line))
                lines[k] = line[:at] + rng.randbytes(rng.randint(1, 4)) + line[at:]
            case 4:
                words = line.split(b" ")
                words[rng.randrange(len(words))] = rng.choice(_EVIL)
                lines[k] = b" ".join(words)
            case 5:
                lines[k] = line + b" " + rng.choice(_EVIL)
            case 6:
                lines[k] = line.replace(b"0", rng.choice(_EVIL), 1)
            case _:
                rng.shuffle(lines) if rng.random() < 0.1 else lines.insert(k, b"")
        lines = lines or [b""]
    return b"\n".join(lines)


_EVIL = (b"nan", b"inf", b"-1", b"0", b"1e308", b"1e-308", b"1" * 400, b"0x10", b"1_0", b"\xff\xfe", b"", b"#", b"[[[[")
_EVIL += ("٣".encode(), b"9007199254740993", b"2147483648", b"'", b"\x00", b"\x1b[31m", b"# Size", b"Pass", b"-nan")


def survives(reader: Reader, files: Iterable[Path], folder: Path, seed: int = 7) -> None:
    """No damaged copy makes the reader raise anything but ReadError, or give what is not sound."""
    originals = [path.read_bytes()[:20_000] for path in files]
    rng = random.Random(seed)
    for turn in range(FUZZ):
        text = damaged(originals[turn % len(originals)], rng)
        try:
            read_text(reader, text, folder)
        except ReadError:
            pass
        except Exception as error:
            (folder / "culprit").write_bytes(text)
            raise AssertionError(f"turn {turn} of seed {seed}: see {folder / 'culprit'}") from error
