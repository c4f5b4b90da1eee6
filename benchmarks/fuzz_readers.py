"""Damaged files for every reader: none may give anything but a ReadError or sound records, hang, or eat the memory.

The seeds are the collected files where they are (COMMBENCH_REAL_DATA, or ../shared/data/real) and the samples of the
tests. An input is a window of at most 20 KB of one of them, or of two spliced, with up to eight damages, or a soup of
the format's own words; three in a thousand have a line of nearly a megabyte. Input number n of a seed is always the
same; one that fails is kept in --keep.

  killed    over 10 s: a hang; the process is ended and goes on with the next input
  memory    the process may take 1 GiB
  told      of every input that gave a run, one in ten goes on to rows, table, CSV and traps
"""

import argparse
import gzip
import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from math import isfinite
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from commbench import readers, traps
from commbench.errors import CommbenchError, ReadError
from commbench.jobs import runs
from commbench.readers.source import Source
from commbench.records import Measurement, Part, Run
from commbench.report import table
from commbench.stats.spread import spread

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parent / "tests/unit/samples"
REAL = Path(os.environ.get("COMMBENCH_REAL_DATA", HERE.parents[1] / "shared/data/real"))
LARGEST = 20_000  # bytes of an input
PATIENCE = 10.0  # seconds
MEMORY = 2**30
TOLD = 10  # one of so many readings goes through the report
MOST_KEPT = 20
WORDS = re.compile(rb"[A-Za-z_][\w./-]*|\d+(?:\.\d+)?|[^\w\s]|\s+")
EVIL = (
    b"nan", b"NaN", b"-nan", b"inf", b"Infinity", b"-1", b"0", b"-0.0", b"1e308", b"1e-308", b"1e400", b"9" * 400,
    b"1" * 5000, b"0x10", b"1_0", b"9223372036854775808", b"18446744073709551616", b"9007199254740993", b"2147483648",
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\x1b[31m", b"\x1b]0;x\x07", b"\r",
    b"\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x92\xa5", "٣".encode(), "１".encode(), "²".encode(), "\u202e".encode(), b"<",
    b">", b'"', b"'", b"\\", b"{", b"}", b"[", b"]" * 40, b"[" * 3000, b'{"a":' * 3000, b"null", b"true",
    b"=cmd|' /C'!A0", b"#", b"", b" ", b"\n", b"\t", b",", b":", b"%s%n", b"../../etc", b"&e;", b"]]>",
    b"<!DOCTYPE x [<!ENTITY e SYSTEM '/'>]>",
)  # fmt: skip


class Seeds(NamedTuple):
    """Of one reader."""

    mine: list[bytes]
    others: list[bytes]
    words: list[bytes]
    signatures: tuple[bytes, ...]


class Tally(NamedTuple):
    """What one process counts, for its parent."""

    at: "Synchronized[int]"  # the input in work
    since: "Synchronized[float]"  # when it began; 0: none is
    read: "Synchronized[int]"
    refused: "Synchronized[int]"
    slowest: "Synchronized[float]"
    which: "Synchronized[int]"


def contents() -> Iterator[bytes]:
    for path in sorted(path for root in (SAMPLES, REAL) for path in root.rglob("*") if path.is_file()):
        data = path.read_bytes()
        yield gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def seeds(reader: str) -> Seeds:
    mark = next(one for name, one in zip(readers.MODULES, readers.readers(), strict=True) if name == reader)
    mine, others = [], []
    for data in contents():
        (mine if any(sign in data for sign in mark.signatures) else others).append(data)
    words = sorted({word for data in mine for word in WORDS.findall(data[:LARGEST]) if len(word) < 60})
    return Seeds(mine, others, words, mark.signatures)


# ---- inputs


def made(seed: int, reader: str, number: int, of: Seeds) -> bytes:
    """Input `number`: always the same."""
    rng = random.Random(f"{seed} {reader} {number}")
    kind = rng.random()
    if kind < 0.1:
        data = soup(of, rng)
    elif kind < 0.3:
        one, other = window(rng.choice(of.mine), rng), window(rng.choice(of.mine if kind < 0.25 else of.others), rng)
        data = one[: rng.randint(0, len(one))] + other[rng.randint(0, len(other)) :]
    else:
        data = window(rng.choice(of.mine), rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4, 8))):
        data = rng.choice(DAMAGES)(data, rng, of)[: 2 * LARGEST]
    data = data[:LARGEST]
    if rng.random() < 0.003:
        return _stretch(data, rng)
    wrapped = rng.random()
    if wrapped < 0.01:
        return gzip.compress(data, 1)[: rng.choice((None, -5, -1))]
    if wrapped < 0.02:
        return b"\xff\xfe" + data.decode(errors="replace").encode("utf-16-le", errors="replace")
    return data


def window(data: bytes, rng: random.Random) -> bytes:
    """A small file whole; of a large one its head, and a part from anywhere behind it."""
    if len(data) <= LARGEST:
        return data
    head = rng.choice((0, 500, 3_000, LARGEST))
    begin = rng.randrange(len(data))
    begin = data.rfind(b"\n", 0, begin) + 1 if rng.random() < 0.8 else begin
    return data[:head] + data[begin : begin + LARGEST - head]


