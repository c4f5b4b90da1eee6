"""Which gradients go into one message: the best plan, what DDP, DeepSpeed and Megatron really make of a setting.

Gradients become ready one after the other, a bucket can be sent when all of its gradients are there, and the network
sends one bucket after the other. `optimum` finds the best cut of the sequence into buckets. A setting of a framework
is another thing: a threshold on whole tensors, so every setting that is proposed here was first put through the
framework's own rule, and its prediction is for the buckets that come out.

A prediction orders what is to be measured. It is not a gain.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from commbench.errors import SpecError
from commbench.model.curve import SIDES, Cost, Curve, Side
from commbench.model.step import Backward, Work, collectives, play

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Buckets = tuple[tuple[int, ...], ...]  # places in Backward.gradients, in the order in which the buckets are sent

_FRONTIER = 200  # states kept for one prefix


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """The best cut into consecutive buckets.

    end     of the backward pass and all its communication, seconds
    within  no cut ends earlier by more seconds than this: 0 where the cut is the best; None where nothing is proven
    """

    buckets: Buckets
    end: float
    within: float | None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A step with one plan, seconds.

    low, high      the interval that follows from that of the curve; None where sizes are beyond what was measured
    added          how much longer the backward pass takes than without communication: exposed + stretch
    exposed        the part of it in which nothing is computed
    stretch        the part by which communication slows computing
    communication  of all buckets, alone
    nbytes         of each bucket, in the order in which they are sent
    outside        sizes of buckets that were not measured: their times are extrapolated
    """

    step: float
    low: float | None
    high: float | None
    added: float
    exposed: float
    stretch: float
    communication: float
    nbytes: tuple[int, ...]
    outside: tuple[int, ...]


# -- the best plan -------------------------------------------------------------------------------------------------


def _advance(
    start: "Floats", lag: "Floats", alone: "Floats", loaded: "Floats", seconds: float, gamma: float
) -> "tuple[Floats, Floats]":
    """(end, lag) of buckets that begin at `start`, when computing is `lag` seconds behind its time alone."""
    beside = np.minimum(loaded, np.maximum(seconds + lag - start, 0.0) * gamma)
    return start + beside + (1 - beside / loaded) * alone, lag + beside * (1 - 1 / gamma)


def optimum(backward: Backward, cost: Cost, max_nbytes: int | None = None) -> Optimum:
    """The cut into consecutive buckets that ends first; of equally good ones a cut into few buckets.

    Without slowdown of computing this is finish(j) = min over i < j of max(finish(i), ready(j)) + T(bytes of i to j):
    an earlier end of a prefix never hurts, so it is exact for any T in O(L^2). Where communication slows computing
    (gamma > 1), a prefix is known by its end and by how far computing has fallen behind, and all pairs of which none
    is better in both are kept. Both smaller is never worse as long as 1 / gamma + alone / loaded >= 1, that is as
    long as overlapping is no slower than one after the other; elsewhere nothing is proven. Of very many pairs some
    are left out, and `within` says how much that can cost: a pair that is e worse never ends more than e later.

    A bucket of several tensors has at most `max_nbytes`; a larger tensor is a bucket of its own.
    """
    ready = [one.ready for one in backward.gradients]
    sent = np.array([0, *accumulate(backward.sizes)])
    end, lag, count = (np.zeros(1) for _ in range(3))
    prefix, parent = np.zeros(1, np.int64), np.full(1, -1)
    within, proven = 0.0, True
    for j in range(1, len(sent)):
        sizes = sent[j] - sent[prefix]
        allowed = np.flatnonzero((sizes <= (max_nbytes or math.inf)) | (prefix == j - 1))
        alone, loaded = cost.at(sizes[allowed])
        proven = proven and bool((1 / cost.gamma + alone / loaded >= 1 - 1e-12).all())
        start = np.maximum(end[allowed], ready[j - 1] + lag[allowed])
        ends, lags = _advance(start, lag[allowed], alone, loaded, backward.seconds, cost.gamma)
        # The next bucket cannot begin before the next tensor is there, the step not end before computing has.
        ends = np.maximum(ends, (ready[j] if j < len(ready) else backward.seconds) + lags)
        lags = np.where(ends >= backward.seconds + lags, 0.0, lags)  # computing is over: its delay no longer matters
        kept = _frontier(ends, lags, count[allowed])
        if len(kept) > _FRONTIER:
            chosen = np.linspace(0, len(kept) - 1, _FRONTIER).astype(np.int64)
            within += _left_out(ends[kept], lags[kept], chosen)
            kept = kept[chosen]
        end, lag = np.append(end, ends[kept]), np.append(lag, lags[kept])
        count = np.append(count, count[allowed][kept] + 1)
        prefix, parent = np.append(prefix, np.full(len(kept), j)), np.append(parent, allowed[kept])
    best = int(np.flatnonzero(prefix == len(ready))[0])  # a frontier begins with its earliest end
    found = float(end[best])
    cuts = []
    while best >= 0:
        cuts.append(int(prefix[best]))
        best = int(parent[best])
    return Optimum(
        buckets=tuple(tuple(range(i, j)) for i, j in pairwise(cuts[::-1])), end=found, within=within if proven else None
    )


