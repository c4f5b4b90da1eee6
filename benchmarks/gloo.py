"""commbench's gloo backend beside a bare torch loop, and beside PARAM's comms benchmark where that is given.

All are started by the same torchrun on 2 ranks: all_reduce, float32, sum, in place. commbench (mode
throughput) and the bare loop time blocks of as many calls behind a barrier; compared is the median block on
the slowest rank. PARAM reports one mean: its p50 is taken over the ranks, of each rank's mean over all
calls. It is therefore compared with commbench's mean over samples and ranks.

Gloo is heavy-tailed (a call may take several times the median), so one run says little: pair many.
"""

import os
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import _common as common

LIMITS = {2**20: 0.02}  # what commbench promises
WORDS = {
    "bare": "bare torch loop, median",
    "commbench": "commbench, median",
    "commbench mean": "commbench, mean over ranks",
    "param": "PARAM, mean over ranks",
}
PAIRS = (("commbench", "bare"), ("param", "commbench mean"))
Figures = dict[str, dict[int, float]]  # microseconds by what was taken and by size


class Sides:
    """The programs to compare. `calls`: what commbench last chose for a block; the bare loop follows."""

    def __init__(self, sizes: tuple[int, ...], samples: int, param: Path | None, python: str) -> None:
        self._sizes, self._samples, self._param, self._python = sizes, samples, param, python
        self.calls: dict[int, int] = {}

    def commbench(self) -> Figures:
        grid = [
            "backend=gloo",
            "op=all_reduce",
            "order=as_given",
            f"sizes=[{', '.join(map(str, self._sizes))}]",
        ]
        how = ["mode=throughput", *common.exactly(self._samples)]
        found: Figures = {"commbench": {}, "commbench mean": {}}
        for row in common.sweep("quick", [*grid, *how]):
            mean = statistics.mean(row.seconds) - statistics.mean(row.skew) / 2  # of 2 ranks
            found["commbench"][row.nbytes] = statistics.median(row.seconds) * 1e6
            found["commbench mean"][row.nbytes] = mean * 1e6
            self.calls[row.nbytes] = row.calls
        return found

    def bare(self) -> Figures:
        pairs = [f"{size}:{self.calls[size]}" for size in self._sizes]
        script = [sys.executable, str(common.HERE / "bare_gloo.py"), str(self._samples), *pairs]
        found = common.last_json(common.run(common.ranks("torchrun", 2, script)))
        return {"bare": {int(size): statistics.median(seconds) * 1e6 for size, seconds in found.items()}}

    def param(self) -> Figures:
        return {"param": {size: self._param_of(size) for size in self._sizes}}

    def _param_of(self, size: int) -> float:
        what = ["--backend", "gloo", "--device", "cpu", "--collective", "all_reduce", "--z", "1", "--c", "0"]
        much = [
            "--begin-size",
            str(size),
            "--end-size",
            str(size),
            "--w",
            "10",
            "--num_iters",
            str(10 * self._samples),
        ]
        module = [self._python, "-m", "param_bench.train.comms.pt.comms"]
        command = common.ranks("torchrun", 2, [*module, *what, *much, "--master-ip", "127.0.0.1"])
        printed = common.run(command, env={**os.environ, "PYTHONPATH": str(self._param)})
        row = re.search(rf"COMMS-RES-all_reduce-float32\s+{size}\s+\d+\s+([\d.]+)", printed)
        if row is None:
            sys.exit(f"PARAM printed no row of {size} bytes:\n{printed}")
        return float(row[1])


def main() -> None:
    parser = common.parser(__doc__, repeats=15)
    parser.add_argument("--sizes", type=common.sizes, default=(2**16, 2**20), help="bytes (default 65536,1048576)")
    parser.add_argument("--samples", type=int, default=50, help="blocks a run (default 50)")
    parser.add_argument("--param-root", type=Path, metavar="DIR", help="the folder that holds param_bench")
    parser.add_argument("--python", default=sys.executable, metavar="PY", help="the Python that PARAM runs with")
    given = parser.parse_args()
    sides = Sides(given.sizes, given.samples, given.param_root, given.python)
    common.note("a run before the first round: how many calls make a block")
    sides.commbench()
    programs = {"commbench": sides.commbench, "bare": sides.bare}
    if given.param_root:
        programs["param"] = sides.param
    runs = common.interleaved(programs, given.repeats)
    rounds = [{name: us for side in each for name, us in side.items()} for each in zip(*runs.values(), strict=True)]
    figures: dict[str, dict[str, Any]] = {}
    rows, verdicts = [], []
    for size in given.sizes:
        for name, words in WORDS.items():
            if name not in rounds[0]:
                continue
            here = [one[name][size] for one in rounds]
            figures[f"{name} {size}"] = {"us": here}
            cells = ("", "", "")
            for over, under in PAIRS:
                if name == over:
                    ratios = common.Ratios(here, [one[under][size] for one in rounds])
                    figures[f"{name} {size}"]["ratios"] = ratios.plain()
                    cells = ratios.cells()
                    if name == "commbench":
                        verdicts.append(f"{common.size_name(size)} {ratios.verdict(LIMITS.get(size, 0.05))}")
            rows.append((f"{common.size_name(size)} {words}", f"{statistics.median(here):.1f}", *cells))
    print(f"Gloo all_reduce, 2 ranks, {given.samples} blocks, {given.repeats} rounds; ratios by round")
    common.table(("", "median us", "ratio min", "median", "max"), rows)
    print("commbench's ratio is to the bare loop; PARAM's, both being means, to commbench's mean over ranks.")
    print(f"calls in a block: {', '.join(f'{common.size_name(s)}: {sides.calls[s]}' for s in given.sizes)}")
    print(f"Verdict (commbench against the bare loop): {'; '.join(verdicts)}")
    common.finish(given.json, figures)


if __name__ == "__main__":
    main()
