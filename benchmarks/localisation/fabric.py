"""A simulated fabric: hosts with NICs, uplinks and paths, some of them slow, and noise of several kinds.

A test of some hosts reaches the lowest rate among what it uses. Every healthy part has rate 1, a slow one 1 - slowdown.
That is multiplied by jitter and, for every host that takes part, by congestion:

    jitter       lognormal, standard deviation `sigma` of the logarithm; `heavy`: Student's t with 3 degrees of freedom
                 of the same width, and congestion that leaves as little as a twentieth
    congestion   each host in each test with chance `eps`: what is left is uniform in 0.6 to 0.95 (`independent`);
                 it stays for 3 tests of the host on average, as many hosts at once (`time`);
                 it meets the 16 hosts of a leaf together, as often for each host (`leaf`)
    meeting      everything that is tested at the same time is faster or slower alike, by a tenth or so (`meeting`)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from commbench import matchings
from commbench.accept.hunt import Hunt
from commbench.accept.locate import Fleet, Located, Options, Seen
from commbench.accept.plan import AGAIN
from commbench.matchings import Meeting

KINDS = ("independent", "time", "leaf", "heavy", "meeting")
_LEAF = 16
_LASTS = 3
_FULL = 20


class Noise(NamedTuple):
    sigma: float = 0.015
    eps: float = 0.01
    kind: str = "independent"


class Faults(NamedTuple):
    """Share of the rate that is lost, by component."""

    hosts: Mapping[int, float] = MappingProxyType({})
    nics: Mapping[tuple[int, int], float] = MappingProxyType({})
    uplinks: Mapping[int, float] = MappingProxyType({})
    paths: Mapping[tuple[int, int], float] = MappingProxyType({})


class Fabric:
    """`hosts` hosts in `racks` equal racks; wire: what the wire allows is known (healthy pairs reach 95 % of it)."""

    def __init__(
        self, hosts: int, faults: Faults, noise: Noise, seed: int, racks: int = 1, rails: int = 1, wire: bool = False
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.rack = np.arange(hosts) * racks // hosts
        self.fleet = Fleet(hosts, tuple(self.rack.tolist()), rails)
        self.faults, self.noise, self.wire = faults, noise, wire
        self.nic = np.ones((hosts, rails))
        for host, lost in faults.hosts.items():
            self.nic[host] = 1 - lost
        for (host, rail), lost in faults.nics.items():
            self.nic[host, rail] = min(self.nic[host, rail], 1 - lost)
        self.uplink = np.ones(racks)
        for rack, lost in faults.uplinks.items():
            self.uplink[rack] = 1 - lost
        self._left = np.zeros(hosts, dtype=np.int64)
        self._share = np.ones(hosts)

    def congestion(self) -> np.ndarray:
        """What congestion leaves each host in the next round of tests."""
        hosts, eps = self.fleet.hosts, self.noise.eps
        worst = 0.05 if self.noise.kind == "heavy" else 0.6
        fresh = self.rng.uniform(worst, 0.95, hosts)
        if self.noise.kind == "leaf":
            hit = np.repeat(self.rng.random(hosts // _LEAF + 1) < eps, _LEAF)[:hosts]
            return np.where(hit, fresh, 1.0)
        if self.noise.kind != "time":
            return np.where(self.rng.random(hosts) < eps, fresh, 1.0)
        self._left = np.maximum(self._left - 1, 0)
        new = (self._left == 0) & (self.rng.random(hosts) < eps / _LASTS)
        self._left[new] = self.rng.geometric(1 / _LASTS, int(new.sum()))
        self._share[new] = fresh[new]
        return np.where(self._left > 0, self._share, 1.0)

    def jitter(self, shape: tuple[int, ...]) -> np.ndarray:
        shared = np.exp(self.rng.normal(0, 0.1)) if self.noise.kind == "meeting" else 1.0
        if self.noise.kind == "heavy":
            return np.exp(self.noise.sigma * np.clip(self.rng.standard_t(3, shape), -30, 30))
        return shared * np.exp(self.rng.normal(0, self.noise.sigma, shape))

    def meet(self, meeting: Meeting) -> Seen:
        """The pairs of a meeting at the same time."""
        pairs = np.array(meeting.pairs)
        rails = range(self.fleet.rails) if meeting.rail is None else (meeting.rail,)
        left = self.congestion()[pairs].min(axis=1)
        beyond = self.rack[pairs[:, 0]] != self.rack[pairs[:, 1]]
        up = np.where(beyond, self.uplink[self.rack[pairs]].min(axis=1), 1.0)
        for (a, b), lost in self.faults.paths.items():
            up = np.where((pairs[:, 0] == a) & (pairs[:, 1] == b), np.minimum(up, 1 - lost), up)
        rate = np.stack([np.minimum(self.nic[pairs, rail].min(axis=1), up) for rail in rails], axis=1)
        seconds = (1e-3 / (rate * left[:, None] * self.jitter(rate.shape))).ravel()
        return Seen(meeting, seconds, np.full(seconds.size, 0.95e-3) if self.wire else None)

    def groups(self, lists: "list[np.ndarray]") -> np.ndarray:
        """Rates of disjoint groups of hosts at the same time: each as its slowest member."""
        each = self.nic[:, 0] * self.congestion()
        rates = np.array([each[hosts].min() for hosts in lists])
        return rates * self.jitter(rates.shape)

    def hunt(self, options: Options) -> tuple[Located, int]:
        """(what commbench finds, rounds that it took). Between confirmation and the last look at those accused comes
        the full scale, which takes as long as `_FULL` rounds."""
        hunt, rounds = Hunt(self.fleet, options), 0

        def meet(symbol: str) -> int:
            meeting = matchings.parse(symbol)
            assert meeting is not None
            hunt.tell(self.meet(meeting))
            return 1

        while symbol := hunt.ask():
            rounds += meet(symbol)
        for _ in range(_FULL):
            self.congestion()
        since = hunt.met
        for _ in range(AGAIN):
            if symbol := hunt.again(since):
                rounds += meet(symbol)
        return hunt.located(), rounds
