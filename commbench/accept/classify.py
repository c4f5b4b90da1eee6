"""From a fit to names: which components are slow beyond doubt, what explains it as well, and who is fine. Pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from commbench.accept.culprits import Problem, Weighed, others, weigh
from commbench.accept.fit import Fit, Layer, matters, spare
from commbench.accept.noise import Noise
from commbench.accept.pairtests import BoolArray, FloatArray, quantile
from commbench.accept.terms import Fleet, Found, Key, Options

_TIE = math.log(100)  # an explanation that is less than 100 times less likely is as good
_SHOWN = 100  # rows of evidence of what concerns everybody


class Standing(NamedTuple):
    """Where each component stands; one Weighed a layer of the fit (None: no such layer).

    found     certain beyond alpha; open: (layer, component) that the tests speak against, but not certainly
    cleared   one a host
    blind     hosts differ from what is usual in a way that comparing them with each other cannot judge: some are much
              faster, or all are slow against the wire
    """

    found: tuple[Found, ...]
    open: tuple[Key, ...]
    cleared: BoolArray
    hosts: Weighed
    nics: Weighed | None
    blind: bool


def stand(fit: Fit, fleet: Fleet, options: Options, here: BoolArray) -> Standing:
    layers = {"uplinks": fit.uplinks, "leaves": fit.leaves, "hosts": fit.hosts, "nics": fit.nics}
    weighed = {name: layer.weighed(fit.noise) for name, layer in layers.items() if layer is not None}
    found: list[Found] = _general(fit, fleet, options, here)
    open_: list[Key] = []
    for name, layer in layers.items():
        if layer is None or not layer.problem.size:
            continue
        accused = weighed[name].accuse - layer.problem.price
        doubted = weighed[name].accuse > 0
        if name == "hosts":  # a host is cleared or not; all others are innocent until they are suspected
            doubted[: fleet.hosts] |= weighed[name].likely[: fleet.hosts] > 0
        for c in np.flatnonzero((layer.level[:-1] > 0) | doubted):
            key = _key(name, int(c), fit, fleet)
            if layer.level[c] > 0 and accused[c] >= 0:
                found.append(_found(name, layer, weighed[name], int(c), fit, fleet, here))
            else:
                open_.append(key)
    found = _merged(found)
    found.sort(key=lambda one: -one.odds)
    cleared = _cleared(weighed["hosts"], weighed.get("nics"), fit, fleet, options, here)
    for one in found:
        if one.kind in ("host", "nic"):
            cleared[list(one.hosts)] = False
    fast = faster(fit, fleet, options)
    slow = any(one.kind == "fabric" and one.rail is None and not one.ties for one in found)
    if fast.any() or slow:  # what is usual here may be slow
        cleared &= fast
    return Standing(
        tuple(found), tuple(open_), cleared, weighed["hosts"], weighed.get("nics"), bool(fast.any()) or slow
    )


def _key(name: str, c: int, fit: Fit, fleet: Fleet) -> Key:
    """The component that number c of a layer stands for."""
    rails = fleet.rails
    if name == "uplinks":
        return Key("uplink", (), None, c)
    if name == "leaves":
        return Key("uplink", (), c % rails, c // rails)
    if name == "hosts":
        if c < fleet.hosts:
            return Key("host", (c,))
        c -= fleet.hosts
        return Key("path", tuple(map(int, fit.paths[c]))) if c < len(fit.paths) else Key("host", (c - len(fit.paths),))
    if c < fleet.hosts * rails:
        return Key("nic", (c // rails,), c % rails)
    a, b, rail = map(int, fit.links[c - fleet.hosts * rails])
    return Key("path", (a, b), rail)


def _found(name: str, layer: Layer, weighed: Weighed, c: int, fit: Fit, fleet: Fleet, here: BoolArray) -> Found:
    key = _key(name, c, fit, fleet)
    ties = [_key(name, other, fit, fleet) for other in _ties(layer, fit.noise, c)]
    ties += _alike(key, layer, c, fit, fleet, here)
    kept = tuple(tie for tie in dict.fromkeys(ties) if tie != key)
    problem, level = layer.problem, float(layer.level[c])
    touched = (problem.ends == c).any(axis=1) & (problem.y > np.maximum(problem.base, problem.spare))
    rows = np.flatnonzero((layer.of >= 0) & np.r_[touched, False][layer.of])
    seen = tuple((int(fit.tests.seen[row]), int(fit.tests.group[row])) for row in rows)
    return Found(*key, kept, 1 - math.exp(-level), float(weighed.accuse[c]) / math.log(10), seen)


def _ties(layer: Layer, noise: Noise, c: int) -> list[int]:
    """Components of the layer that explain what c explains as well as c does."""
    problem = layer.problem
    touched = (problem.ends == c).any(axis=1)
    slow = touched & (problem.y > np.maximum(problem.base, problem.spare))
    rivals, shared = np.unique(problem.ends[slow], return_counts=True)
    near = (2 * shared >= slow.sum()) & (rivals != c) & (rivals != problem.size)  # else it leaves too much unexplained
    rivals = rivals[near & (layer.level[rivals] == 0)]
    if not len(rivals):
        return []
    kept = touched | np.isin(problem.ends, rivals).any(axis=1)
    local, ends = np.unique(np.concatenate([problem.ends[kept].ravel(), [problem.size]]), return_inverse=True)
    small = problem._replace(
        y=problem.y[kept], sigma=problem.sigma[kept], base=problem.base[kept],
        ends=ends[:-1].reshape(-1, problem.ends.shape[1]), size=len(local) - 1, price=problem.price[local[:-1]],
    )  # fmt: skip
    without = layer.level[local]
    without[np.searchsorted(local, c)] = 0.0
    likely = weigh(small, noise, without).likely
    best = likely[np.searchsorted(local, c)]
    return [int(rival) for rival in rivals if best - likely[np.searchsorted(local, rival)] < _TIE]


def _alike(key: Key, layer: Layer, c: int, fit: Fit, fleet: Fleet, here: BoolArray) -> list[Key]:
    """What no test of pairs can tell from the component: a host from its only NIC, or from the uplink of its rack."""
    if key.kind != "host":
        return []
    host = key.hosts[0]
    rack = fleet.rack_of[host]
    mine = (fit.tests.a == host) | (fit.tests.b == host)
    rails = np.unique(fit.tests.rail[mine])
    ties = [Key("nic", (host,), int(rails[0]))] if len(rails) == 1 else []
    racks = np.asarray(fleet.rack_of)[here]
    if (racks == rack).sum() == 1 and len(racks) > 1:
        ties.append(Key("uplink", (), None, rack))
    return ties


def _merged(found: Sequence[Found]) -> list[Found]:
    """A host that is slow in two ways is one finding."""
    best: dict[Key, Found] = {}
    for one in found:
        key = one.key
        if key not in best or best[key].odds < one.odds:
            best[key] = one
    return list(best.values())


def _cleared(
    hosts: Weighed, nics: Weighed | None, fit: Fit, fleet: Fleet, options: Options, here: BoolArray
) -> BoolArray:
    """Hosts for which a fault that matters is refuted beyond beta, on every rail."""
    limit = math.log(options.beta)
    fine = (hosts.clear <= limit) & (hosts.clean > 0)
    cleared = here & fine[: fleet.hosts]
    if nics is not None:
        each = ((nics.clear <= limit) & (nics.clean > 0))[: fleet.hosts * fleet.rails]
        cleared &= each.reshape(fleet.hosts, fleet.rails).all(axis=1)
    for c in np.flatnonzero(fit.hosts.level[:-1] > 0):
        key = _key("hosts", int(c), fit, fleet)
        if key.kind == "host" and not fine[c]:
            cleared[key.hosts[0]] = False
    return np.asarray(cleared)


def faster(fit: Fit, fleet: Fleet, options: Options) -> BoolArray:
    """Hosts with a path that is faster than what is usual by more than a fault that matters: one a host.

    None where they are fewer than three and a tenth: of two hosts one odd test would make it look so.
    """
    found = np.zeros(fleet.hosts, dtype=np.bool_)
    if not len(fit.excess):
        return found
    excess = fit.excess - fit.lag[fit.klass]
    scatter = float(np.median(np.abs(excess))) / 0.6745  # not the noise, which fast paths make look large
    path, middle = quantile(excess, fit.tests.a * fleet.hosts + fit.tests.b, 0.5)
    fast = path[middle < -max(matters(options), 6 * scatter)]
    found[np.concatenate([fast // fleet.hosts, fast % fleet.hosts])] = True
    many = len(np.unique(np.concatenate([path // fleet.hosts, path % fleet.hosts])))
    return found if found.sum() >= max(3, 0.1 * many) else np.zeros_like(found)


def _general(fit: Fit, fleet: Fleet, options: Options, here: BoolArray) -> list[Found]:
    """Whole kinds of tests that are slow against what the wire allows: uplinks, a rail's fabric, or all of it."""
    tests = fit.tests
    first = np.unique(fit.klass, return_index=True)[1]
    wire = tests.wire[first]
    if not wire.any():
        return []
    across, rail = tests.across[first], tests.rail[first]
    found: list[Found] = []
    floor = float((fit.usual - fit.lag)[wire].min())
    if floor > -math.log(options.least):
        who = np.flatnonzero(here)
        key = Key("path", tuple(map(int, who))) if len(who) == 2 else Key("fabric")
        ties = tuple(Key("host", (int(host),)) for host in who) if len(who) == 2 else ()
        found.append(_kind(key, ties, floor, wire[fit.klass], fit, options))
    behind = fit.lag[wire & across]
    if len(behind) and behind.min() > 0:
        racks = sorted({fleet.rack_of[host] for host in np.flatnonzero(here)})
        uplinks = [Key("uplink", (), None, rack) for rack in racks]
        key, ties = (uplinks[0], tuple(uplinks[1:])) if len(racks) == 2 else (Key("fabric"), tuple(uplinks))
        found.append(_kind(key, ties, float(behind.min()), tests.across & tests.wire, fit, options))
    within = wire & ~across if (wire & ~across).any() else wire
    for one in np.unique(rail[within & (fit.lag > 0)]):
        mine = within & (rail == one)
        key = Key("fabric", (), int(one))
        found.append(_kind(key, (), float(fit.lag[mine].min()), tests.wire & (tests.rail == one), fit, options))
    return found


