"""A deterministic clock instead of a network: the test double of whole runs.

One process plays all ranks. A call costs latency * (rounds of a ring) + bytes on the wire / bandwidth, times
seeded log-normal noise that differs between ranks and samples. No figure of it is ever a measurement: the
clock is recorded as `simulated` and printed in every title.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commbench.collectives import COLLECTIVES, Check, Data, elements, encode, moved
from commbench.errors import Unsupported
from commbench.layouts import Groups
from commbench.records import Case

if TYPE_CHECKING:
    from commbench.backends.base import Times
    from commbench.world import World


class Simulated:
    """All ranks of a simulated world; latency in seconds, bandwidth in bytes/s, noise as a share."""

    timer = 1e-8

    def __init__(
        self,
        world: "World",
        latency: float = 5e-6,
        bandwidth: float = 10e9,
        noise: float = 0.02,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        if world.size != len(world.ranks):
            raise Unsupported("the simulated backend plays all ranks in one process; start it without a launcher")
        self._latency, self._bandwidth, self._noise, self._seed = latency, bandwidth, noise, seed
        self.facts = {"simulated": f"latency {latency:g} s, bandwidth {bandwidth:g} B/s, noise {noise:g}"}

    def prepare(self, case: Case, groups: Groups) -> "SimulatedOp":
        # Seeded by the question (and the launch): a case gives the same figures in any order, and in a resumed run.
        seed = np.random.default_rng([*self._seed, int(case.key, 16)])
        return SimulatedOp(case, groups, self._latency, self._bandwidth, self._noise, seed)

    def close(self) -> None:
        pass


class SimulatedOp:
    clock = "simulated"
    proof = ""

    def __init__(
        self,
        case: Case,
        groups: Groups,
        latency: float,
        bandwidth: float,
        noise: float,
        random: np.random.Generator,
    ) -> None:
        self._case, self._groups, self._noise, self._random = case, groups, noise, random
        if COLLECTIVES[case.op].reduces:
            Data(case.op, case.dtype, case.redop, 1, 0, 1)  # refuses what has no meaning
        self._ranks = [rank for group in groups for rank in group]
        seconds = []
        for group in groups:
            n = len(group)
            factor = COLLECTIVES[case.op].factor
            wire = moved(case.op, case.nbytes, case.dtype, n) * (factor(n) if factor else 0.0)
            seconds += [latency * max(1, math.ceil(math.log2(n))) + wire / bandwidth] * n
        self._seconds = np.array(seconds)[:, None]

    def run(self, samples: int, calls: int) -> "Times":
        shape = (len(self._ranks), samples)
        noise = self._random.normal(0.0, self._noise / math.sqrt(calls), shape)
        return np.asarray(self._seconds * np.exp(np.abs(noise)))

    def check(self) -> Sequence[Check]:
        """The data passes through the dtype and back, which proves that every value is represented exactly."""
        out = []
        for group in self._groups:
            n = len(group)
            count = min(elements(self._case.op, self._case.nbytes, self._case.dtype, n), 4096)
            for rank in range(n):
                data = Data(self._case.op, self._case.dtype, self._case.redop, n, rank, count, self._case.root)
                out.append(data.verify(_perfect(data)))
        return out

    def close(self) -> None:
        pass


def _perfect(data: Data) -> "Callable[[int, int], NDArray[Any]]":
    """What an errorless network would have left in the receive buffer."""
    return lambda start, stop: encode(data.expected(start, stop), data.dtype)
