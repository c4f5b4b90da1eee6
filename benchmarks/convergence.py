"""The time until every point of a spec has a 2 % interval, against fixed iteration counts for all points.

Each policy is one whole sweep. Sampling time is the sum over points of samples x calls x seconds a call;
wall is the whole command, with start-up, warm-up and data checks. The half-width of a point is that of the
95 % interval of its median, as a share of the median; the last column is the widest of them.
"""

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import _common as common
import numpy as np

from commbench.stats.summary import median_interval

TIGHT, LOOSE = 0.02, 0.05


class Outcome(NamedTuple):
    """One sweep under one policy; times in seconds."""

    sampling: float
    wall: float
    samples: list[int]
    widths: list[float]  # infinite where there is no interval

    def reached(self, share: float) -> int:
        return sum(width <= share for width in self.widths)


def measure(spec: str, overrides: Sequence[str]) -> Outcome:
    start = time.perf_counter()
    rows = common.sweep(spec, overrides)
    wall = time.perf_counter() - start
    widths = []
    for row in rows:
        middle, low, high = median_interval(np.array([row.seconds]))
        width = float((high - low)[0] / 2 / middle[0])
        widths.append(math.inf if math.isnan(width) else width)
    sampling = sum(row.calls * sum(row.seconds) for row in rows)
    return Outcome(sampling, wall, [len(row.seconds) for row in rows], widths)


def plain(one: Outcome) -> dict[str, Any]:
    """For JSON, which has no infinity."""
    return one._asdict() | {"widths": [width if math.isfinite(width) else None for width in one.widths]}


def percent(width: float) -> str:
    return f"{width:.1%}" if math.isfinite(width) else "none"


def main() -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--spec", default="quick", help="path or name (default quick)")
    parser.add_argument("--counts", type=common.sizes, default=(20, 100, 1000), help="samples (default 20,100,1000)")
    parser.add_argument("--max-time", default="60s", help="sampling time a point may take for 2 %% (default 60s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of the spec")
    given = parser.parse_args()
    rules = {"until 2 %": [f"stop.ci={TIGHT:.0%}", f"stop.max_time={given.max_time}", "stop.max_samples=100000"]}
    for count in given.counts:
        rules[f"{count} samples"] = common.exactly(count)
    policies = {name: (lambda rule=rule: measure(given.spec, [*given.set, *rule])) for name, rule in rules.items()}
    runs = common.interleaved(policies, given.repeats)
    adaptive = runs["until 2 %"]
    points = len(adaptive[0].widths)
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    for name, each in runs.items():
        ratios = common.Ratios([one.sampling for one in each], [one.sampling for one in adaptive])
        typical = [statistics.median(values) for values in zip(*((o.sampling, o.wall) for o in each), strict=True)]
        reached = [int(statistics.median(one.reached(share) for one in each)) for share in (TIGHT, LOOSE)]
        counts = sorted(count for one in each for count in one.samples)
        spread = f"{counts[0]}/{statistics.median(counts):.0f}/{counts[-1]}"
        widest = statistics.median(max(one.widths) for one in each)
        shown = ("", "", "") if name == "until 2 %" else ratios.cells()
        rows.append(
            [
                name,
                *(f"{seconds:.1f}" for seconds in typical),
                *shown,
                spread,
                *map(str, reached),
                percent(widest),
            ]
        )
        figures[name] = {"runs": [plain(one) for one in each], "sampling_ratios": ratios.plain()}
    print(f"{given.spec}, {points} points, 2 ranks, {given.repeats} rounds; medians over rounds")
    head = (
        "policy",
        "sampling s",
        "wall s",
        "ratio min",
        "median",
        "max",
        "samples",
        "<=2 %",
        "<=5 %",
        "widest",
    )
    common.table(head, rows)
    print("ratio: sampling time over that of `until 2 %`, by round; samples: fewest/median/most of a point.")
    print(f"Verdict: {verdict(runs, points)}")
    common.finish(given.json, figures)


def verdict(runs: dict[str, list[Outcome]], points: int) -> str:
    adaptive, *fixed = runs.items()
    worst = min(one.reached(TIGHT) for one in adaptive[1])
    all_or = "every point" if worst == points else f"{worst} of {points} points (the others used up their time)"
    took = statistics.median(one.sampling for one in adaptive[1])
    parts = [f"2 % for {all_or} took {took:.1f} s of sampling"]
    for name, each in fixed:
        ratio = statistics.median(a.sampling / b.sampling for a, b in zip(each, adaptive[1], strict=True))
        reached = int(statistics.median(one.reached(TIGHT) for one in each))
        parts.append(f"{name}: {ratio:.2g} times that for {reached} of {points}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