def _kind(key: Key, ties: tuple[Key, ...], level: float, rows: BoolArray, fit: Fit, options: Options) -> Found:
    """A whole kind of tests as one component: each meeting is one test of it, of the middle pair."""
    tests = fit.tests
    which, middle = quantile((fit.excess - fit.lag[fit.klass] + level)[rows], tests.seen[rows], 0.5)
    count = len(which)
    problem = Problem(
        middle, fit.noise.of(np.full(count, key.kind == "uplink")), np.zeros((count, 1), dtype=np.int64),
        np.zeros(count), 1, np.zeros(1), spare(options), matters(options),
    )  # fmt: skip
    odds = float(weigh(problem, fit.noise, np.zeros(2)).accuse[0]) / math.log(10)
    shown = np.flatnonzero(rows)
    if len(shown) > _SHOWN:  # the first and the last: whether it was so to the end is asked too
        shown = np.r_[shown[: _SHOWN // 2], shown[-_SHOWN // 2 :]]
    seen = tuple((int(tests.seen[row]), int(tests.group[row])) for row in shown)
    return Found(*key, ties, 1 - math.exp(-level), odds, seen)


def unexplained(fit: Fit) -> FloatArray:
    """One a test of hosts: by how much it is slower than what is explained; 0 where that is not worth blame."""
    problem = fit.hosts.problem
    over = problem.y - others(problem, fit.hosts.level).max(axis=1, initial=0.0)
    return np.where(over > problem.spare, over, 0.0)
