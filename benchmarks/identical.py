"""How often the search recommends something where there is nothing to find: real traffic, candidates that do nothing.

The default is Open MPI's ring, set for the whole process; the candidates are the same ring with a fan-out, which a ring
does not have. They are set, read back and proved as always, and cannot be faster. `--searches` of them run one after
another on the hosts of a lab, each with a seed and a budget of its own. At most one in twenty may recommend anything.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import _common as common

from commbench.jobs import inside
from commbench.jobs.request import Request, Watcher
from commbench.lab import launch as lab_launch
from commbench.lab.client import lab
from commbench.measure import launch
from commbench.records import Case, Measurement
from commbench.spec import grid, topology
from commbench.spec.tune import TuneSpec, load
from commbench.tune.recommend import racing
from commbench.tune.rules import find
from commbench.tune.search import Search
from commbench.tune.verdicts import describe
from commbench.world.discover import discover

SPEC = """
backend: mpi
collectives: all_reduce
sizes: [4KiB, 64KiB, 512KiB]
trial: {max_time: 20ms, max_samples: 20, warmup: 5ms}
catalogue: false
candidates: [{coll_tuned_allreduce_algorithm: ring, coll_tuned_allreduce_algorithm_tree_fanout: [2, 3, 4, 5, 6, 8]}]
"""
RING = {
    "OMPI_MCA_coll_han_priority": "0",
    "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
    "OMPI_MCA_coll_tuned_allreduce_algorithm": "ring",
}


class Many:
    """Several plans, one after another."""

    def __init__(self, plans: Sequence[Search]) -> None:
        self.plans, self.at = plans, 0

    def ask(self) -> Sequence[Case]:
        while self.at < len(self.plans):
            if asked := self.plans[self.at].ask():
                return asked
            self.at += 1
        return []

    def tell(self, answers: Sequence[Measurement]) -> None:
        self.plans[self.at].tell(answers)


def measure(spec: TuneSpec, out: Path, searches: int, budget: float) -> int:
    """One rank's part; rank 0 writes what each search found to `out`/found.txt."""

    def conduct(bench: inside.Bench) -> int:
        race = racing(spec, bench.machine)
        cases = grid.cases(spec.sweep, bench.machine.host_of)
        many = Many(
            [Search(cases, race, ranks=bench.machine.size, seed=seed, budget=budget) for seed in range(searches)]
        )
        told: list[list[Measurement]] = [[] for _ in range(searches)]
        journal = inside.begin(bench.request, bench.machine)

        class Sink:
            def append(self, rows: Sequence[Measurement]) -> None:
                told[many.at] += many.plans[many.at].numbered(rows)
                journal.append(many.plans[many.at].numbered(rows))

        bench.control(None)
        bench.run(many, Sink(), lambda rows: None)
        journal.close()
        with (out / "found.txt").open("w") as file:
            for seed, (rows, plan) in enumerate(zip(told, many.plans, strict=True)):
                rules = [rule for rule in find(rows, race, options=spec.options) if rule.settings]
                void = len(plan.trials.void)
                said = "; ".join(f"{describe(rule.settings)} {rule.gain:+.1%}" for rule in rules) or "nothing"
                print(f"{seed}\t{len(rules)}\t{sum(not r.control for r in rows)}\t{void}\t{said}", file=file)
        return 0

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    request = Request(spec.sweep, out, False, now, tuple(sys.argv), now=time.time, also=spec.also)
    watcher = Watcher(lambda total, expected: None, lambda rows: None, lambda text: print(text, file=sys.stderr))
    return inside.work(request, discover(os.environ), watcher, conduct)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", default="star4", help="topology")
    parser.add_argument("-n", type=int, default=4, help="ranks")
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--budget", type=float, default=15.0, help="seconds of a search")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with common.scratch() as scratch:
        (scratch / "identical.yaml").write_text(SPEC)
        if given.rank:
            spec = load(str(scratch / "identical.yaml"))
            sys.exit(measure(spec, given.rank, given.searches, given.budget))
        os.environ.update(RING)
        out = scratch / "run"
        with lab(topology.load(given.lab)) as net:
            net.script()
            command = lab_launch.argv(net, "mpirun", given.n, [], ("mpi",))
            at = len(command) - 1 - command[::-1].index("-m")  # of commbench itself, not of the lab's agent
            own = [__file__, "--rank", str(out), "--searches", str(given.searches), "--budget", str(given.budget)]
            journal = out / "journal.jsonl"
            ended = launch.run(
                [*command[:at], *own], lambda: journal.stat().st_size if journal.exists() else 0, 300.0, print
            )
        if ended.code:
            sys.exit(f"exit {ended.code}: {ended.why}")
        rows = [line.split("\t") for line in (out / "found.txt").read_text().splitlines()]
    common.table(("search", "rules", "trials", "void", "recommends"), rows)
    alarms = sum(int(row[1]) > 0 for row in rows)
    print(f"{alarms} of {len(rows)} searches recommend something (aim: at most 1 of 20)")
    common.finish(given.json, {"searches": rows, "alarms": alarms})
    sys.exit(alarms * 20 > len(rows))


if __name__ == "__main__":
    main()
