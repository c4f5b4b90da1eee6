"""The NCCL tuner plugin: what a decision costs, and that no file of settings can break it.

  decisions   nanoseconds through the tables v4, v5 and v6, the rewriting of NCCL's cost table included; the promise is
              200 ns: for any file where the first row that covers a size is taken, and where it is not (numPipeOps,
              regBuff, not allowed by NCCL), for files of up to 50 rows a collective
  fuzz        damaged, spliced, random, binary and huge files, read under AddressSanitizer (with its search for leaks)
              and UndefinedBehaviorSanitizer by all three tables; every row told as refused and every decision must be
              what a second reader, written in Python below, says
  threads     ThreadSanitizer over four threads that share a communicator and make their own

File number n of a seed is always the same; one that fails is kept in --keep. Needs a C compiler, and its sanitizers.
"""

import argparse
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from commbench.emit.build import build, compiler

DRIVER = Path(__file__).parent / "plugin_driver.c"
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
COLLECTIVES = (b"broadcast", b"reduce", b"allgather", b"reducescatter", b"allreduce")
ALGORITHMS = (b"tree", b"ring", b"collnet_direct", b"collnet_chain", b"nvls", b"nvls_tree", b"pat")
PROTOCOLS = (b"ll", b"ll128", b"simple")
LARGEST = 4 << 20  # bytes that the plugin reads
INVALID_USAGE = 5
TOLD = 8  # refused rows of a file that are told one by one
BATCH = 2_000
PROMISE = 200.0  # ns

# ---- the second reader


class Rule(NamedTuple):
    collective: int
    bytes: tuple[int, int]
    entry: int  # algorithm * 3 + protocol
    channels: int
    pipe_ops: tuple[int, int] | None
    registered: int | None


class Probe(NamedTuple):
    collective: int
    pipe_ops: int
    registered: int
    ignored: int  # a bit for each entry
    nbytes: int


def _number(text: bytes, most: int) -> int:
    if not re.fullmatch(rb"[0-9]+", text) or len(text.lstrip(b"0")) > 20 or int(text) > most:
        raise ValueError(text)
    return int(text)


def _span(text: bytes) -> tuple[int, int] | None:
    if text == b"-1":
        return None
    low, dash, high = text.partition(b"-")
    span = _number(low, 2**31 - 1), _number(high if dash else low, 2**31 - 1)
    if span[0] > span[1]:
        raise ValueError(text)
    return span


def _within(span: tuple[int, int] | None, value: int) -> bool:
    return span is None or span[0] <= value <= span[1]


def parse(line: bytes, ranks: int, nodes: int) -> Rule | None:
    """The row, None where it is for other communicators. ValueError: it is none."""
    field = [part.strip(b" \t") for part in line.split(b",")]
    if not 8 <= len(field) <= 10:
        raise ValueError(line)
    field += [b"-1"] * (10 - len(field))
    low, high = _number(field[1], 2**64 - 1), _number(field[2], 2**64 - 1)
    if low > high:
        raise ValueError(line)
    rule = Rule(
        COLLECTIVES.index(field[0]),
        (low, high),
        ALGORITHMS.index(field[3]) * 3 + PROTOCOLS.index(field[4]),
        0 if field[5] == b"-1" else _number(field[5], 64),
        _span(field[8]),
        None if field[9] == b"-1" else _number(field[9], 1),
    )
    here = [_within(_span(field[6]), nodes), _within(_span(field[7]), ranks)]
    return rule if all(here) else None


def expected(data: bytes, ranks: int, nodes: int, probes: list[Probe]) -> str:
    """The line that the driver must print."""
    if len(data) > LARGEST:
        return f"{INVALID_USAGE} 0"
    rules, refused = [], 0
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        row = line.removesuffix(b"\r").strip(b" \t")
        if row and not row.startswith(b"#"):
            try:
                rule = parse(row, ranks, nodes)
            except ValueError:
                refused += 1
            else:
                rules += [rule] if rule else []
    return " ".join([f"0 {min(refused, TOLD)}", *(decide(rules, probe) for probe in probes)])


def decide(rules: list[Rule], probe: Probe) -> str:
    for rule in rules:
        fits = rule.collective == probe.collective and rule.bytes[0] <= probe.nbytes <= rule.bytes[1]
        fits = fits and rule.registered in (None, probe.registered) and _within(rule.pipe_ops, probe.pipe_ops)
        if fits and not probe.ignored >> rule.entry & 1:
            return f"{rule.entry}:{rule.channels}"
    return "-1:0"


# ---- files

EVIL = (
    b"", b"-1", b"-2", b"0", b"1", b"64", b"65", b"+1", b"1.0", b"1e3", b"0x10", b"1-", b"-", b"2-8", b"8-2", b"1-2-3",
    b"2147483647", b"2147483648", b"4294967295", b"18446744073709551615", b"18446744073709551616", b"9" * 400,
    b"0" * 300 + b"8", b"LL", b"Ring", b"ALLREDUCE", b"all_reduce", b"ringg", b"rin", b"nvlstree", b"*", b"%s%n%n",
    b"%99999999d", b"\x00", b"ring\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\x1b]0;x\x07", b"\r", b"\t",
    b"\x0b", b"\x85", "１".encode(), b"#", b"# x", b'"', b"'", b",", b",,,", b",,,,,,,,,,,,", b"\n", b"\r\n",
    b"\n\n", b" ",
)  # fmt: skip


