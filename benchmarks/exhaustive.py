"""The search against trying everything, on real traffic: regret and the share of the trials that it took.

Each collective is measured on a lab with every candidate at every size in every round, interleaved and in random
order. The exhaustive search takes, for each size, the candidate with the least mean time in `--rounds` of them. Our
search runs over the same rounds: a trial that it asks for is the one that was measured. Both choices are then compared
in `--later` rounds more, which neither saw: regret is the time under our rules over that of the exhaustive choice, less
one, weighted alike over sizes. Again and again, with other seeds and other rounds left for later.

    python benchmarks/exhaustive.py --lab star4 -n 4 --out /tmp/star4
    python benchmarks/exhaustive.py --read /tmp/star4         the figures again, without measuring
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np

from commbench import store
from commbench.jobs import inside
from commbench.jobs.request import Request, Watcher
from commbench.lab import launch as lab_launch
from commbench.lab.client import lab
from commbench.measure import launch
from commbench.records import Case, Measurement
from commbench.spec import grid, topology
from commbench.spec.tune import TuneSpec, load
from commbench.tune.candidates import Settings
from commbench.tune.evidence import Point, Trials, centre
from commbench.tune.recommend import racing
from commbench.tune.rules import find, pick
from commbench.tune.search import Search
from commbench.world.discover import discover

SPEC = Path(__file__).with_name("exhaustive.yaml")


class Everything:
    """The plan: in each round every candidate of every size, sizes and candidates in random order."""

    def __init__(self, cases: Sequence[Case], race: dict[str, list[Settings]], rounds: int) -> None:
        self.round, self._random = -1, random.Random("everything")
        self._script = [
            (k, [with_settings(case, s) for s in self._random.sample(race[case.op], len(race[case.op]))])
            for k in range(rounds)
            for case in self._random.sample(list(cases), len(cases))
        ]

    def ask(self) -> Sequence[Case]:
        if not self._script:
            return []
        self.round, batch = self._script.pop(0)
        return batch

    def tell(self, answers: Sequence[Measurement]) -> None:
        pass


def with_settings(case: Case, settings: Settings) -> Case:
    return msgspec.structs.replace(case, settings=settings)


def measure(spec: TuneSpec, out: Path, rounds: int) -> int:
    """One rank's part."""

    def conduct(bench: inside.Bench) -> int:
        race = {op: [c.settings for c in found] for op, found in racing(spec, bench.machine).items()}
        plan = Everything(grid.cases(spec.sweep, bench.machine.host_of), race, rounds)
        journal = inside.begin(bench.request, bench.machine)
        bench.opened(journal)
        bench.control(None)

        class Sink:
            def append(self, rows: Sequence[Measurement]) -> None:
                journal.append([msgspec.structs.replace(row, launch=plan.round) for row in rows])

        bench.run(plan, Sink(), lambda rows: None)
        journal.close()
        return 0

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    request = Request(spec.sweep, out, False, now, tuple(sys.argv), now=time.time, also=spec.also)
    watcher = Watcher(lambda total, expected: None, lambda rows: None, lambda text: print(text, file=sys.stderr))
    return inside.work(request, discover(os.environ), watcher, conduct)


