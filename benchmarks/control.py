"""What it costs the ranks to agree after a batch of samples, by the number of ranks.

An agreement is one reduction of the whole batch (the slowest and the fastest rank of every sample) and one
broadcast of rank 0's word: take so many more samples, or stop. It happens between batches, never inside a
sample. Measured on commbench's own control channel: over MPI under mpirun, over Gloo under torchrun.
"""

import os
import statistics
import sys
from typing import Any

import _common as common


def agree(launcher: str, count: int, agreements: int, samples: int) -> dict[str, float]:
    script = [
        sys.executable,
        str(common.HERE / "control_rank.py"),
        str(agreements),
        str(samples),
        common.MEASURED[launcher],
    ]
    found: dict[str, float] = common.last_json(common.run(common.ranks(launcher, count, script)))
    return found


def main() -> None:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--ranks", type=common.sizes, default=(2, 4, 8, 16), help="under mpirun (default 2,4,8,16)")
    parser.add_argument("--torch-ranks", type=common.sizes, default=(2, 4), help="under torchrun (default 2,4)")
    parser.add_argument("--samples", type=int, default=20, help="samples in a batch (default 20)")
    parser.add_argument("--agreements", type=int, default=200, help="agreements a run (default 200)")
    given = parser.parse_args()
    worlds = [("mpirun", count) for count in given.ranks] + [("torchrun", count) for count in given.torch_ranks]
    sides = {
        f"{launcher} {count}": lambda launcher=launcher, count=count: agree(
            launcher, count, given.agreements, given.samples
        )
        for launcher, count in worlds
    }
    runs = common.interleaved(sides, given.repeats)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows: list[tuple[str, ...]] = []
    figures: dict[str, Any] = {}
    for launcher, count in worlds:
        each = runs[f"{launcher} {count}"]
        first = runs[f"{launcher} {next(n for name, n in worlds if name == launcher)}"]
        both = [one["both"] for one in each]
        ratios = common.Ratios(both, [one["both"] for one in first])
        parts = [f"{statistics.median(one[name] for one in each):.1f}" for name in ("slowest", "share", "both")]
        a_sample = f"{statistics.median(both) / given.samples:.2f}"
        shown = ("", "", "") if each is first else ratios.cells()
        shared = "time slices" if count > cores else ""
        rows.append((f"{launcher} {count} ranks", *parts, a_sample, *shown, shared))
        figures[f"{launcher} {count}"] = {"us": each, "ratios": ratios.plain()}
    print(f"One agreement over {given.samples} samples, {given.repeats} rounds; microseconds, medians")
    head = ("", "reduce", "share", "both", "a sample", "ratio min", "median", "max", "")
    common.table(head, rows)
    print(f"{cores} cores: ranks beyond them wait for each other's time slices, which is what those rows show.")
    own = [f"{launcher} {count} ranks" for launcher, count in worlds if count <= cores]
    told = [f"{row[0]} {row[3]} us" for row in rows if row[0] in own]
    print(f"Verdict: an agreement takes {', '.join(told) or 'time slices: no row has a core for each rank'}")
    common.finish(given.json, figures)


if __name__ == "__main__":
    main()