def soup(of: Seeds, rng: random.Random) -> bytes:
    words = (rng.choice(of.words if rng.random() < 0.9 else EVIL) for _ in range(rng.randint(3, 400)))
    return rng.choice(of.signatures) + rng.choice((b" ", b"", b"\n")).join(words)


def _flip(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    out = bytearray(data)
    for _k in range(rng.choice((1, 3, 30)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randint(0, len(data))
    return begin, min(len(data), begin + int(rng.choice((4, 60, 500, 5_000)) * rng.random()) + 1)


def _delete(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] + data[end:]


def _double(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    begin, end = _span(data, rng)
    return data[:end] + data[begin:end] * rng.choice((1, 1, 2, 20)) + data[end:]


def _swap(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    a, b, c, d = sorted(rng.randint(0, len(data)) for _k in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _cut(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    return data[: rng.randint(0, len(data))]


def _insert(data: bytes, rng: random.Random, of: Seeds) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(EVIL if rng.random() < 0.7 else of.words) + data[at:]


def _word(data: bytes, rng: random.Random, of: Seeds) -> bytes:
    """Another word in the place of one."""
    found = list(WORDS.finditer(data, rng.randint(0, len(data)) if len(data) > 500 else 0, len(data)))[:200]
    if not found:
        return data
    word = rng.choice(found)
    return data[: word.start()] + rng.choice(EVIL if rng.random() < 0.6 else of.words) + data[word.end() :]


def _number(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    """Another number in the place of every one that is the same."""
    found = list(set(re.findall(rb"\d[\d.]*", data[:4_000])))
    return data.replace(rng.choice(found), rng.choice(EVIL[:20]), rng.choice((1, 5, -1))) if found else data


def _lines(data: bytes, rng: random.Random, _: Seeds) -> bytes:
    lines = data.split(b"\n")
    if rng.random() < 0.2:
        rng.shuffle(lines)
    else:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


DAMAGES: tuple[Callable[[bytes, random.Random, Seeds], bytes], ...] = (
    _flip, _delete, _double, _swap, _cut, _insert, _insert, _word, _word, _number, _lines,
)  # fmt: skip


def _stretch(data: bytes, rng: random.Random) -> bytes:
    """A line of nearly a megabyte: what is quadratic shows."""
    at = rng.randint(0, len(data))
    words = (b"a", b"1", b" ", b"_", b"[E", b"a:1", b"a: ", b"1 ", b"-> 1", b"0.", b'"', b"\\", b"{", b",", b"x=1 ")
    word = rng.choice(words)
    return data[:at] + word * ((2**20 - len(data) - 1) // len(word)) + data[at:]


# ---- what must hold


def sound(reading: readers.Reading) -> None:
    """What no file, however damaged, may break."""
    assert reading.found
    for problem in reading.problems:
        assert problem.line >= 0, "a line before the first"
        assert len(str(problem)) < 2_000, "a reason that is a flood"
    for found in reading.found:
        assert found.measurements or found.parts, "a run of nothing"
        assert found.tool
        assert found.line >= 1
        assert all(0 <= host < len(found.machine.hosts) for host in found.machine.host_of), "ranks on unknown hosts"
        assert not found.created or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.created)
        again(found.parts, tuple[Part, ...])
        for texts in (found.options, found.results, found.machine.facts, found.machine.environment):
            again(texts, dict[str, str])
            assert all(len(name) + len(text) < 5_000 for name, text in texts.items()), "an option that is a flood"
        for row in found.measurements:
            measured(row)


def measured(row: Measurement) -> None:
    assert row.clock == "imported"
    assert min(row.nbytes, row.ranks, row.calls, row.group, row.launch, row.warmup) >= 0, "a number below 0"
    assert max(row.nbytes, row.ranks, row.calls) < 2**63, "a number that no table can hold"
    assert row.wrong is None or 0 <= row.wrong < 2**63
    assert all(isfinite(value) and 0 < value < 1e9 for value in row.seconds), "a time that is none"
    assert all(isfinite(value) and value >= 0 for value in row.told.values()), "a statistic that is none"
    assert (row.status == "ok") == (not row.why), "a status without its sentence"
    assert bool(row.seconds) or row.status == "skipped", "an answer without a time"
    assert 0 < len(row.case.op) < 100, "a name that is none"
    assert row.case.op.isprintable(), "a name that is none"
    assert row.case.dtype.isprintable()
    again(row, Measurement)


def again(thing: Any, kind: Any) -> None:
    assert msgspec.json.decode(msgspec.json.encode(thing), type=kind) == thing, "not the same after it was written"


def told(reading: readers.Reading) -> None:
    """On the way to the user."""
    for loaded in runs._runs(reading):
        run = msgspec.json.decode(msgspec.json.encode(loaded.run), type=Run)
        rows = runs.tabulate(run, loaded.measurements)
        "\n".join(table.table(run, rows, spread(rows)))
        findings = traps.find(run, loaded.measurements, rows, loaded.parts)
        "\n".join((*table.csv_lines(rows), *table.finding_lines(findings)))
        table.as_json(run, rows)


# ---- processes


def work(seed: int, reader: str, numbers: range, tally: Tally, keep: Path) -> None:
    """Reads these inputs; what fails is kept."""
    of = seeds(reader)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + _taken(), MEMORY + _taken()))
    scratch = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.NamedTemporaryFile(prefix="commbench-fuzz-", dir=scratch) as file:
        path = Path(file.name)
        for number in numbers:
            data = made(seed, reader, number, of)
            path.write_bytes(data)
            began = tally.since.value = time.monotonic()
            tally.at.value = number
            try:
                reading = readers.read(Source(path, "damaged.txt"))
                sound(reading)
                tally.read.value += 1
                if number % TOLD == 0:
                    told(reading)
            except ReadError:
                tally.refused.value += 1
            except (Exception, CommbenchError):
                keep_one(keep, reader, number, data, traceback.format_exc())
            took = time.monotonic() - began
            tally.since.value = 0.0
            if took > tally.slowest.value:
                tally.slowest.value, tally.which.value = took, number
    tally.at.value = -1


def _taken() -> int:
    """Address space that is in use already: threads of numpy reserve some."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def keep_one(keep: Path, reader: str, number: int, data: bytes, why: str) -> None:
    if len(list(keep.glob(f"{reader}-*.why"))) < MOST_KEPT:
        (keep / f"{reader}-{number}").write_bytes(data)
        (keep / f"{reader}-{number}.why").write_text(why)
    last = why.strip().splitlines()[-1][:150]
    print(f"# {reader} input {number}: {last}", file=sys.stderr, flush=True)


class Pair:
    """The processes of one reader, and the watch over them."""

    def __init__(self, seed: int, reader: str, inputs: int, workers: int, keep: Path) -> None:
        self.seed, self.reader, self.keep = seed, reader, keep
        self.left = [range(k, inputs, workers) for k in range(workers)]
        self.tallies = [
            Tally(*(multiprocessing.Value(kind, 0) for kind in ("q", "d", "q", "q", "d", "q"))) for _ in self.left
        ]
        self.failed = self.hung = 0
        self.processes = [self._start(k) for k in range(workers)]

    def _start(self, k: int) -> multiprocessing.Process:
        self.tallies[k].at.value = self.left[k].start
        process = multiprocessing.Process(
            target=work, args=(self.seed, self.reader, self.left[k], self.tallies[k], self.keep)
        )
        process.start()
        return process

    def watch(self, until: float) -> int:
        """How many inputs were done when all is over, or the time is."""
        while any(process.is_alive() for process in self.processes) and time.monotonic() < until:
            time.sleep(0.2)
            for k, process in enumerate(self.processes):
                tally = self.tallies[k]
                since, at = tally.since.value, tally.at.value
                late = since and time.monotonic() - since > PATIENCE
                if late and process.is_alive():
                    process.kill()
                    process.join()
                if late or (not process.is_alive() and at >= 0):
                    self.hung += bool(late)
                    self.failed += not late
                    why = "a hang" if late else f"the process died with {process.exitcode}"
                    keep_one(self.keep, self.reader, at, made(self.seed, self.reader, at, seeds(self.reader)), why)
                    self.left[k] = range(at + self.left[k].step, self.left[k].stop, self.left[k].step)
                    tally.since.value = 0.0
                    self.processes[k] = self._start(k)
        for process in self.processes:
            process.kill()
            process.join()
        return sum(
            len(left) if tally.at.value < 0 else (tally.at.value - k) // left.step
            for k, (left, tally) in enumerate(zip(self.left, self.tallies, strict=True))
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--inputs", type=int, default=100_000, help="of each reader (default 100000)")
    options.add_argument("--reader", choices=readers.MODULES, help="only this one")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    options.add_argument("--seconds", type=float, default=float("inf"), help="at most so long for each reader")
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "commbench-fuzz")
    asked = options.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    if not REAL.is_dir():
        print("# the samples of the tests alone: COMMBENCH_REAL_DATA names no folder", file=sys.stderr)
    print(f"{'reader':16s} {'inputs':>8s} {'read':>8s} {'refused':>8s} {'s':>6s} {'slowest s':>10s} {'failed':>7s}")
    bad = 0
    for reader in [asked.reader] if asked.reader else readers.MODULES:
        began = time.monotonic()
        pair = Pair(asked.seed, reader, asked.inputs, asked.workers, asked.keep)
        pair.watch(began + asked.seconds)
        read, refused = (sum(getattr(one, name).value for one in pair.tallies) for name in ("read", "refused"))
        slowest = max(pair.tallies, key=lambda one: one.slowest.value)
        failed = pair.hung + pair.failed + len(list(asked.keep.glob(f"{reader}-*.why")))
        bad += failed
        print(
            f"{reader:16s} {read + refused:8d} {read:8d} {refused:8d} {time.monotonic() - began:6.0f} "
            f"{slowest.slowest.value:10.3f} {failed:7d}  (slowest: input {slowest.which.value})",
            flush=True,
        )
    if bad:
        print(f"# kept in {asked.keep}", file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
