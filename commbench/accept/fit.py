"""Slow tests explained: what is usual, how much tests scatter, and which components are slow, fitted in turns. Pure.

Three layers, each given what the one above it explains: uplinks (racks that meet), hosts and paths (pairs that meet; of
all rails together the middle one counts), NICs (each rail for itself).
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from commbench.accept.culprits import Problem, Weighed, explain, explained, weigh
from commbench.accept.noise import Noise, estimate, lasting
from commbench.accept.pairtests import BoolArray, FloatArray, IntArray, Tests, quantile
from commbench.accept.terms import Fleet, Options

_NORMAL = NormalDist()
_TURNS = 5
_WIDER = (
    2.5  # scatter over the median distance below what the better tests reach: 1.5 below the middle, 2.6 at their tail
)
_BEYOND = 0.05  # of log time: what is faster than the wire by more did not go through it
_DOUBT = 3.0  # nats against a host, from which its slow tests are not counted as congestion
_FEW = 6  # tests in a meeting
_SPARED = 0.4  # of the slowdown that matters
_KINDS = 3  # hosts, paths, and uplinks or NICs
_COMMON = 0.1  # share of a test's variance that all tests of two racks in a meeting have in common


class Layer(NamedTuple):
    """A problem and its solution: levels of the components, nats against each (at least 0).

    of: the problem's test that each row of the columns belongs to; -1: none.
    """

    problem: Problem
    level: FloatArray
    against: FloatArray
    of: IntArray

    def weighed(self, noise: Noise) -> Weighed:
        return weigh(self.problem, noise, self.level)


class Fit(NamedTuple):
    """tests        what was measured
    usual        one a class of tests: the usual y; klass: the class of each test
    lag          one a class: how much slower than the wire of the best kind allows, where that is a fault
    excess       one a test: y over what is usual for it (lag included)
    base         one a test: the level that is explained
    paths        (p, 2) pairs that met; links: (q, 3) pairs and rail
    """

    tests: Tests
    klass: IntArray
    usual: FloatArray
    lag: FloatArray
    excess: FloatArray
    base: FloatArray
    noise: Noise
    uplinks: Layer | None
    leaves: Layer | None
    hosts: Layer
    nics: Layer | None
    paths: IntArray
    links: IntArray


def spare(options: Options) -> float:
    """The level (log time) up to which nothing is blamed: hosts differ a little."""
    return -math.log1p(-_SPARED * options.slowdown)


def matters(options: Options) -> float:
    return -math.log1p(-options.slowdown)


def classes(tests: Tests) -> IntArray:
    """Tests that should take equally long: same kind, rail and company; across racks also equally many at once,
    where the wire does not say what company costs."""
    crowded = tests.crowd.max(initial=0)
    sparse = tests.across & ~tests.wire & (2 * tests.crowd < crowded)
    columns = np.stack([tests.across, tests.rail, tests.together, tests.wire, sparse], axis=1).astype(np.int64)
    return np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)


def _crowded(tests: Tests, klass: IntArray) -> IntArray:
    """One a class: the class of the same tests among many at once; itself where there is none."""
    _, first = np.unique(klass, return_index=True)
    alike = np.stack([tests.across, tests.rail, tests.together, tests.wire], axis=1)[first].astype(np.int64)
    key = np.unique(alike, axis=0, return_inverse=True)[1].reshape(-1)
    crowd = tests.crowd[first]
    best = np.array([np.flatnonzero(key == one)[crowd[key == one].argmax()] for one in key], dtype=np.int64)
    return best


class _Centre:
    """What is usual for each class of tests, and how much each meeting was off as a whole."""

    def __init__(self, tests: Tests, klass: IntArray, fleet: Fleet, options: Options) -> None:
        self.tests, self.klass = tests, klass
        self.meeting = np.unique(tests.seen, return_inverse=True)[1].reshape(-1)
        self.crowded = _crowded(tests, klass)
        self.count = np.bincount(self.meeting)
        self.events = np.array([len(np.unique(e)) for e in _split(tests.event, self.meeting)])
        self.usual = np.zeros(klass.max(initial=-1) + 1)
        self.off = np.zeros(len(self.count))
        self.sigma = self.first = 0.0
        if len(klass):
            self._begin(fleet, options)

    def _begin(self, fleet: Fleet, options: Options) -> None:
        """From each host's better tests: most hosts may not be slow, most tests may."""
        y, tests = self.tests.y, self.tests
        ends = np.concatenate([tests.a, tests.b])
        key, better = quantile(np.tile(y, 2), np.tile(self.klass, 2) * fleet.hosts + ends, 0.25)
        which, usual = quantile(better, key // fleet.hosts, 0.5)
        usual = self._proved(better, np.searchsorted(which, key // fleet.hosts), usual, options)
        across, rack = tests.across, np.asarray(fleet.rack_of, dtype=np.int64)
        if across.any():  # a slow uplink may be in most tests of most hosts: racks vote as well
            racks = int(rack.max()) + 1
            low, high = (np.sort(np.stack([rack[tests.a], rack[tests.b]]), axis=0) * across)[:, across]
            both, middle = quantile(y[across], (self.klass[across] * racks + low) * racks + high, 0.5)
            ends = np.concatenate([both // racks, both // racks**2 * racks + both % racks])
            key, better = quantile(np.tile(middle, 2), ends, 0.25)
            mine, votes = quantile(better, key // racks, 0.5)
            place = np.searchsorted(which, mine)
            usual[place] = np.minimum(usual[place], votes)
        self._add(which, usual)
        r = self.residual()
        fast = r < 0
        each = quantile(-r[fast], self.klass[fast], 0.5)[1] * _WIDER
        self.sigma = float(quantile(each, np.zeros(len(each), dtype=np.int64), 0.5)[1][0]) if len(each) else 0.0

    def _proved(self, better: FloatArray, klass: IntArray, usual: FloatArray, options: Options) -> FloatArray:
        """Where more than half of the hosts are slow against the wire, what the others reach is usual.

        At least two hosts and a tenth of them; none beyond the wire, which are neighbours of another kind.
        """
        first = np.unique(self.klass, return_index=True)[1]
        found = usual.copy()
        for one in np.flatnonzero(self.tests.wire[first] & (usual > -math.log1p(-max(options.slowdown, options.lag)))):
            mine = better[klass == one]
            fast = mine[(mine < usual[one] - matters(options)) & (mine > -_BEYOND)]
            if len(fast) >= max(2, 0.1 * len(mine)):
                found[one] = np.median(fast)
        return found

    def _add(self, which: IntArray, value: FloatArray) -> None:
        self.usual[which] += value
        # fewer at once are never slower for it: what looks so is the few that were asked about
        self.usual = np.minimum(self.usual, self.usual[self.crowded])

    def residual(self) -> FloatArray:
        return np.asarray(self.tests.y - self.usual[self.klass] - self.off[self.meeting])

    def again(self, free: BoolArray, noise: Noise, spare: float) -> None:
        """What is usual, from the tests that nothing explains and that are near it."""
        r = self.residual()
        used = free & (np.abs(r) < max(spare, 3 * max(noise.sigma, noise.sigma_across, self.sigma)))
        self._add(*quantile(r[used], self.klass[used], (1 - noise.eps) / 2, between=True))

    def shift(self, free: BoolArray, noise: Noise) -> None:
        """Which meetings were off as a whole: by a fast one (lower quarter) of the tests that nothing explains.

        After a first explanation: a few suspects that meet are no slow meeting. Shrunk by how much meetings differ.
        """
        self.off = np.zeros(len(self.count))
        which, low = quantile(self.residual()[free], self.meeting[free], 0.25)
        many = np.bincount(self.meeting[free], minlength=len(self.count))[which]
        place = (np.floor((many - 1) * 0.25) + 0.625) / (many + 0.25)  # where it lies among as many normal ones (Blom)
        total = low - noise.sigma * np.array([_NORMAL.inv_cdf(share) for share in place])
        middle = quantile(self.residual()[free], self.meeting[free], 0.5)[1]
        total = np.where(total > 0, total, np.minimum(middle, 0.0))  # a fast meeting is fast in most of its tests
        sure = (self.events[which] > 1) & ((many > 1) | (np.abs(total) < 3 * noise.sigma))
        # the scatter of a few tests is not told from what they share: there it is what it was without any shift
        self.first = self.first or noise.sigma
        own = 1.7 * np.where(many < _FEW, max(noise.sigma, self.first), noise.sigma) ** 2 / many
        common = (np.maximum(total**2 - own, 0.0)[sure].sum() + noise.sigma**2 / 4) / (sure.sum() + 1)
        self.off[which] = np.where(sure, total * common / (common + own), 0.0)


def _split(values: FloatArray | IntArray, key: IntArray) -> list[FloatArray]:
    order = np.argsort(key, kind="stable")
    return np.split(values[order], np.flatnonzero(np.diff(key[order])) + 1) if len(key) else []


def fit(fleet: Fleet, tests: Tests, options: Options, here: BoolArray) -> Fit:
    """here: one a host, whether it takes part."""
    klass = classes(tests)
    centre = _Centre(tests, klass, fleet, options)
    noise = Noise()
    base = np.zeros(len(tests.y))
    centre.again(base == 0, noise, spare(options))
    lasts, doubted = noise.lasts, np.zeros(len(tests.y), dtype=np.bool_)
    spent = len(centre.usual) + len(centre.off)
    for turn in range(_TURNS):
        lag = _lags(tests, klass, centre.usual, options)
        noise = estimate(centre.residual(), tests.across, base <= lag[klass], doubted, spare(options), spent)
        noise = noise._replace(lasts=lasts)
        result = _layers(fleet, tests, options, here, Fit(
            tests, klass, centre.usual.copy(), lag, centre.residual() + lag[klass], lag[klass], noise,
            None, None, _EMPTY, None, _NONE, _NONE,
        ))  # fmt: skip
        problem = result.hosts.problem
        suspect = np.r_[result.hosts.against, 0.0][: fleet.hosts] > _DOUBT
        doubted = suspect[tests.a] | suspect[tests.b]
        slow = problem.y - explained(problem, result.hosts.level) > problem.spare
        slow &= ~suspect[problem.ends[:, :2]].any(axis=1)
        lasts = lasting(slow, problem.ends[:, 0], problem.ends[:, 1])
        free = result.base <= lag[klass]
        moved = bool((free != (base <= lag[klass])).any() or (doubted.any() and not turn))
        base, before = result.base, centre.residual()
        if turn == _TURNS - 1:
            break
        centre.again(free, noise, spare(options))
        centre.shift(free, noise)
        if not moved and np.abs(centre.residual() - before).max(initial=0.0) < noise.sigma / 4:
            break
    return result


_NONE = np.zeros((0, 2), dtype=np.int64)
_EMPTY = Layer(
    Problem(np.zeros(0), np.zeros(0), _NONE, np.zeros(0), 0, np.zeros(0), 0.1, 0.2),
    np.zeros(1),
    np.zeros(0),
    np.zeros(0, np.int64),
)


def _lags(tests: Tests, klass: IntArray, usual: FloatArray, options: Options) -> FloatArray:
    """How much less of its wire each class reaches than the best kind, where that is more than healthy kinds differ."""
    lag = np.zeros(len(usual))
    first = np.unique(klass, return_index=True)[1]
    wire, across, rail = tests.wire[first], tests.across[first], tests.rail[first]
    if not wire.any():
        return lag
    limit = -math.log1p(-max(options.slowdown, options.lag))
    inside, beyond = wire & ~across, wire & across
    if inside.any() and beyond.any():
        behind = float(np.median(usual[beyond]) - np.median(usual[inside]))
        if behind > limit:
            lag[beyond] = behind
    rest = usual - lag
    for one in np.unique(rail[wire]):
        mine, theirs = wire & (rail == one), wire & (rail != one)
        if theirs.any() and (behind := float(np.median(rest[mine]) - _best(rest[theirs], rail[theirs]))) > limit:
            lag[mine] += behind
    return lag


def _best(usual: FloatArray, rail: IntArray) -> float:
    return float(quantile(usual, rail, 0.5)[1].min())


def _layers(fleet: Fleet, tests: Tests, options: Options, here: BoolArray, fit: Fit) -> Fit:
    rack = np.asarray(fleet.rack_of, dtype=np.int64)
    alone = np.bincount(rack[here], minlength=rack.max(initial=0) + 1) == 1
    sigma = fit.noise.of(tests.across)
    base = fit.base
    uplinks = leaves = nics = None
    if len(np.unique(rack[here])) > 2 and tests.across.any():
        uplinks = _racks(tests, rack, alone, fit.excess, sigma, base, options, fit.noise, 1)
        base = _spread(uplinks, base)
        if fleet.rails > 1:
            leaves = _racks(tests, rack, alone, fit.excess, sigma, base, options, fit.noise, fleet.rails)
            base = _spread(leaves, base)
    hosts, paths = _hosts(fleet, tests, fit.excess, sigma, base, options, fit.noise, int(here.sum()))
    base = _spread(hosts, base)
    links = np.zeros((0, 3), dtype=np.int64)
    if fleet.rails > 1:
        nics, links = _nics(fleet, tests, hosts, fit.excess, sigma, base, options, fit.noise, int(here.sum()))
        base = _spread(nics, base)
    return fit._replace(base=base, uplinks=uplinks, leaves=leaves, hosts=hosts, nics=nics, paths=paths, links=links)


def _price(count: int, options: Options) -> float:
    """Nats that it takes to blame one of `count` components of a kind: alpha is shared out to all of all kinds."""
    return math.log(max(count, 1) * _KINDS / options.alpha)


def _spread(layer: Layer, base: FloatArray) -> FloatArray:
    """What the layer explains, for every row of the columns."""
    level = np.r_[explained(layer.problem._replace(base=np.zeros(len(layer.problem.y))), layer.level), 0.0]
    # a test of all rails together is explained on each rail that is that slow
    return np.asarray(np.maximum(base, level[layer.of]))


def _racks(
    tests: Tests, rack: IntArray, alone: BoolArray, y: FloatArray, sigma: FloatArray, base: FloatArray,
    options: Options, noise: Noise, rails: int,
) -> Layer:  # fmt: skip
    """Racks that met: of each two in a meeting the middle test. Racks of one host are that host."""
    rows = np.flatnonzero(tests.across)
    low, high = np.minimum(rack[tests.a], rack[tests.b]), np.maximum(rack[tests.a], rack[tests.b])
    rail = tests.rail if rails > 1 else np.zeros_like(tests.rail)
    key = np.stack([tests.seen, low, high, rail], axis=1)[rows]
    met, of = np.unique(key, axis=0, return_inverse=True)
    of = of.reshape(-1)
    events = np.unique(np.stack([of, tests.event[rows]], axis=1), axis=0)[:, 0]
    many = np.bincount(events, minlength=len(met))
    count = len(alone) * rails
    ends = np.stack([np.where(alone[met[:, side]], count, met[:, side] * rails + met[:, 3]) for side in (1, 2)], axis=1)
    usual = sigma[rows[0]] * np.sqrt(1.57 / np.maximum(many, 1.57) + _COMMON)
    price = _price(int((~alone).sum()) * rails, options)
    problem = Problem(
        quantile(y[rows], of, 0.5)[1], usual, ends, quantile(base[rows], of, 0.5)[1], count,
        np.full(count, price), spare(options), matters(options),
    )  # fmt: skip
    where = np.full(len(y), -1)
    where[rows] = of
    return Layer(problem, *explain(problem, noise), where)


def _hosts(
    fleet: Fleet, tests: Tests, y: FloatArray, sigma: FloatArray, base: FloatArray, options: Options, noise: Noise,
    here: int,
) -> tuple[Layer, IntArray]:  # fmt: skip
    """Hosts and paths, and hosts that are slow only when all their rails are busy."""
    _, first, of = np.unique(tests.event, return_index=True, return_inverse=True)
    of = of.reshape(-1)
    a, b, together = tests.a[first], tests.b[first], tests.together[first]
    pair, path = np.unique(a * fleet.hosts + b, return_inverse=True)
    path = path.reshape(-1)
    hosts = fleet.hosts
    ends = [a, b, hosts + path]
    price = [np.full(hosts, _price(here, options)), np.full(len(pair), _price(len(pair), options))]
    if fleet.rails > 1:
        count = 2 * hosts + len(pair)
        ends += [np.where(together, hosts + len(pair) + end, count) for end in (a, b)]
        price.append(np.full(hosts, _price(here, options)))
    problem = Problem(
        quantile(y, of, 0.5)[1], sigma[first], np.stack(ends, axis=1), quantile(base, of, 0.5)[1],
        sum(map(len, price)), np.concatenate(price), spare(options), matters(options),
    )  # fmt: skip
    return Layer(problem, *explain(problem, noise), of), np.stack([pair // hosts, pair % hosts], axis=1)


def _nics(
    fleet: Fleet, tests: Tests, hosts: Layer, y: FloatArray, sigma: FloatArray, base: FloatArray, options: Options,
    noise: Noise, here: int,
) -> tuple[Layer, IntArray]:  # fmt: skip
    """NICs and the rails of paths. What all rails of a test have in common, congestion of the pair, is no NIC's."""
    common = np.where(hosts.problem.y > np.maximum(hosts.problem.base, hosts.problem.spare), hosts.problem.y, 0.0)
    done = explained(hosts.problem, hosts.level)
    shift = np.where(tests.together, np.maximum(common - done, 0.0)[hosts.of], 0.0)
    rails, nics = fleet.rails, fleet.hosts * fleet.rails
    link, of = np.unique((tests.a * fleet.hosts + tests.b) * rails + tests.rail, return_inverse=True)
    ends = np.stack([tests.a * rails + tests.rail, tests.b * rails + tests.rail, nics + of.reshape(-1)], axis=1)
    price = np.r_[np.full(nics, _price(here * rails, options)), np.full(len(link), _price(len(link), options))]
    problem = Problem(y - shift, sigma, ends, base, len(price), price, spare(options), matters(options))
    pair = link // rails
    links = np.stack([pair // fleet.hosts, pair % fleet.hosts, link % rails], axis=1)
    return Layer(problem, *explain(problem, noise), np.arange(len(y))), links
