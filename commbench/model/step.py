"""How long a training step takes when computing and communication run at the same time and slow each other down.

Two queues, each worked off in its order: what the processor computes and what the network carries. A piece of work
begins when its turn has come and what it needs of the other queue has ended. While both queues work, computing takes
`gamma` times as long and a collective takes its time under load instead of its time alone; the rest of the time both
run at full speed. So what an overlap costs is part of the answer, and waiting can be better than overlapping.

All times are seconds, all sizes bytes as in `Case`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from commbench.errors import SpecError
from commbench.model.curve import Cost, Side
from commbench.records import Workload

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Gradient(msgspec.Struct, frozen=True, kw_only=True):
    """One gradient, or (from a trace) one bucket of gradients that the job sends together.

    index     place among the parameters that DDP was given
    ready     when it is there, seconds after the backward pass began, undisturbed by communication
    elements  None: not known
    """

    index: int
    nbytes: int
    ready: float
    elements: int | None = None
    name: str = ""
    dtype: str = "float32"
    device: str = ""
    sparse: bool = False


class Backward(msgspec.Struct, frozen=True, kw_only=True):
    """A step as the bucket plan sees it.

    gradients  in the order in which they become ready
    seconds    the backward pass alone; never before the last gradient
    rest       of the step: what is neither backward pass nor its communication (forward pass, optimiser)
    whole      False: the `gradients` are the job's own buckets, which can be merged but not split
    disturbed  True: the ready times were taken while communication ran, so they hold its slowdown already
    """

    gradients: tuple[Gradient, ...]
    seconds: float
    rest: float = 0.0
    whole: bool = True
    disturbed: bool = False

    def __post_init__(self) -> None:
        ready = [one.ready for one in self.gradients]
        if not ready or min(one.nbytes for one in self.gradients) < 1:
            raise SpecError("a bucket plan needs gradients, each of at least a byte")
        if ready != sorted(ready) or not 0 <= ready[0] <= ready[-1] <= self.seconds < math.inf or self.rest < 0:
            raise SpecError("gradients must be in the order of their ready times, none after the backward pass")

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(one.nbytes for one in self.gradients)


def backward_of_stats(
    nanoseconds: "ArrayLike",
    parameters: Sequence[Mapping[str, object]],
    *,
    seconds: float | None = None,
    rest: float = 0.0,
    disturbed: bool = False,
) -> Backward:
    """From DDP's `reducer.get_backward_stats()`: its numbers, shape (steps, parameters) or (steps, ranks, parameters).

    A collective begins when the last rank is there, so of the ranks the latest counts, and of the steps the median.
    `parameters` has for each parameter the fields of Gradient but index and ready. `seconds` is the whole backward
    pass; None: it ends with the last gradient. On a GPU the numbers are when kernels were queued and not when they
    ran: take events instead. SpecError: shapes that do not fit, a parameter without a gradient.
    """
    told = np.asarray(nanoseconds, np.float64)
    if told.ndim not in (2, 3) or not told.size or told.shape[-1] != len(parameters):
        raise SpecError(f"ready times of shape {told.shape} do not fit {len(parameters)} parameters")
    latest = told.max(axis=1) if told.ndim == 3 else told
    ready = np.median(latest, axis=0) / 1e9
    without = np.flatnonzero(~(ready > 0)).tolist()
    if without:
        name = parameters[without[0]].get("name") or f"number {without[0]}"
        raise SpecError(f"parameter {name} never got a gradient; leave it out of the plan, or out of the model")
    made = [
        msgspec.convert({**about, "index": k, "ready": when}, Gradient)
        for k, (about, when) in enumerate(zip(parameters, ready.tolist(), strict=True))
    ]
    made.sort(key=lambda one: one.ready)
    return Backward(gradients=tuple(made), seconds=max(seconds or 0.0, made[-1].ready), rest=rest, disturbed=disturbed)


def backward_of_workload(workload: Workload, rank: int, op: str = "all_reduce") -> Backward:
    """From a trace of the job: its calls of `op` are the units. Time begins with the step, so the forward pass counts.

    Of the steps those count that made the most frequent sequence of calls. SpecError says what the trace lacks.
    """
    about = next((one for one in workload.ranks if one.rank == rank), None)
    if about is None:
        raise SpecError(f"no trace of rank {rank}")
    by_step = {
        k: sorted(
            (c.launch_us if c.launch_us is not None else c.start_us or 0.0, c.nbytes, c.dtype, c.end_us)
            for c in about.calls
            if c.step == k and c.op == op and c.nbytes and (c.launch_us is not None or c.start_us is not None)
        )
        for k in range(len(about.steps))
    }
    kinds = Counter(tuple(call[1:3] for call in calls) for calls in by_step.values() if calls)
    if not kinds:
        raise SpecError(f"the trace of rank {rank} has no {op} with its size and time within a step")
    usual = kinds.most_common(1)[0][0]
    steps = [k for k, calls in by_step.items() if tuple(call[1:3] for call in calls) == usual]
    units = []
    for place, (nbytes, dtype) in enumerate(usual):
        ready = median(by_step[k][place][0] - about.steps[k].start_us for k in steps) / 1e6
        units.append(Gradient(index=place, nbytes=nbytes or 0, ready=max(ready, 0.0), dtype=dtype))
    units.sort(key=lambda one: one.ready)
    after = [about.steps[k].end_us - max(call[3] or call[0] for call in by_step[k]) for k in steps]
    rest = max(median(after) / 1e6, 0.0)
    return Backward(gradients=tuple(units), seconds=units[-1].ready, rest=rest, whole=False, disturbed=True)


class Work(NamedTuple):
    """One piece of a queue: seconds alone, seconds beside the other queue, how many of the other must have ended."""

    seconds: float
    loaded: float
    needs: int = 0


class Played(NamedTuple):
    """end: of everything; computed: of computing; both: seconds in which both queues worked; exposed: only network."""

    end: float
    computed: float
    both: float
    exposed: float


def play(compute: Sequence[Work], network: Sequence[Work]) -> Played:
    """Works off both queues. ValueError: each waits for the other."""
    queues = (compute, network)
    place, left, now = [0, 0], [1.0, 1.0], 0.0
    computed = both = exposed = 0.0
    while place[0] < len(compute) or place[1] < len(network):
        turn = [place[k] < len(queues[k]) and queues[k][place[k]].needs <= place[1 - k] for k in (0, 1)]
        if not any(turn):
            raise ValueError("computing and communication wait for each other")
        heads = [queues[k][place[k]] if turn[k] else Work(math.inf, math.inf) for k in (0, 1)]
        takes = [head.loaded if all(turn) else head.seconds for head in heads]
        ends = [left[k] * takes[k] for k in (0, 1)]
        passed = min(ends)
        now += passed
        both += passed if all(turn) else 0.0
        exposed += passed if not turn[0] else 0.0
        for k in (0, 1):
            if not turn[k]:
                continue
            left[k] = 0.0 if ends[k] <= passed else left[k] - passed / takes[k]
            if left[k] <= 0:
                place[k], left[k] = place[k] + 1, 1.0
                computed = now if k == 0 else computed
    return Played(now, computed, both, exposed)


def collectives(cost: Cost, nbytes: Sequence[int], side: Side = "seconds") -> list[Work]:
    """The network's work for collectives of these sizes, none of which needs anything yet."""
    return [Work(*times) for times in np.column_stack(cost.at(nbytes, side)).tolist()]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A module that FSDP2 can shard: bytes of its gathered parameters and of its gradients as they are reduced."""

    name: str
    nbytes: int
    forward: float
    backward: float
    grad_nbytes: int


class Sharded(msgspec.Struct, frozen=True, kw_only=True):
    """One way to wrap: `groups` consecutive layers each, `prefetch` groups gathered ahead, what it takes.

    held_nbytes  the most parameters that are gathered at once
    outside      sizes that were not measured
    """

    groups: tuple[tuple[str, ...], ...]
    prefetch: int
    reshard: bool
    seconds: float
    exposed: float
    held_nbytes: int
    outside: tuple[int, ...] = ()


def sharded(
    layers: Sequence[Layer], counts: Sequence[int], gather: Cost, scatter: Cost, prefetch: int, reshard: bool = True
) -> Sharded:
    """Forward and backward pass of FSDP2 with groups of `counts` layers. SpecError: counts that do not fit the layers.

    An all-gather may begin when `prefetch` groups before its own are not computed yet; in the backward pass each
    group is gathered again if it is resharded, and its gradients are reduce-scattered. One network carries all, in
    the order of the calls. gamma is the gather's in the forward pass and the larger of the two in the backward pass.
    """
    if sum(counts) != len(layers) or min(counts, default=0) < 1 or prefetch < 0:
        raise SpecError(f"groups of {list(counts)} layers and prefetch {prefetch} do not fit {len(layers)} layers")
    ends = list(accumulate(counts))
    groups = [layers[end - count : end] for end, count in zip(ends, counts, strict=True)]
    held = [sum(layer.nbytes for layer in group) for group in groups]
    given = [sum(layer.grad_nbytes for layer in group) for group in groups]
    gathers, scatters = collectives(gather, held), collectives(scatter, given)
    forward = [sum(layer.forward for layer in group) for group in groups]
    backward = [sum(layer.backward for layer in group) for group in groups][::-1]
    slower = max(gather.gamma, scatter.gamma)
    ahead = play(
        [Work(took, took * gather.gamma, k + 1) for k, took in enumerate(forward)],
        [gathers[k]._replace(needs=max(0, k - prefetch)) for k in range(len(groups))],
    )
    network: list[Work] = []
    gathered: dict[int, int] = {}
    last = len(groups) - 1
    for k in range(-prefetch - 1, len(groups)):  # k is computed: the gather that it makes room for, then its gradients
        fetched = k + prefetch + 1
        if reshard and fetched <= last:
            network.append(gathers[last - fetched]._replace(needs=max(0, k + 1)))
            gathered[fetched] = len(network)
        if k >= 0:
            network.append(scatters[last - k]._replace(needs=k + 1))
    back = play([Work(took, took * slower, gathered.get(k, 0)) for k, took in enumerate(backward)], network)
    window = min(prefetch + 1, len(held)) if reshard else len(held)
    return Sharded(
        groups=tuple(tuple(layer.name for layer in group) for group in groups),
        prefetch=prefetch,
        reshard=reshard,
        seconds=ahead.end + back.end,
        exposed=ahead.exposed + back.exposed,
        held_nbytes=max(sum(held[k : k + window]) for k in range(len(held) - window + 1)),
        outside=tuple(sorted({*gather.outside(held), *scatter.outside(given)})),
    )
