"""How often slow hosts, NICs, uplinks and paths are found on simulated fabrics, by commbench and as others look.

    python benchmarks/localisation                     all tables (an hour of two cores)
    python benchmarks/localisation --quick             few seeds, small fleets: a minute
    python benchmarks/localisation --part must --seeds 1000

A cell is `exact / innocent / rounds`: runs in which exactly the slow hosts were named, runs in which a healthy one was,
(both in %) and rounds of tests on average. The noise model is in fabric.py, the methods are in methods.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fabric import KINDS, Fabric, Faults, Noise
from methods import METHODS, Answer

from commbench.accept.locate import Key, Options

Make = Callable[[np.random.Generator], tuple[Faults, tuple[Key, ...]]]


class Cell(NamedTuple):
    part: str
    name: str
    method: str
    seeds: int
    exact: float
    innocent: float
    rounds: float
    undecided: float
    seconds: float

    @property
    def text(self) -> str:
        exact, innocent = (f"{100 * share:.1f}".removesuffix(".0") for share in (self.exact, self.innocent))
        return f"{exact} / {innocent} / {self.rounds:.1f}"


class Hosts(NamedTuple):
    """`slow` hosts of `size`, chosen by chance, lose `slowdown`; the method looks for that much, else for 10 %."""

    method: str
    size: int
    slow: int
    slowdown: float
    noise: Noise

    def run(self, seed: int) -> tuple[bool, bool, int, float]:
        """(exact, innocent, rounds, CPU seconds) of one fleet."""
        start = time.process_time()
        chosen = np.random.default_rng(10_000_000 + seed).choice(self.size, self.slow, replace=False).tolist()
        fabric = Fabric(self.size, Faults(hosts=dict.fromkeys(chosen, self.slowdown)), self.noise, seed)
        answer: Answer = METHODS[self.method](fabric, self.slowdown if self.slow else 0.1)
        innocent = bool(answer.slow - frozenset(chosen))
        return answer.slow == frozenset(chosen), innocent, answer.rounds, time.process_time() - start


def hosts(method: str, size: int, slow: int, slowdown: float, noise: Noise, seeds: int, part: str) -> Cell:
    """A cell of so many fleets, on all cores."""
    one = Hosts(method, size, slow, slowdown, noise)
    with ProcessPoolExecutor() as pool:
        exact, innocent, rounds, spent = np.array(list(pool.map(one.run, range(seeds), chunksize=8))).mean(axis=0)
    name = f"N={size} k={slow}" + (f" {slowdown:.0%}" if slow else " healthy")
    return Cell(part, name, method, seeds, float(exact), float(innocent), float(rounds), 0.0, float(spent))


def components(name: str, make: Make, size: int, noise: Noise, seeds: int, **shape: Any) -> Cell:
    """Other components than hosts; exact: these and nothing else, as the first choice among ties."""
    exact = innocent = rounds = undecided = 0
    start = time.process_time()
    for seed in range(seeds):
        faults, expected = make(np.random.default_rng(20_000_000 + seed))
        located, asked = Fabric(size, faults, noise, seed, **shape).hunt(Options(seed=seed))
        told = {found.key for found in located.found}
        exact += told == set(expected)
        innocent += bool(told - set(expected))
        rounds += asked
        undecided += bool(located.undecided)
    spent = (time.process_time() - start) / seeds
    return Cell(
        "components",
        name,
        "commbench",
        seeds,
        exact / seeds,
        innocent / seeds,
        rounds / seeds,
        undecided / seeds,
        spent,
    )


def one(kind: str, size: int, lost: float, racks: int = 1, rails: int = 1) -> Make:
    """A single fault of this kind somewhere."""

    def make(rng: np.random.Generator) -> tuple[Faults, tuple[Key, ...]]:
        host, rack, rail = (int(rng.integers(limit)) for limit in (size, racks, rails))
        other = (host + 1 + int(rng.integers(size - 1))) % size
        pair = min(host, other), max(host, other)
        if kind == "host":
            return Faults(hosts={host: lost}), (Key("host", (host,)),)
        if kind == "nic":
            return Faults(nics={(host, rail): lost}), (Key("nic", (host,), rail),)
        if kind == "path":
            return Faults(paths={pair: lost}), (Key("path", pair),)
        if kind == "uplink":  # of two racks nobody can tell which: the first stands for both
            return Faults(uplinks={rack: lost}), (Key("uplink", (), None, 0 if racks == 2 else rack),)
        return Faults(), ()

    return make


def both(size: int, lost: float, racks: int, rails: int) -> Make:
    """A NIC and an uplink at once."""

    def make(rng: np.random.Generator) -> tuple[Faults, tuple[Key, ...]]:
        host, rack, rail = (int(rng.integers(limit)) for limit in (size, racks, rails))
        return Faults(nics={(host, rail): lost}, uplinks={rack: lost}), (
            Key("nic", (host,), rail),
            Key("uplink", (), None, rack),
        )

    return make


def must(seeds: int) -> Iterator[Cell]:
    """What commbench has to reach, 1.5 % jitter and 1 % congestion."""
    for size, slow, slowdown in (
        (64, 0, 0.0), (256, 0, 0.0), (1024, 0, 0.0),
        (16, 1, 0.1), (64, 1, 0.1), (64, 3, 0.1), (256, 5, 0.1), (256, 20, 0.1),
        (1024, 1, 0.1), (1024, 20, 0.1), (1024, 20, 0.3), (4096, 0, 0.0), (4096, 20, 0.1), (4096, 20, 0.5),
    ):  # fmt: skip
        yield hosts("commbench", size, slow, slowdown, Noise(), seeds, "must")


def peers(seeds: int, quick: bool) -> Iterator[Cell]:
    cases = [(64, 1, 0.1), (256, 5, 0.1), (1024, 1, 0.1), (1024, 20, 0.1), (1024, 20, 0.3), (256, 0, 0.0)]
    for size, slow, slowdown in cases[:2] if quick else cases:
        for method in METHODS:
            yield hosts(method, size, slow, slowdown, Noise(), seeds, "peers")
    for kind in ("time", "heavy") if not quick else ():
        for size, slow in ((256, 5), (256, 0)):
            for method in METHODS:
                cell = hosts(method, size, slow, 0.1, Noise(kind=kind), seeds, "peers")
                yield cell._replace(name=f"{kind}: {cell.name}")


def slowdowns(seeds: int, quick: bool) -> Iterator[Cell]:
    for size, slow in ((16, 1), (64, 3)) if quick else ((16, 1), (64, 3), (256, 5), (1024, 20)):
        for slowdown in (0.05, 0.1, 0.2, 0.3, 0.5):
            yield hosts("commbench", size, slow, slowdown, Noise(), seeds, "slowdowns")


def noises(seeds: int, quick: bool) -> Iterator[Cell]:
    kinds = [Noise(0.015, eps, kind) for kind in KINDS for eps in (0.01, 0.03)] + [Noise(0.03, 0.01), Noise(0.05, 0.01)]
    for noise in kinds:
        for size, slow in ((64, 3),) if quick else ((64, 3), (256, 5), (256, 0)):
            cell = hosts("commbench", size, slow, 0.1, noise, seeds, "noises")
            yield cell._replace(name=f"{noise.kind}, jitter {noise.sigma:.1%}, congestion {noise.eps:.0%}: {cell.name}")


def parts(seeds: int, quick: bool) -> Iterator[Cell]:
    for size, lost in [(4, 0.3), (8, 0.3)] if quick else [(4, 0.2), (6, 0.2), (8, 0.2), (8, 0.5), (64, 0.2)]:
        noise = Noise(0.03, 0.01) if size < 64 else Noise()
        racks = 3 if size > 4 else 2
        shapes: list[tuple[str, Make, dict[str, Any]]] = [
            ("healthy, 2 racks, wire known", one("", size, 0), {"racks": 2, "wire": True}),
            ("healthy, 2 rails", one("", size, 0), {"rails": 2}),
            ("host", one("host", size, lost), {}),
            ("host, 2 racks, wire known", one("host", size, lost), {"racks": 2, "wire": True}),
            ("uplink, 2 racks, wire known", one("uplink", size, lost, 2), {"racks": 2, "wire": True}),
            ("NIC, 2 rails", one("nic", size, lost, 1, 2), {"rails": 2}),
        ]
        if racks == 3:
            shapes.append(("uplink, 3 racks", one("uplink", size, lost, 3), {"racks": 3}))
        if size <= 8:
            shapes.append(("path", one("path", size, lost), {}))
        else:
            shapes.append(("NIC, 8 rails", one("nic", size, lost, 4, 8), {"racks": 4, "rails": 8}))
            shapes.append(("NIC and uplink, 8 rails", both(size, lost, 4, 8), {"racks": 4, "rails": 8}))
        for name, make, shape in shapes:
            told = f"N={size} {name}" + ("" if "healthy" in name else f" {lost:.0%}")
            yield components(told, make, size, noise, max(seeds // (4 if "8 rails" in name else 1), 2), **shape)


def show(title: str, cells: Sequence[Cell]) -> None:
    print(f"\n{title}\n")
    methods = list(dict.fromkeys(cell.method for cell in cells))
    names = list(dict.fromkeys(cell.name for cell in cells))
    at = {(cell.name, cell.method): cell for cell in cells}
    head = ["case", *(methods if len(methods) > 1 else ["exact / innocent / rounds", "runs", "CPU s a run"])]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in names:
        row = [at[name, method].text for method in methods]
        if len(methods) == 1:
            cell = at[name, methods[0]]
            row += [f"{cell.seeds:,}", f"{cell.seconds:.2f}"]
        print("| " + " | ".join([name, *row]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="runs of a cell (default 200)")
    parser.add_argument("--quick", action="store_true", help="20 runs of a cell, small fleets only")
    parser.add_argument("--part", action="append", choices=("must", "peers", "slowdowns", "noises", "components"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    told = parser.parse_args()
    seeds = min(told.seeds, 20) if told.quick else told.seeds
    tables: dict[str, tuple[str, Iterator[Cell]]] = {
        "must": ("What has to be reached", must(seeds)),
        "peers": ("Methods, exact % / innocent % / rounds", peers(seeds, told.quick)),
        "slowdowns": ("Slowdowns, each looked for", slowdowns(seeds, told.quick)),
        "noises": ("Kinds of noise", noises(seeds, told.quick)),
        "components": ("Components", parts(seeds, told.quick)),
    }
    every: list[Cell] = []
    for part, (title, cells) in tables.items():
        if part in (told.part or tables):
            found = []
            for cell in cells:
                print(f"# {cell.name}: {cell.method}: {cell.text}", file=sys.stderr, flush=True)
                found.append(cell)
            show(title, found)
            every += found
    if told.json:
        told.json.write_text(json.dumps([cell._asdict() for cell in every], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