def _frontier(ends: "Floats", lags: "Floats", counts: "Floats") -> "NDArray[np.int64]":
    """Those that no other one beats in both, the earliest end first; of equal ones the fewest buckets."""
    order = np.lexsort((counts, lags, ends))
    sorted_lags = lags[order]
    best_before = np.minimum.accumulate(np.append(np.inf, sorted_lags[:-1]))
    return order[sorted_lags < best_before]


def _left_out(ends: "Floats", lags: "Floats", chosen: "NDArray[np.int64]") -> float:
    """How much worse in one of the two the nearest chosen pair is than the others, at most."""
    place = np.arange(len(ends))
    after = np.minimum(np.searchsorted(chosen, place), len(chosen) - 1)
    before = np.maximum(np.searchsorted(chosen, place, side="right") - 1, 0)
    return float(np.minimum(lags[chosen[before]] - lags, ends[chosen[after]] - ends).max())


# -- what the frameworks do ----------------------------------------------------------------------------------------


def assign(
    sizes: Sequence[int],
    limits: Sequence[int],
    keys: Sequence[object] = (),
    sparse: Sequence[bool] = (),
    sort: bool = False,
) -> Buckets:
    """torch's compute_bucket_assignment_by_size: places of the tensors in each bucket.

    A bucket holds tensors of one key (dtype and device) and closes when its sum has reached the limit; each key
    then takes its next limit, and the last one repeats. A tensor with a sparse gradient is alone. What is still open
    at the end follows, the latest key first (the order of libstdc++'s hash table for as few keys as models have).
    `sort`: by the first tensor, as torch does for the buckets before the first step.
    """
    buckets: list[tuple[int, ...]] = []
    opened: dict[object, list[int]] = {}
    held: dict[object, int] = {}
    turn: dict[object, int] = {}
    for place, size in enumerate(sizes):
        if sparse and sparse[place]:
            buckets.append((place,))
            continue
        key = keys[place] if keys else None
        opened.setdefault(key, []).append(place)
        held[key] = held.get(key, 0) + size
        limit = turn.setdefault(key, 0)
        if held[key] >= limits[limit]:
            buckets.append(tuple(opened[key]))
            opened[key], held[key] = [], 0
            turn[key] = min(limit + 1, len(limits) - 1)
    buckets += [tuple(bucket) for bucket in reversed(opened.values()) if bucket]
    return tuple(sorted(buckets, key=min) if sort else buckets)


def ddp_buckets(backward: Backward, caps: Sequence[int], rebuilt: bool = True) -> Buckets:
    """What DDP makes of thresholds in bytes, as places in `backward.gradients`.

    rebuilt: from the second step on, by the order in which gradients became ready. False: for good, by the order of
    definition from its end, as with find_unused_parameters and no static_graph.
    """
    order = list(range(len(backward.gradients)))
    if not rebuilt:
        order.sort(key=lambda place: backward.gradients[place].index)
    asked = [backward.gradients[place] for place in order]
    made = assign(
        [one.nbytes for one in asked],
        caps,
        [(one.dtype, one.device) for one in asked],
        [one.sparse for one in asked],
        sort=not rebuilt,
    )
    return tuple(tuple(order[k] for k in bucket) for bucket in (made if rebuilt else made[::-1]))


