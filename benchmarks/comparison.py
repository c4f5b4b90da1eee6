"""How often `commbench compare` is wrong, and what it finds: pairs of tables drawn from known distributions.

A pair is two runs of one machine: 20 sizes, 5 launches a side, 30 samples. The log of a sample is the row's level,
plus what the launch does to all sizes, plus what it does to this size, plus noise that lasts (AR(1)); some samples
are outliers. The columns:

  false alarms   tables of two equal sides in which a row, or all rows together, is called faster or slower
  misses         tables in which not all simultaneous intervals hold the truth, whatever the minimum effect
  rows found     rows called slower where every row of NEW is slower by the shift
  tables found   such tables in which a row, or all rows together, is called slower (and nothing faster)
  same           rows of two equal sides that are called the same
  sd             of the launch medians, from launch to launch: what a user sees as `between_us` in show --json

In brackets: 95 % intervals of the share (Clopper and Pearson), from the number of pairs.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commbench.stats.compare import verdicts
from commbench.stats.history import change_points
from commbench.stats.ratios import table_ratios

Floats = NDArray[np.float64]


class Noise(NamedTuple):
    """What a world is like. Standard deviations on a log scale; `common`: share of the launch variance all sizes share.

    `spread` is how much rows differ in their launch sd (standard deviation of its log), `lasting` the correlation
    of one sample with the next, `outliers` the share of samples that take 1.5 to 5 times as long.
    """

    launch: float = 0.01
    common: float = 0.5
    within: float = 0.025
    lasting: float = 0.5
    outliers: float = 0.02
    spread: float = 0.3
    sizes: int = 20
    launches: tuple[int, int] = (5, 5)
    samples: int = 30
    heavy: bool = False  # launch effects from Student's t with 3 degrees of freedom
    noisier: float = 1.0  # how much larger the launch sd of NEW is


SETTINGS: dict[str, Noise] = {
    "launch sd 1 %": Noise(),
    "launch sd 1 %, samples 5 %": Noise(within=0.05),
    "launch sd 2 %": Noise(launch=0.02),
    "launch sd 3 %": Noise(launch=0.03),
    "sd 3 %, all sizes together": Noise(launch=0.03, common=1.0),
    "sd 3 %, each size alone": Noise(launch=0.03, common=0.0),
    "sd 2 %, sizes very unequal": Noise(launch=0.02, spread=1.0),
    "sd 2 %, samples AR(1) 0.9": Noise(launch=0.02, lasting=0.9),
    "sd 2 %, heavy tails": Noise(launch=0.02, heavy=True, outliers=0.1),
    "sd 2 %, NEW twice as noisy": Noise(launch=0.02, noisier=2.0),
    "sd 2 %, 3 launches": Noise(launch=0.02, launches=(3, 3)),
    "sd 2 %, 2 launches": Noise(launch=0.02, launches=(2, 2)),
    "sd 2 %, 10 and 2 launches": Noise(launch=0.02, launches=(10, 2)),
    "sd 2 %, 10 and 2, NEW 2 x sd": Noise(launch=0.02, launches=(10, 2), noisier=2.0),
    "sd 2 %, 5 and 1 launch": Noise(launch=0.02, launches=(5, 1)),
    "sd 2 %, 1 size": Noise(launch=0.02, sizes=1),
    "sd 2 %, 3 sizes": Noise(launch=0.02, sizes=3),
    "sd 2 %, 100 sizes": Noise(launch=0.02, sizes=100),
}


def side(noise: Noise, launches: int, launch_sd: Floats, rng: np.random.Generator) -> Floats:
    """Log medians, sizes x launches."""
    shape = (noise.sizes, launches)

    def unit(shape: tuple[int, ...]) -> Floats:
        return rng.standard_t(3, shape) / math.sqrt(3) if noise.heavy else rng.normal(size=shape)

    effect = math.sqrt(noise.common) * unit((1, launches)) + math.sqrt(1 - noise.common) * unit(shape)
    noises = np.empty((*shape, noise.samples))
    fresh = rng.normal(size=noises.shape)
    noises[..., 0] = fresh[..., 0]
    for k in range(1, noise.samples):
        noises[..., k] = noise.lasting * noises[..., k - 1] + math.sqrt(1 - noise.lasting**2) * fresh[..., k]
    noises *= noise.within
    noises += (rng.random(noises.shape) < noise.outliers) * np.log(rng.uniform(1.5, 5, noises.shape))
    return launch_sd[:, None] * effect + np.median(noises, axis=-1)


def pairs(noise: Noise, count: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        sd = noise.launch * np.exp(rng.normal(0, noise.spread, noise.sizes) - noise.spread**2)
        yield (side(noise, noise.launches[0], sd, rng), side(noise, noise.launches[1], sd * noise.noisier, rng))


class Outcome(NamedTuple):
    """Shares of tables and of rows, as the columns are described above."""

    alarms: float
    missed: float
    rows: float
    tables: float
    same: float
    sd: float


def study(noise: Noise, count: int, shift: float, min_effect: float, seed: int) -> Outcome:
    told = np.array([judge(base, new, shift, min_effect) for base, new in pairs(noise, count, seed)])
    return Outcome(*told.mean(axis=0).tolist())


def judge(base: Floats, new: Floats, shift: float, min_effect: float) -> Outcome:
    """One table, as compare judges it: equal, and with NEW slower by the shift."""
    ratio, half, together = table_ratios(base, new)
    ratios, halves = np.append(ratio, together[:1]), np.append(half, together[1:])
    equal = verdicts(ratios, halves, min_effect)
    slower = verdicts(ratios + math.log1p(shift), halves, min_effect)
    return Outcome(
        alarms="faster" in equal or "slower" in equal,
        missed=bool((np.abs(ratios) > halves).any()),
        rows=slower[:-1].count("slower") / len(ratio),
        tables="slower" in slower and "faster" not in slower,
        same=equal[:-1].count("same") / len(ratio),
        sd=float(np.sqrt(np.mean(base.var(axis=1, ddof=1)))),
    )


def histories(count: int, days: int, seed: int) -> tuple[float, float]:
    """Shares of histories of 20 rows: with a change point where there is none, and with one at the right date alone
    where 14 rows are 10 % slower from then on. sd 2 %, half of the variance common to all rows."""
    alarms = found = 0
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        logs = 0.02 * math.sqrt(0.5) * (rng.normal(size=(20, days)) + rng.normal(size=(1, days)))
        alarms += bool(change_points(logs, min_effect=1e-9, seed=k))
        at = int(rng.integers(4, days - 3))
        logs[:14, at:] += math.log(1.1)
        found += list(change_points(logs, seed=k)) == [at]
    return alarms / count, found / count


def binomial_interval(share: float, count: int) -> tuple[float, float]:
    """Clopper and Pearson's at 95 %."""
    from scipy.special import betaincinv

    k = round(share * count)
    low = float(betaincinv(k, count - k + 1, 0.025)) if k else 0.0
    return low, float(betaincinv(k + 1, count - k, 0.975)) if k < count else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000, help="tables a setting (default 1000)")
    parser.add_argument("--shift", type=float, default=0.05, help="what is to be found (default 0.05: 5 %%)")
    parser.add_argument("--min-effect", type=float, default=0.03, help="as in compare (default 0.03)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--histories", type=int, default=0, help="judge this many histories of 20 runs instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    asked = parser.parse_args()
    if asked.histories:
        alarms, found = histories(asked.histories, 20, asked.seed)
        low, high = binomial_interval(alarms, asked.histories)
        print(f"20 rows, 20 runs: false alarms {alarms:.1%} ({low:.1%} to {high:.1%})")
        print(f"a step of 10 % in 14 rows found at its date, and nothing else: {found:.1%}")
        return
    figures = {}
    heads = ("false alarms", "misses", "rows found", "tables found", "same", "sd")
    print(f"{'':30}{heads[0]:>23}{heads[1]:>23}{heads[2]:>12}{heads[3]:>14}{heads[4]:>8}{heads[5]:>7}")
    for name, noise in SETTINGS.items():
        if asked.only not in name:
            continue
        out = study(noise, asked.pairs, asked.shift, asked.min_effect, asked.seed)
        cells = []
        for share in (out.alarms, out.missed):
            low, high = binomial_interval(share, asked.pairs)
            cells.append(f"{share:.1%} ({low:.1%} to {high:.1%})")
        line = (
            f"{name:30}{cells[0]:>23}{cells[1]:>23}{out.rows:>12.1%}{out.tables:>14.1%}{out.same:>8.1%}{out.sd:>7.1%}"
        )
        print(line, flush=True)
        figures[name] = {**noise._asdict(), **out._asdict()}
    if asked.json:
        asked.json.write_text(json.dumps({"pairs": asked.pairs, "shift": asked.shift, "settings": figures}, indent=1))


if __name__ == "__main__":
    main()