def replay(spec: TuneSpec, folder: Path, op: str, seeds: int, later: int) -> dict[str, float]:
    """Regret and shares of trials of searches over what was measured, in the mean over seeds."""
    run, rows = store.load(folder)
    rows = [row for row in rows if row.case.op == op and not row.control]
    race = {op: racing(spec, run.machine)[op]}
    made: dict[Case, int] = {}
    for row in rows:
        made[row.case] = max(made.get(row.case, 0), row.launch + 1)
    rounds = min(made.values())  # whole ones, where the measuring was cut off
    rows = [row for row in rows if row.launch < rounds]
    whole = Trials(rows)
    points = sorted(whole.logs, key=lambda point: point.case.nbytes)
    by_trial = {(row.case, row.launch): row for row in rows}
    void = {settings for point, settings in whole.void}
    found: dict[str, list[float]] = {"regret": [], "worst": [], "share": [], "default": [], "time": []}
    cost = {key: float(sum(row.seconds)) * max(row.calls, 1) for key, row in by_trial.items()}
    for seed in range(seeds):
        order = random.Random(seed).sample(range(rounds), rounds)
        seen, unseen = order[later:], order[:later]
        search = Search([point.case for point in points], race, ranks=run.machine.size, seed=seed,
                        options=spec.options._replace(rounds=len(seen)))  # fmt: skip
        told: list[Measurement] = []
        while batch := search.ask():
            answers = [by_trial[case, seen[search.round % len(seen)]] for case in batch]
            told += search.numbered(answers)
            for answer in answers:
                search.tell([answer])
        rules = find(told, race, options=spec.options)
        regrets, defaults = [], []
        for point in points:
            tried = [s for s in whole.logs[point] if s not in void]
            times = {s: _ratio(whole, point, s, unseen) for s in tried}
            best = min(tried, key=lambda s: _ratio(whole, point, s, seen))
            chosen = pick(rules, op, run.machine.size, whole.about[point][1])
            regrets.append(float(np.expm1(times[chosen] - times[best])))
            defaults.append(float(np.expm1(times[()] - times[best])))
        found["regret"].append(statistics.mean(regrets))
        found["worst"].append(max(regrets))
        found["default"].append(statistics.mean(defaults))
        found["share"].append(len(told) / len(rows) * rounds / len(seen))
        found["time"].append(
            sum(cost[row.case, seen[row.launch % len(seen)]] for row in told) / sum(cost.values()) * rounds / len(seen)
        )
    return {name: statistics.mean(values) for name, values in found.items()} | {
        "worst_search": max(found["regret"]), "sizes": len(points), "candidates": len(race[op]), "rounds": rounds,
        "void": len(void),
    }  # fmt: skip


def _ratio(trials: Trials, point: Point, settings: Settings, rounds: Sequence[int]) -> float:
    """log(time / the default's) in these rounds; 0 for the default."""
    mine, base = trials.logs[point][settings], trials.logs[point][()]
    return centre(np.array([mine[k] - base[k] for k in rounds if k in mine and k in base]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", default="star4", help="topology")
    parser.add_argument("-n", type=int, default=4, help="ranks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of exhaustive.yaml")
    parser.add_argument("--rounds", type=int, default=17, help="that the searches see")
    parser.add_argument("--later", type=int, default=5, help="rounds in which their choices are compared")
    parser.add_argument("--seeds", type=int, default=20, help="searches over what was measured")
    parser.add_argument("--out", type=Path, help="folder for the trials")
    parser.add_argument("--read", type=Path, help="a folder that was measured before")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    spec = load(str(SPEC), given.set)
    if given.rank:
        sys.exit(measure(spec, given.out, given.rounds + given.later))
    folder = given.read or given.out
    if given.read is None:
        with lab(topology.load(given.lab)) as net:
            net.script()
            command = lab_launch.argv(net, "mpirun", given.n, [], ("mpi",))
            at = len(command) - 1 - command[::-1].index("-m")  # of commbench itself, not of the lab's agent
            again = [f"--set={item}" for item in given.set]
            own = [
                __file__,
                "--rank",
                "--out",
                str(folder),
                "--rounds",
                str(given.rounds),
                "--later",
                str(given.later),
                *again,
            ]
            journal = folder / "journal.jsonl"
            ended = launch.run(
                [*command[:at], *own], lambda: journal.stat().st_size if journal.exists() else 0, 300.0, print
            )
            if ended.code:
                sys.exit(f"exit {ended.code}: {' | '.join(ended.tail)}")
    print(f"{'collective':15} sizes cand. rounds void  regret  worst size  worst search  default's  trials   time")
    told = {}
    for op in spec.sweep.cases[0].op:
        one = told[op] = replay(spec, folder, op, given.seeds, given.later)
        print(
            f"{op:15} {one['sizes']:5} {one['candidates']:5} {one['rounds']:6} {one['void']:4} {one['regret']:7.2%} "
            f"{one['worst']:11.2%} {one['worst_search']:13.2%} {one['default']:10.1%} {one['share']:7.1%} "
            f"{one['time']:6.1%}"
        )
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