def predict(backward: Backward, cost: Cost, buckets: Buckets, *, in_order: bool = True) -> Prediction:
    """The step with these buckets. `in_order`: one that is ready waits for those before it, as in DDP."""
    gradients = backward.gradients
    if sorted(place for bucket in buckets for place in bucket) != list(range(len(gradients))):
        raise SpecError("the buckets do not hold every gradient once")
    there = [max(gradients[place].ready for place in bucket) for bucket in buckets]
    if not in_order:
        sent = sorted(range(len(buckets)), key=there.__getitem__)
        buckets, there = tuple(buckets[k] for k in sent), [there[k] for k in sent]
    launches = list(accumulate(there, max))
    nbytes = tuple(sum(gradients[place].nbytes for place in bucket) for bucket in buckets)
    spans = [later - earlier for earlier, later in pairwise([0.0, *launches, backward.seconds])]
    compute = [Work(span, span * cost.gamma) for span in spans]

    def played(side: Side) -> tuple[float, float, float, float]:
        network = [work._replace(needs=k + 1) for k, work in enumerate(collectives(cost, nbytes, side))]
        alone = sum(work.seconds for work in network)
        if any(math.isnan(work.seconds + work.loaded) for work in network):
            return math.nan, math.nan, math.nan, alone
        done = play(compute, network)
        return done.end, done.computed, done.exposed, alone

    (end, computed, exposed, communication), low, high = map(played, SIDES)
    return Prediction(
        step=backward.rest + end,
        low=_finite(backward.rest + low[0]),
        high=_finite(backward.rest + high[0]),
        added=end - backward.seconds,
        exposed=exposed,
        stretch=computed - backward.seconds,
        communication=communication,
        nbytes=nbytes,
        outside=cost.outside(nbytes),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def fitted(backward: Backward, alone: Curve, seen: Sequence[tuple[Buckets, float]]) -> tuple[Cost, float]:
    """(cost, rest) that explain measured steps best: `seen` are plans and their seconds, at least three.

    For where the collectives were not measured under load. gamma is sought from 1 to 3 and the factor of the loaded
    curve from 1 to 4, by the least squares of the relative error; the rest of the step follows from the two.
    Plans that were fitted are no test of the fit. SpecError: fewer than three plans.
    """
    if len(seen) < 3:
        raise SpecError(f"three measured plans are needed to fit two slowdowns and the rest of a step, not {len(seen)}")
    bare = msgspec.structs.replace(backward, rest=0.0)

    def tried(gamma: float, delta: float) -> tuple[float, float, Cost]:
        cost = Cost(alone=alone, loaded=alone.scaled(delta), gamma=gamma)
        left = [seconds - predict(bare, cost, buckets).step for buckets, seconds in seen]
        rest = max(0.0, sum(left) / len(left))
        return sum(((one - rest) / seconds) ** 2 for one, (_, seconds) in zip(left, seen, strict=True)), rest, cost

    best, width = tried(1.0, 1.0), 1.0
    for _ in range(4):
        gammas = _around(best[2].gamma, 1.0, 3.0, width)
        factor = best[2].at([alone.nbytes[-1]])
        deltas = _around(float(factor[1][0] / factor[0][0]), 1.0, 4.0, width)
        best = min((best, *(tried(gamma, delta) for gamma in gammas for delta in deltas)), key=lambda one: one[0])
        width /= 4
    return best[2], best[1]


def _around(centre: float, low: float, high: float, width: float) -> list[float]:
    """Seven values about `centre`, over `width` times the range."""
    half = width * (high - low)
    found: list[float] = np.linspace(max(low, centre - half), min(high, centre + half), 7).tolist()
    return found
