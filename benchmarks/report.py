"""How long `commbench report` takes for 20 runs, and how large its page is.

The runs: those of results/example-*, and simulated sweeps of several collectives and layouts over 24 sizes, three
launches each. CPU is that of the whole command, start-up and imports included; it is what a slow machine waits for.
"""

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import _common as common

LIMIT_S, LIMIT_BYTES = 10.0, 3_000_000
EXAMPLES = sorted((common.HERE.parent / "results").glob("example-*"))
# What the simulated sweeps measure, in turn.
SWEEPS: tuple[dict[str, str], ...] = (
    {"op": "[all_reduce, all_gather, reduce_scatter]"},
    {"op": "[all_reduce, broadcast, all_to_all]"},
    {"groups": "[world, node, rail]"},
    {"op": "send_recv", "groups": "pairs", "sizes": "[8B, 1MiB]"},
)


def make(folder: Path, count: int) -> list[Path]:
    """`count` run folders: examples first, then simulated sweeps on 16 ranks."""
    made = []
    for k in range(count):
        run = folder / f"run{k:02}"
        if k < min(len(EXAMPLES), count // 2):
            shutil.copytree(EXAMPLES[k], run)
        else:
            simulate(run, SWEEPS[k % len(SWEEPS)], seed=k)
        made.append(run)
    return made


def simulate(run: Path, what: dict[str, str], seed: int) -> None:
    spec = run.with_suffix(".yaml")
    fields = {"backend": "simulated", "op": "all_reduce", "sizes": "8B..64MiB x2", "launches": "3", **what}
    fields |= {"name": f"simulated-{seed}", "seed": str(seed), "stop": "{max_samples: 100}"}
    spec.write_text("".join(f"{name}: {value}\n" for name, value in fields.items()), encoding="utf-8")
    common.run([sys.executable, "-m", "commbench", "sweep", str(spec), "-n", "16", "--quiet", "--out", str(run)])


def cpu(command: list[str]) -> float:
    """Seconds of CPU, user and system, of the command."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--runs", type=int, default=20, help="default 20")
    asked = parser.parse_args()
    with common.scratch() as folder:
        common.note(f"making {asked.runs} runs")
        runs = make(folder, asked.runs)
        page = folder / "report.html"
        command = [sys.executable, "-m", "commbench", "report", *map(str, runs), "-o", str(page)]
        seconds = [cpu(command) for _ in range(asked.repeats)]
        size, svgs = page.stat().st_size, page.read_text(encoding="utf-8").count('role="img"')
    middle = statistics.median(seconds)
    common.table(
        ("", "measured", "limit"),
        [
            ("CPU of the command, median (s)", f"{middle:.2f}", f"{LIMIT_S:.0f}"),
            ("the page (MB)", f"{size / 1e6:.2f}", f"{LIMIT_BYTES / 1e6:.0f}"),
            ("plots in it", str(svgs), "-"),
        ],
    )
    common.finish(asked.json, {"seconds": seconds, "bytes": size, "plots": svgs, "runs": asked.runs})
    sys.exit(0 if middle < LIMIT_S and size < LIMIT_BYTES else 1)


if __name__ == "__main__":
    main()
