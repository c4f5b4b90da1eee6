"""What the benchmarks share: interleaved repetitions, tables, ratios with a verdict, starting commands."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from commbench import store
from commbench.measure.launch import LAUNCHERS, argv, choose
from commbench.records import Measurement
from commbench.spec import load
from commbench.stats.summary import low_rank

HERE = Path(__file__).parent
MEASURED = {"mpirun": "mpi", "torchrun": "gloo"}
T = TypeVar("T")


def parser(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=repeats, help=f"interleaved repetitions (default {repeats})")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    return made


def sizes(text: str) -> tuple[int, ...]:
    """`8,1048576`, ascending."""
    return tuple(sorted({int(part) for part in text.split(",")}))


def interleaved(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Runs each side `repeats` times: A B, B A, A B, ... so that drift meets all sides alike.

    Place k of each list belongs to the same round: ratios are taken round by round.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    for k in range(repeats):
        order = list(sides) if k % 2 == 0 else list(sides)[::-1]
        for name in order:
            note(f"round {k + 1} of {repeats}: {name}")
            found[name].append(sides[name]())
    return found


def note(sentence: str) -> None:
    print(f"# {sentence}", file=sys.stderr, flush=True)


def run(command: Sequence[str], timeout: float = 3600.0, env: Mapping[str, str] | None = None) -> str:
    """What the command prints; one that fails ends the benchmark with its last lines."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-15:]
        sys.exit("\n".join((f"{' '.join(command)}\nended with {done.returncode}:", *last)))
    return done.stdout


def timed(command: Sequence[str]) -> float:
    """Seconds that the whole command takes."""
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


def exactly(samples: int) -> list[str]:
    """Overrides of a spec: this many samples of every point, whatever they say and however long they take."""
    return [f"stop.max_samples={samples}", f"stop.min_samples={samples}", "stop.max_time=1h"]


def ranks(launcher: str, count: int, command: Sequence[str]) -> list[str]:
    """The command on `count` ranks, started as `commbench sweep -n` starts those that measure MPI or Gloo."""
    return LAUNCHERS[launcher](count, command, [MEASURED[launcher]], ())


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="commbench-") as name:
        yield Path(name)


def sweep(spec: str, overrides: Sequence[str]) -> list[Measurement]:
    """The measurements of `commbench sweep SPEC` on 2 ranks."""
    with scratch() as folder:
        again = ["sweep", spec, "--quiet", "--out", str(folder / "run"), *(f"--set={item}" for item in overrides)]
        backends = load(spec, overrides).backends
        run(argv(choose(backends, os.environ), 2, again, backends))
        rows = store.load(folder / "run")[1]
    for row in rows:
        if row.status != "ok":
            sys.exit(f"{row.case.op} {row.nbytes} B: {row.status}: {row.why}")
    return rows


def last_json(printed: str) -> Any:
    """What a rank printed as its last line; libraries may print above it."""
    return json.loads(printed.strip().splitlines()[-1])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())


class Ratios:
    """One figure over another, round by round."""

    def __init__(self, over: Sequence[float], under: Sequence[float]) -> None:
        self.each = sorted(a / b for a, b in zip(over, under, strict=True))
        self.median = statistics.median(self.each)
        rank = low_rank(len(self.each), 0.95)
        self.interval = (self.each[rank - 1], self.each[-rank]) if rank else None

    def cells(self) -> tuple[str, str, str]:
        return f"{self.each[0]:.3f}", f"{self.median:.3f}", f"{self.each[-1]:.3f}"

    def verdict(self, limit: float) -> str:
        """Whether the median ratio is within `limit` of 1 (0.02 is 2 %), and whether these rounds are certain of it."""
        word = "within" if abs(self.median - 1) <= limit else "NOT within"
        if self.interval is None:
            return f"{word} {limit:.0%} (ratio {self.median:.3f}; {len(self.each)} rounds are too few for an interval)"
        low, high = self.interval
        inside, outside = 1 - limit <= low <= high <= 1 + limit, high < 1 - limit or low > 1 + limit
        sure = "" if inside or outside else ", not certain"
        return f"{word} {limit:.0%}{sure} (ratio {self.median:.3f}, 95 % interval {low:.3f} to {high:.3f})"

    def plain(self) -> dict[str, Any]:
        return {"each": self.each, "median": self.median, "interval": self.interval}


def size_name(nbytes: int) -> str:
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if nbytes % unit == 0:
            return f"{nbytes // unit} {name}"
    return f"{nbytes} B"


def finish(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Writes the figures where --json asked for it."""
    if path:
        here = {"cores": os.cpu_count(), "load": os.getloadavg()}
        path.write_text(
            json.dumps({"command": sys.argv, "machine": here, **figures}, indent=1) + "\n", encoding="utf-8"
        )