def size(rng: random.Random) -> int:
    return rng.choice((0, 1, 2**64 - 1, 2**63, rng.randrange(100), 1 << rng.randrange(64), rng.randrange(2**64)))


def row(rng: random.Random) -> bytes:
    low, high = sorted((size(rng), size(rng)))
    field = [
        rng.choice(COLLECTIVES), b"%d" % low, b"%d" % high, rng.choice(ALGORITHMS), rng.choice(PROTOCOLS),
        rng.choice((b"-1", b"0", b"%d" % rng.randint(1, 64))), *(rng.choice(SPANS) for _ in range(3)),
        rng.choice((b"-1", b"-1", b"0", b"1")),
    ][: rng.choice((8, 9, 10, 10))]  # fmt: skip
    if rng.random() < 0.15:
        field[rng.randrange(len(field))] = rng.choice(EVIL)
    if rng.random() < 0.03:
        field.insert(rng.randrange(len(field)), rng.choice(EVIL))
    return rng.choice((b",", b",", b" , ", b",\t")).join(field)


SPANS = (b"-1", b"-1", b"-1", b"1", b"2", b"1-2", b"2-16", b"16", b"0")


def damaged(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randint(0, len(data))
    end = min(len(data), begin + rng.choice((1, 8, 80, 800)))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:begin] + data[end:]
    if kind == 1:
        return data[:end] + data[begin:]
    if kind == 2:
        return data[:begin] + rng.choice(EVIL) + data[begin:]
    if kind == 3:
        return data[:begin] + rng.randbytes(end - begin) + data[end:]
    if kind == 4:
        return data[:begin]
    out = bytearray(data)
    for _ in range(rng.choice((1, 3, 30)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def made(seed: int, number: int) -> tuple[bytes, int, int, list[Probe]]:
    """File `number`: always the same."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.random()
    if kind < 0.05:
        data = rng.randbytes(rng.choice((0, 1, 3, 50, 5_000)))
    elif kind < 0.1:
        data = b"".join(rng.choice(EVIL + COLLECTIVES + ALGORITHMS + PROTOCOLS) for _ in range(rng.randrange(200)))
    else:
        lines = [row(rng) for _ in range(rng.choice((1, 3, 10, 30)))]
        if rng.random() < 0.3:
            lines.insert(rng.randint(0, len(lines)), rng.choice((b"# a comment", b"", b"  ", b"#", b"x" * 5_000)))
        data = rng.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines) + rng.choice((b"\n", b""))
        for _ in range(rng.choice((0, 0, 1, 2, 8))):
            data = damaged(data, rng)
    if rng.random() < 0.0005:  # up to and beyond what is read
        word = rng.choice((b"a", b",", b"\n", b"#", b"\x00", b"9", b"allreduce,", b"x\n", row(rng) + b"\n"))
        data = (data + word * (2 * LARGEST // len(word)))[: rng.choice((LARGEST // 8, LARGEST, LARGEST + 1))]
    edges = [int(text) for text in re.findall(rb"(?<![0-9])[0-9]{1,19}(?![0-9])", data[:5_000])] or [0]
    probes = [
        Probe(
            rng.choice((4, 4, rng.randrange(5), -1, 5, 2**31 - 1)) if rng.random() < 0.3 else rng.randrange(5),
            rng.choice((0, 1, 2, 3, 16)), rng.randrange(2), rng.choice((0, 0, 0x1FFFFF, rng.getrandbits(21))),
            (rng.choice(edges) + rng.choice((-1, 0, 1))) % 2**64 if rng.random() < 0.7 else size(rng),
        )
        for _ in range(8)
    ]  # fmt: skip
    return data, rng.choice((1, 2, 8, 16, 17, 4096)), rng.choice((1, 2, 3, 16)), probes


def frame(data: bytes, ranks: int, nodes: int, probes: list[Probe]) -> bytes:
    head = struct.pack("=4I", len(data), ranks, nodes, len(probes))
    return head + data + b"".join(struct.pack("=iiiIQ", p.collective, p.pipe_ops, p.registered, p.ignored, p.nbytes)
                                  for p in probes)  # fmt: skip


# ---- runs


def compile_all(folder: Path, flags: tuple[str, ...]) -> tuple[Path, Path]:
    """Driver and plugin, both with these flags."""
    driver = folder / "driver"
    command = [*compiler(), "-std=gnu11", "-O2", *flags, str(DRIVER), "-o", str(driver), "-ldl", "-pthread"]
    subprocess.run(command, check=True, timeout=120)
    return driver, build(folder, flags)


def batch(driver: Path, plugin: Path, seed: int, numbers: range, keep: Path) -> Iterator[int]:
    """The numbers of files that failed."""
    wanted = []
    with tempfile.TemporaryFile() as frames:
        for number in numbers:
            one = made(seed, number)
            frames.write(frame(*one))
            wanted.append(expected(*one))
        frames.seek(0)
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"}
        done = subprocess.run(
            [driver, "fuzz", plugin], stdin=frames, capture_output=True, text=True, env=environment, timeout=600,
            check=False,
        )  # fmt: skip
    said = done.stdout.splitlines()
    for number, line, want in zip(numbers, said, wanted, strict=False):
        if line != want:
            keep_one(keep, seed, number, f"the driver says  {line}\nthe second reader {want}\n")
            yield number
    if done.returncode:
        number = numbers[min(len(said), len(numbers) - 1)]
        keep_one(keep, seed, number, f"exit code {done.returncode}\n{done.stderr[-20_000:]}")
        yield number


def keep_one(keep: Path, seed: int, number: int, why: str) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{number}.csv").write_bytes(made(seed, number)[0])
    (keep / f"{number}.why").write_text(why)
    print(f"# file {number}: {why.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)


def fuzz(folder: Path, files: int, seed: int, keep: Path) -> dict[str, object]:
    driver, plugin = compile_all(folder, SANITIZERS)
    began, bad = time.monotonic(), []
    for first in range(0, files, BATCH):
        bad += batch(driver, plugin, seed, range(first, min(first + BATCH, files)), keep)
    taken = time.monotonic() - began
    print(f"fuzz       {files} files in {taken:.0f} s under AddressSanitizer and UBSan: {len(bad)} failed")
    return {"files": files, "failed": bad, "seconds": taken}


def scenarios() -> Iterator[tuple[str, bool, str]]:
    """What the file has, whether the promise is for it, and the file."""

    def rows(count: int, tail: str, of: str = "simple") -> str:
        return "".join(f"allreduce,{k * 2**16},{k * 2**16 + 2**16 - 1},ring,{of},{tail}\n" for k in range(count))

    yield "no row", True, "# nothing\n"
    yield "5 rows", True, rows(5, "4,-1,-1")
    yield "1,000 rows", True, rows(1_000, "4,-1,-1")
    yield "80,000 rows", True, rows(80_000, "4,-1,-1")
    last = "allreduce,0,18446744073709551615,tree,simple,-1,-1,-1\n"
    for count, promised in ((50, True), (1_000, False)):
        none = rows(count, "4,-1,-1", "ll128")
        yield f"{count:,} rows, none allowed by NCCL, then one that is", promised, none + last
        other = "".join(f"allreduce,0,{2**40},ring,simple,2,-1,-1,{k + 2}\n" for k in range(count))
        yield f"{count:,} rows for all sizes, all for another numPipeOps", promised, other


def decisions(folder: Path) -> dict[str, object]:
    driver, plugin = compile_all(folder, ())
    figures: dict[str, object] = {}
    print("processor time, ns: median and 90th percentile of 400 means over 4096 decisions; init in ms")
    kept = True
    for name, promised, text in scenarios():
        path = folder / "tuning.csv"
        path.write_text(text)
        done = subprocess.run([driver, "time", plugin, path], capture_output=True, text=True, check=True, timeout=120)
        lines = [line.split() for line in done.stdout.splitlines()]
        figures[name] = {f"v{version}": [float(p50), float(p90), float(init)] for version, p50, p90, init in lines}
        print(f"  {name}")
        for version, p50, p90, init in lines:
            kept = kept and (not promised or float(p50) < PROMISE)
            print(f"    v{version}  {float(p50):8.1f} {float(p90):8.1f}   init {float(init):.3f}")
    print(f"decisions  {'all below' if kept else 'NOT all below'} {PROMISE:g} ns where that is promised")
    return {"figures": figures, "kept": kept}


def threads(folder: Path) -> dict[str, object]:
    driver, plugin = compile_all(folder, ("-g", "-O1", "-fsanitize=thread"))
    path = folder / "tuning.csv"
    path.write_text(next(text for name, _, text in scenarios() if name == "1,000 rows"))
    done = subprocess.run([driver, "threads", plugin, path], capture_output=True, text=True, timeout=300, check=False)
    print(f"threads    ThreadSanitizer: {'no race' if done.returncode == 0 else done.stderr[-2_000:]}")
    return {"races": done.returncode != 0}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=100_000, help="files of the fuzz (default 100000; 0: none)")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--only", choices=("decisions", "fuzz", "threads"))
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "commbench-plugin")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    asked = options.parse_args()
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="commbench-plugin-") as scratch:
        if asked.only in (None, "decisions"):
            found["decisions"] = decisions(Path(scratch))
        if asked.only in (None, "fuzz"):
            found["fuzz"] = fuzz(Path(scratch), asked.files, asked.seed, asked.keep)
        if asked.only in (None, "threads"):
            found["threads"] = threads(Path(scratch))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    failed = found.get("fuzz", {}).get("failed") or found.get("threads", {}).get("races")
    return int(bool(failed) or not found.get("decisions", {}).get("kept", True))


if __name__ == "__main__":
    sys.exit(main())
