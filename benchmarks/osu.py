"""commbench's mpi backend beside the C program of the OSU Micro-Benchmarks, and a plain mpi4py loop.

All three are started by the same mpirun with the same options: 2 ranks, all_reduce, float32, sum, out of
place, one call after a barrier, as many samples each. Compared is P50 as OSU defines it: the median over
iterations of the mean over ranks (for 2 ranks that is commbench's slowest rank minus half the skew).

A whole run sits at another level now and then (where its pages and cores happened to be), hence one ratio
for each round and the median of these.
"""

import re
import statistics
import sys
from pathlib import Path
from typing import Any

import _common as common

LIMITS = {8: 0.05, 2**20: 0.02}  # what commbench promises
WARMUP = 20
WORDS = {
    "osu": "OSU, C",
    "commbench": "commbench, mean over ranks",
    "slowest": "commbench, slowest rank",
    "mpi4py": "plain mpi4py loop",
}
Figures = dict[str, dict[int, float]]  # microseconds by what was taken and by size


def p50(values: list[float]) -> float:
    """OSU's, in microseconds: of an even number of values the lower middle one."""
    return sorted(values)[round(len(values) / 2) - 1] * 1e6


def ladder(sizes: tuple[int, ...]) -> list[int]:
    """All that OSU measures on the way: each program meets the same sizes in the same order."""
    return [sizes[0] << power for power in range((sizes[-1] // sizes[0]).bit_length())]


def osu(program: Path, sizes: tuple[int, ...], samples: int) -> Figures:
    sweep = ["-m", f"{sizes[0]}:{sizes[-1]}", "-T", "mpi_float", "-f", "-z"]
    options = [*sweep, "-i", str(samples), "-x", str(WARMUP)]
    printed = common.run(common.ranks("mpirun", 2, [str(program), *options]))
    lines = printed.splitlines()
    head = next((line for line in lines if "P50" in line), None)
    if head is None:
        sys.exit(f"{program} printed no P50 (OSU 7.x prints it with -z):\n{printed}")
    # `# Size  Avg Latency(us)  ...  Iterations  P50 Tail Lat(us)`: two or more blanks part the columns
    column = next(k for k, name in enumerate(re.split(r"\s{2,}", head.strip("# "))) if "P50" in name)
    return {"osu": {int(row[0]): float(row[column]) for row in map(str.split, lines) if row and row[0].isdigit()}}


def commbench(sizes: tuple[int, ...], samples: int) -> Figures:
    grid = ["backend=mpi", "op=all_reduce", "in_place=false", f"sizes={sizes[0]}B..{sizes[-1]}B x2"]
    how = ["mode=latency", "order=as_given", *common.exactly(samples)]
    found: Figures = {"commbench": {}, "slowest": {}}
    for row in common.sweep("latency", [*grid, *how]):
        mean = [slow - skew / 2 for slow, skew in zip(row.seconds, row.skew, strict=True)]
        found["commbench"][row.nbytes], found["slowest"][row.nbytes] = p50(mean), p50(list(row.seconds))
    return found


def python(sizes: tuple[int, ...], samples: int) -> Figures:
    what = [str(samples), str(WARMUP), *map(str, ladder(sizes))]
    script = [sys.executable, str(common.HERE / "bare_mpi4py.py"), *what]
    found = common.last_json(common.run(common.ranks("mpirun", 2, script)))
    return {"mpi4py": {int(size): p50(seconds) for size, seconds in found.items()}}


def main() -> None:
    parser = common.parser(__doc__, repeats=7)
    parser.add_argument(
        "--osu", type=Path, required=True, help="path of the C program osu_allreduce, built for this MPI"
    )
    parser.add_argument("--sizes", type=common.sizes, default=(8, 2**20), help="bytes, powers of two times the first")
    parser.add_argument("--samples", type=int, default=1000, help="samples a run (default 1000)")
    given = parser.parse_args()
    sizes, samples = given.sizes, given.samples
    if not given.osu.is_file():
        parser.error(f"--osu: there is no {given.osu}")
    if any(size % sizes[0] or (size // sizes[0]).bit_count() != 1 for size in sizes):
        parser.error("--sizes: OSU doubles the size; give powers of two times the smallest one")
    sides = {
        "osu": lambda: osu(given.osu, sizes, samples),
        "commbench": lambda: commbench(sizes, samples),
        "mpi4py": lambda: python(sizes, samples),
    }
    runs = common.interleaved(sides, given.repeats)
    rounds = [{name: us for side in each for name, us in side.items()} for each in zip(*runs.values(), strict=True)]
    figures: dict[str, dict[str, Any]] = {}
    rows, verdicts = [], []
    for size in sizes:
        base = [one["osu"][size] for one in rounds]
        for name, words in WORDS.items():
            here = [one[name][size] for one in rounds]
            ratios = common.Ratios(here, base)
            figures[f"{name} {size}"] = {"us": here, "ratios": ratios.plain()}
            shown = ("", "", "") if name == "osu" else ratios.cells()
            rows.append((f"{common.size_name(size)} {words}", f"{statistics.median(here):.3f}", *shown))
            if name == "commbench":
                verdicts.append(f"{common.size_name(size)} {ratios.verdict(LIMITS.get(size, 0.05))}")
    print(f"MPI all_reduce, 2 ranks, P50 of {samples} samples, {given.repeats} rounds; ratios to OSU by round")
    common.table(("", "median us", "ratio min", "median", "max"), rows)
    print("OSU prints hundredths of a microsecond; the slowest rank is what commbench reports by itself.")
    print(f"Verdict (commbench against OSU, mean over ranks): {'; '.join(verdicts)}")
    common.finish(given.json, figures)


if __name__ == "__main__":
    main()
