"""What `commbench tune` is worth through the emitted file: all-reduce by default and with it, and the wire's limit.

On a lab: the search (or --read a folder of one), `commbench emit --for env` with the library's own rules file, then
sweeps with and without it in turn. That the file is obeyed is seen in the bits of sums of floats: each algorithm adds
in an order of its own, and those of the tuned job must be those of the algorithm set by hand, and not the default's.
Run by a Python with the Open MPI wheel it tunes Open MPI, by one with MPICH's it tunes MPICH.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
from pathlib import Path

import _common as common

from commbench import emit, store
from commbench.emit import mpich
from commbench.emit.target import Place, proven
from commbench.lab.client import lab
from commbench.measure.launch import LAUNCHERS
from commbench.model import wire
from commbench.records import recommendation as records
from commbench.spec import topology
from commbench.stats.rows import rows as stats_rows
from commbench.tune.candidates import Settings
from commbench.tune.rules import pick

SPEC = """backend: mpi
collectives: all_reduce
sizes: {sizes}
budget: {budget}
"""
JOB = """
import hashlib, sys
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
for nbytes in map(int, sys.argv[1:]):
    give, take = np.random.default_rng(comm.rank).standard_normal(nbytes // 4).astype("f"), np.zeros(nbytes // 4, "f")
    comm.Allreduce(give, take)
    if comm.rank == 0:
        print(nbytes, hashlib.sha256(take.tobytes()).hexdigest(), flush=True)
"""
COMMBENCH = [sys.executable, "-m", "commbench"]


def called(command: list[str], more: dict[str, str]) -> str:
    return common.run(command, env={**os.environ, **more})


def variables(folder: Path, out: Path) -> dict[str, str]:
    """Of the emitted file, which is written first."""
    found = records.read(folder)
    for name, text in emit.emit(found, "env", Place(out, "env.sh", mpich.installed(sys.executable))).items():
        (out / name).write_text(text)
    told = subprocess.run(
        ["sh", "-c", '. "$1"; env -0', "sh", str(out / "env.sh")], env={}, capture_output=True, check=True
    )
    pairs = (entry.split("=", 1) for entry in told.stdout.decode().split("\0") if "=" in entry)
    return {name: value for name, value in pairs if name not in ("PWD", "SHLVL", "_")}


def by_hand(settings: Settings) -> dict[str, str]:
    """The variables that set an algorithm for all sizes."""
    own = {name if name.startswith("MPIR_") else f"OMPI_MCA_{name}": value for name, value in settings}
    if any(name.startswith("OMPI_") for name in own):
        return own | {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1"}
    return own | {"MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE": "0", "MPIR_CVAR_DEVICE_COLLECTIVES": "percoll"}


def digests(given: argparse.Namespace, nbytes: list[int], more: dict[str, str]) -> dict[int, str]:
    with lab(topology.load(given.lab)) as net:
        net.script()
        job = LAUNCHERS["mpirun"](given.n, [sys.executable, "-c", JOB, *map(str, nbytes)], ("mpi",), ())
        printed = called(net.command(job), more)
    return {int(line.split()[0]): line.split()[1] for line in printed.splitlines() if line.strip()[:1].isdigit()}


def main() -> None:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--lab", default="star4", help="topology")
    parser.add_argument("-n", type=int, default=4, help="ranks")
    parser.add_argument("--sizes", default="1MiB..16MiB x2")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--read", type=Path, metavar="DIR", help="a search that is done")
    given = parser.parse_args()
    on = ["-n", str(given.n), "--lab", given.lab]
    with common.scratch() as scratch:
        folder = given.read or scratch / "tuned"
        if given.read is None:
            (scratch / "tune.yaml").write_text(SPEC.format(sizes=given.sizes, budget=given.budget))
            print(called([*COMMBENCH, "tune", str(scratch / "tune.yaml"), *on, "--out", str(folder)], {}))
        found = records.read(folder)
        rules = [rule for rule in found.rules if proven(rule)]
        if not rules:
            sys.exit(f"nothing to compare: {found.keep_default}")
        tuned = variables(folder, scratch)
        nbytes = sorted({m.nbytes for m in store.load(folder)[1]})
        ruled = [size for size in nbytes if pick(rules, "all_reduce", given.n, size)]
        seen = {
            "default": digests(given, nbytes, {}),
            "tuned": digests(given, nbytes, tuned),
        }
        for size in ruled:
            hand = digests(given, [size], by_hand(pick(rules, "all_reduce", given.n, size)))[size]
            same, other = seen["tuned"][size] == hand, hand != seen["default"][size]
            word = (
                "in effect"
                if same and other
                else "in effect, or not: its bits are the default's"
                if same
                else "NOT in effect"
            )
            print(f"# {common.size_name(size)}: {word}")
        (scratch / "sweep.yaml").write_text(
            f"backend: mpi\nop: all_reduce\nsizes: {list(nbytes)}\nstop: {{max_time: 1s}}\n"
        )
        rounds: dict[str, list[dict[int, float]]] = {"default": [], "tuned": []}
        least: dict[int, float | None] = {}
        for k in range(given.repeats):
            for side in list(rounds)[:: 1 if k % 2 == 0 else -1]:
                common.note(f"round {k + 1} of {given.repeats}: {side}")
                out = scratch / f"{side}-{k}"
                called([*COMMBENCH, "sweep", str(scratch / "sweep.yaml"), *on, "--quiet", "--out", str(out)],
                       tuned if side == "tuned" else {})  # fmt: skip
                run, rows = store.load(out)
                least = {row.nbytes: row.wire_us for row in wire.with_limits(stats_rows(rows), run.machine)}
                rounds[side].append({m.nbytes: statistics.median(m.seconds) for m in rows if m.status == "ok"})
    table = []
    figures = {}
    for size in nbytes:
        ratios = common.Ratios([r[size] for r in rounds["default"]], [r[size] for r in rounds["tuned"]])
        middle = {side: statistics.median(r[size] for r in each) for side, each in rounds.items()}
        limit = (least[size] or 0.0) * 1e-6 / middle["tuned"]
        rule = " ".join(f"{name}={value}" for name, value in pick(rules, "all_reduce", given.n, size))
        table.append((common.size_name(size), f"{middle['default'] * 1e3:.1f}", f"{middle['tuned'] * 1e3:.1f}",
                      *ratios.cells(), f"{limit:.0%}", rule or "default"))  # fmt: skip
        figures[size] = {**ratios.plain(), **middle, "wire": limit, "rule": rule}
    common.table(("size", "default ms", "tuned ms", "least", "ratio", "most", "wire", "rule"), table)
    common.finish(given.json, {"all_reduce": figures, "sha256": hashlib.sha256(records.encode(found)).hexdigest()})


if __name__ == "__main__":
    main()
