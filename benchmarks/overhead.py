"""What commbench costs outside the calls it measures: start-up, the rest of a sweep, showing a large run.

start-up   `commbench --help` and `commbench show` of a small run, beside a Python that does nothing
sweep      `quick` on 2 ranks, with every step of rank 0 timed from the first case to the last; the whole
           command's wall time more than that is imports, rendezvous and the end
large run  `commbench show` of a run folder of 100,000 measurements of 20 samples each
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import _common as common
import numpy as np

from commbench import __version__, store
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.spec import load

HELP, SHOW = 0.2, 3.0  # seconds that commbench promises
CALLS = "barrier and calls"
COMMBENCH = [sys.executable, "-m", "commbench"]
OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
SIZES, GROUPS, SAMPLES = 25, 1000, 20


def folder_of(where: Path, groups: int) -> Path:
    """A run of 4 collectives x 25 sizes on the two ranks of each of `groups` hosts: one row a group."""
    hosts = tuple(Host(name=f"node{index:04d}") for index in range(groups))
    machine = Machine(hosts=hosts, host_of=tuple(rank // 2 for rank in range(2 * groups)), launcher="none")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    spec = json.loads(json.dumps(load("quick").canonical()))
    run = Run(
        format=store.FORMAT,
        name="large",
        created=now,
        commbench=__version__,
        seed=0,
        spec=spec,
        machine=machine,
    )
    journal = store.create(where, run)
    random = np.random.default_rng(0)
    for op in OPS:
        for power in range(SIZES):
            case = Case(op=op, backend="gloo", nbytes=8 << power, groups="node")
            seconds = (1e-5 + case.nbytes / 1e9) * np.exp(0.05 * random.standard_normal((groups, SAMPLES)))
            skew = seconds * random.random((groups, SAMPLES)) / 10
            slow = random.integers(0, 2, (groups, SAMPLES))
            journal.append(
                [
                    Measurement(
                        case=case,
                        group=group,
                        ranks=2,
                        nbytes=case.nbytes,
                        seconds=rounded(seconds[group]),
                        skew=rounded(skew[group]),
                        slowest=tuple((2 * group + slow[group]).tolist()),
                        calls=20,
                        warmup=60,
                        wrong=0,
                        stopped="ci",
                    )
                    for group in range(groups)
                ]
            )
    journal.close()
    return where


def rounded(values: Any) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def start_up(small: Path, large: Path, repeats: int) -> tuple[dict[str, Any], list[str]]:
    sides: dict[str, Callable[[], float]] = {
        "python -c pass": lambda: common.timed([sys.executable, "-c", "pass"]),
        "commbench --help": lambda: common.timed([*COMMBENCH, "--help"]),
        "commbench show, 200 measurements": lambda: common.timed([*COMMBENCH, "show", str(small)]),
        "commbench show, 100,000 measurements": lambda: common.timed([*COMMBENCH, "show", str(large)]),
    }
    runs = common.interleaved(sides, repeats)
    base = runs["python -c pass"]
    rows = []
    for name, seconds in runs.items():
        cells = ("", "", "") if seconds is base else common.Ratios(seconds, base).cells()
        rows.append((name, f"{statistics.median(seconds):.3f}", *cells))
    common.table(("start to end", "median s", "ratio min", "median", "max"), rows)
    verdicts = []
    for name, limit in (("commbench --help", HELP), ("commbench show, 100,000 measurements", SHOW)):
        took = statistics.median(runs[name])
        verdicts.append(f"{name} {took:.2f} s ({'under' if took < limit else 'NOT under'} {limit} s)")
    return dict(runs), verdicts


def one_sweep(arguments: list[str]) -> dict[str, float]:
    """Seconds of every step on rank 0, and of the whole command."""
    with common.scratch() as folder:
        script = [
            sys.executable,
            str(common.HERE / "timed_sweep.py"),
            str(folder / "steps.json"),
            "sweep",
            "quick",
        ]
        start = time.perf_counter()
        common.run(common.ranks("torchrun", 2, [*script, "--quiet", "--out", str(folder / "run"), *arguments]))
        wall = time.perf_counter() - start
        steps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    seconds = {name: float(took) for name, (_, took) in steps.items()}
    return seconds | {"start and end": wall - sum(seconds.values())}


def sweep(repeats: int, overrides: list[str]) -> tuple[dict[str, Any], str]:
    sides = {"quick": lambda: one_sweep([f"--set={item}" for item in overrides])}
    runs = common.interleaved(sides, repeats)["quick"]
    names = sorted(runs[0], key=lambda name: -statistics.median(one[name] for one in runs))
    rows = []
    for name in names:
        shares = sorted(one[name] / sum(one.values()) for one in runs)
        cells = [f"{share:.1%}" for share in (shares[0], statistics.median(shares), shares[-1])]
        rows.append((name, f"{statistics.median(one[name] for one in runs):.3f}", *cells))
    print("\nwall time of `quick` on 2 ranks, by what rank 0 does (waiting for the other rank included)")
    common.table(("step", "median s", "share min", "median", "max"), rows)
    outside = sorted(1 - one[CALLS] / (sum(one.values()) - one["start and end"]) for one in runs)
    middle = statistics.median(outside)
    told = f"{middle:.1%} of a sweep ({outside[0]:.1%} to {outside[-1]:.1%}) is outside calls and barriers"
    return {"seconds": runs, "outside": outside}, told


def main() -> None:
    parser = common.parser(__doc__, repeats=7)
    parser.add_argument("--sweeps", type=int, default=3, help="sweeps of quick (default 3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of quick")
    parser.add_argument("--part", choices=("start-up", "sweep"), help="only one half of it")
    given: argparse.Namespace = parser.parse_args()
    figures: dict[str, Any] = {}
    verdicts: list[str] = []
    if given.part != "sweep":
        with common.scratch() as folder:
            common.note("writing a run of 100,000 measurements")
            small, large = folder_of(folder / "small", 2), folder_of(folder / "large", GROUPS)
            figures["start_up"], verdicts = start_up(small, large, given.repeats)
    if given.part != "start-up":
        figures["sweep"], told = sweep(given.sweeps, given.set)
        verdicts.append(told)
    print(f"Verdict: {'; '.join(verdicts)}")
    common.finish(given.json, figures)


if __name__ == "__main__":
    main()
