"""How tests of pairs scatter on real traffic, beside what the simulated fabric draws.

    python benchmarks/localisation/residuals.py RUN...        folders of commbench accept
    python benchmarks/acceptance.py --only healthy --keep DIR          makes some

A residual is the logarithm of a test's time over what it should have been; in a healthy run it is noise alone. The
scale is the median distance from the middle of residuals up to the upper quartile, / 0.6745, as of a normal
distribution; tails are told in that scale. `slow` is the share of tests beyond 4 of it, `again` how often the next test
of one of its two hosts was slow too.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fabric import KINDS, Fabric, Faults, Noise

from commbench import matchings, store
from commbench.accept.fit import fit
from commbench.accept.hunt import Hunt
from commbench.accept.locate import Fleet, Options, Seen
from commbench.accept.observe import fleet_of, meetings, racks_of
from commbench.accept.pairtests import columns
from commbench.jobs.verdict import spec_of

_FAR = 4.0
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_HOSTS, _SEEDS = 8, 40


class Residuals(NamedTuple):
    """Of the tests of bandwidth of one run, in their order, each kind of tests about its middle; a, b: their hosts."""

    r: np.ndarray
    a: np.ndarray
    b: np.ndarray


def residuals(fleet: Fleet, seen: list[Seen]) -> Residuals:
    here = np.ones(fleet.hosts, dtype=np.bool_)
    tests = columns(fleet, seen, here)
    found = fit(fleet, tests, Options(), here)
    r = found.excess.copy()
    for kind in np.unique(found.klass):
        r[found.klass == kind] -= np.median(r[found.klass == kind])
    return Residuals(r, tests.a, tests.b)


def measured(folder: Path) -> Residuals:
    run, rows = store.load(folder)
    fleet = fleet_of(run.machine, racks_of(run.machine, spec_of(folder).racks))
    pairs = [row for row in rows if row.case.op == "send_recv" and row.case.mode == "throughput"]
    return residuals(fleet, [one.seen for one in meetings(pairs, run.machine)])


def simulated(noise: Noise, seed: int) -> Residuals:
    fabric = Fabric(_HOSTS, Faults(), noise, seed)
    hunt, seen = Hunt(fabric.fleet, Options(seed=seed)), []
    while symbol := hunt.ask():
        meeting = matchings.parse(symbol)
        assert meeting is not None
        seen.append(fabric.meet(meeting))
        hunt.tell(seen[-1])
    return residuals(fabric.fleet, seen)


def line(name: str, runs: list[Residuals]) -> str:
    each = [one.r for one in runs]
    r = np.concatenate(each)
    scale = float(np.median(np.abs(r[r <= np.quantile(r, 0.75)]))) / 0.6745
    tails = " ".join(f"{value:7.1f}" for value in np.quantile(r, _QUANTILES) / scale)
    slow = follow = 0
    for own, one in zip(each, runs, strict=True):
        far = own > _FAR * scale
        slow += int(far.sum())
        for k in np.flatnonzero(far):
            for host in (one.a[k], one.b[k]):
                later = np.flatnonzero((one.a == host) | (one.b == host))
                later = later[later > k][:1]
                follow += bool(len(later) and far[later[0]])
    again = f"{follow / slow:6.0%}" if slow else "     -"
    return f"{name:34} {len(runs):4} {len(r):6} {scale:6.1%} {tails} {slow / len(r):6.1%} {again}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    given = parser.parse_args()
    quantiles = " ".join(f"{quantile:7.0%}" for quantile in _QUANTILES)
    print(f"{'':34} runs  tests  scale {quantiles}   slow  again")
    by_fabric: dict[str, list[Residuals]] = {}
    for folder in given.runs:
        fabric = store.load_run(folder).machine.fabric
        by_fabric.setdefault(fabric.name if fabric else "cluster", []).append(measured(folder))
    for name, runs in by_fabric.items():
        print(line(name, runs))
    for kind in KINDS:
        print(line(f"simulated: {kind}, 1.5 % and 1 %", [simulated(Noise(kind=kind), seed) for seed in range(_SEEDS)]))


if __name__ == "__main__":
    sys.exit(main())
