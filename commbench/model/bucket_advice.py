"""Bucket sizes for DDP, DeepSpeed, Megatron and FSDP2, in the order in which to measure them.

Every setting proposed here was first put through the framework's own rule, and its prediction is for the buckets
that come out. The default is always among them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from commbench.errors import SpecError
from commbench.model.buckets import Buckets, Optimum, Prediction, assign, ddp_buckets, optimum, predict
from commbench.model.curve import Cost
from commbench.model.step import Backward, Layer, Sharded, sharded
from commbench.units import format_bytes

Framework = Literal["ddp", "deepspeed", "megatron"]
Settings = dict[str, int | float | tuple[float, ...]]
Split = Callable[[int], tuple[Buckets, int | None]]

MIB = 2**20
DDP_CAPS = (MIB, 25 * MIB)  # torch's own where bucket_cap_mb is not given: a small first bucket
DEEPSPEED_ELEMENTS = 500_000_000
_TRIED_MIB = (1, 5, 10, 25, 50, 100)
_FINEST = 1.005  # caps nearer to each other than this are not told apart
_LEAST_GAIN = 0.01


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One setting to measure.

    caps      thresholds in bytes as the framework applies them, in ready order; the last repeats
    settings  by the framework's own names and in its own units; empty: its default
    gain      share of the default's step that it saves, as predicted; its interval takes the errors as independent
    """

    name: str
    caps: tuple[int, ...]
    settings: Settings
    prediction: Prediction
    gain: float
    gain_low: float | None
    gain_high: float | None


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Settings in the order in which to measure them, the default among them.

    tail     the least that any plan adds to the step: the last gradient's own message after the backward pass
    floor    what the best cut adds, without the framework's rule; None where it was not sought
    within   no cut adds fewer seconds than `floor` by more than this; None: not proven
    keep     why it is not worth measuring anything but the default; "" where it is
    """

    framework: Framework
    candidates: tuple[Candidate, ...]
    tail: float
    floor: float | None
    within: float | None
    keep: str
    notes: tuple[str, ...]
    numerics: str = "bitwise-changing"

    @property
    def default(self) -> Candidate:
        return next(one for one in self.candidates if one.name == "default")


def _reached(sizes: Sequence[int], cap: int) -> tuple[Buckets, int | None]:
    """Buckets that close when they have reached the cap; the largest cap that makes the same ones (None: any)."""
    buckets = assign(sizes, (cap,))
    sums = [sum(sizes[k] for k in bucket) for bucket in buckets]
    return buckets, min((one for one in sums if one >= cap and one < sum(sizes)), default=None)


def _filled(sizes: Sequence[int], cap: int) -> tuple[Buckets, int | None]:
    """The same for buckets that close before the tensor that would exceed the cap (DeepSpeed's stage_1_and_2.py)."""
    buckets: list[list[int]] = [[]]
    held = 0
    larger: list[int] = []
    for place, size in enumerate(sizes):
        if buckets[-1] and held + size > cap:
            larger.append(held + size)
            buckets.append([])
            held = 0
        buckets[-1].append(place)
        held += size
    return tuple(map(tuple, buckets)), min(larger) - 1 if larger else None


def _uniform(split: Split, largest: int) -> Iterator[tuple[int, int, Buckets]]:
    """(smallest cap, largest cap, buckets) of every plan that one cap can make, nearly: see _FINEST."""
    cap = 1
    while True:
        buckets, last = split(cap)
        yield cap, max(last or largest, cap), buckets
        if last is None:
            return
        cap = max(last + 1, math.ceil(cap * _FINEST))


def _round(low: int, high: int, unit: int) -> float:
    """The roundest number of units that is low to high when a framework turns it into a whole number."""
    for exponent in range(12, -7, -1):
        for part in (1.0, 0.5, 0.25):
            step = 10.0**exponent * part
            value = round(math.floor(high / unit / step) * step, 9)
            if low <= int(value * unit) <= high:
                return int(value) if value == int(value) else value
    return high / unit


def _inner(low: int, high: int) -> tuple[int, int]:
    """The middle half: another order of readiness shall not move a border at once."""
    return low + (high - low) // 4, high - (high - low) // 4


def list_caps(backward: Backward, buckets: Buckets) -> tuple[float, ...]:
    """bucket_cap_mb_list (MiB) by which DDP makes these consecutive buckets."""
    caps = []
    for bucket in buckets:
        sizes = [backward.gradients[place].nbytes for place in bucket]
        least = sum(sizes) - sizes[-1] + 1 if backward.whole else sum(sizes)
        caps.append(_round(*_inner(least, sum(sizes)), MIB))
    return tuple(caps)


def ddp(
    backward: Backward, cost: Cost, *, max_nbytes: int | None = None, rebuilt: bool = True, lists: bool = True
) -> Advice:
    """Settings for DDP. `lists`: its torch knows bucket_cap_mb_list (2.12). `max_nbytes` None: what was measured.

    An explicit bucket_cap_mb, also of 25, has no small first bucket: only the default has one.
    """
    most = cost.largest if max_nbytes is None else max_nbytes
    one_key = len({(one.dtype, one.device, one.sparse) for one in backward.gradients}) == 1
    plain = one_key and not backward.gradients[0].sparse
    found: list[tuple[str, tuple[int, ...], Settings]] = [("default", DDP_CAPS, {})]
    best = optimum(backward, cost, most) if plain and rebuilt else None
    notes = [
        f"gradient_as_bucket_view=True saves {format_bytes(sum(backward.sizes))} of memory and a copy of each bucket",
        "static_graph=True where the graph is the same in every step",
    ]
    if best and lists:
        caps = list_caps(backward, best.buckets)
        found.append(("list", tuple(int(cap * MIB) for cap in caps), {"bucket_cap_mb_list": caps}))
    if not best:
        why = "gradients of several kinds" if rebuilt else "buckets that are not rebuilt"
        notes.append(f"{why}: one cap for all buckets is sought, and no list")
    sizes = backward.sizes
    thresholds = {_round(*_inner(*ends), MIB) for *ends, _ in _uniform(lambda cap: _reached(sizes, cap), sum(sizes))}
    every = {cap: predict(backward, cost, ddp_buckets(backward, (int(cap * MIB),), rebuilt)) for cap in thresholds}
    made = {cap: plan for cap, plan in every.items() if _within(plan, backward, most)} or every
    best_cap = min(made, key=lambda cap: (*_rank(made[cap]), cap))
    for cap in sorted({best_cap, *map(float, _TRIED_MIB)}):
        number = int(cap) if cap == int(cap) else cap
        found.append((f"cap {number:g}", (int(cap * MIB),), {"bucket_cap_mb": number}))
    candidates = [(*one, predict(backward, cost, ddp_buckets(backward, one[1], rebuilt))) for one in found]
    return _advice("ddp", backward, cost, candidates, best, notes)


def deepspeed(backward: Backward, cost: Cost, *, max_nbytes: int | None = None) -> Advice:
    """reduce_bucket_size of ZeRO stages 1 and 2, in elements. `cost` is that of its reduction, commonly all_reduce."""
    notes = ["overlap_comm holds two buckets of this size", "the size can change convergence: compare the loss"]
    return _counted("deepspeed", backward, cost, max_nbytes, notes)


def megatron(backward: Backward, cost: Cost, ranks: int, *, max_nbytes: int | None = None) -> Advice:
    """--ddp-bucket-size in parameters, over `ranks` data-parallel ranks; works with --overlap-grad-reduce alone.

    Buckets are filled from the end of the model, whatever the order of readiness. Not in the model: padding, and the
    shared embedding's own bucket under the distributed optimiser.
    """
    notes = ["needs --overlap-grad-reduce; without it there is one bucket"]
    return _counted("megatron", backward, cost, max_nbytes, notes, max(40_000_000, 1_000_000 * ranks))


def _counted(
    framework: Literal["deepspeed", "megatron"],
    backward: Backward,
    cost: Cost,
    max_nbytes: int | None,
    notes: list[str],
    default: int = DEEPSPEED_ELEMENTS,
) -> Advice:
    """Advice for a framework that has one cap in elements."""
    most = cost.largest if max_nbytes is None else max_nbytes
    order = list(range(len(backward.gradients)))
    if framework == "megatron":
        order.sort(key=lambda place: -backward.gradients[place].index)
    elements = [backward.gradients[place].elements or 0 for place in order]
    if min(elements) < 1:
        raise SpecError(f"{framework} counts elements, and those of a gradient are not known")
    if len({one.dtype for one in backward.gradients}) > 1:
        raise SpecError(f"{framework} has buckets for each data type; plan them one by one")
    rule, name = (_filled, "reduce_bucket_size") if framework == "deepspeed" else (_reached, "ddp_bucket_size")

    def made(cap: int) -> Prediction:
        buckets = tuple(tuple(order[k] for k in bucket) for bucket in rule(elements, cap)[0])
        return predict(backward, cost, buckets, in_order=False)

    largest = max(default, sum(elements))
    caps = [int(_round(*_inner(low, high), 1)) for low, high, _ in _uniform(lambda cap: rule(elements, cap), largest)]
    plans = {cap: plan for cap, plan in ((cap, made(cap)) for cap in caps) if _within(plan, backward, most)}
    itemsize = backward.gradients[0].nbytes // (backward.gradients[0].elements or 1)
    candidates: list[tuple[str, tuple[int, ...], Settings, Prediction]] = [
        ("default", (default * itemsize,), {}, made(default))
    ]
    for cap in sorted(plans, key=lambda cap: (*_rank(plans[cap]), cap))[:5]:
        candidates.append((f"size {cap}", (cap * itemsize,), {name: cap}, plans[cap]))
    return _advice(framework, backward, cost, candidates, optimum(backward, cost, most), notes)


def _rank(plan: Prediction) -> tuple[float, int]:
    """By step to the nanosecond, then by the number of buckets."""
    return round(plan.step, 9), len(plan.nbytes)


def _within(plan: Prediction, backward: Backward, most: int) -> bool:
    """No bucket of several tensors is larger than `most` bytes."""
    single = set(backward.sizes)
    return all(nbytes <= most or nbytes in single for nbytes in plan.nbytes)


def _advice(
    framework: Framework,
    backward: Backward,
    cost: Cost,
    made: Sequence[tuple[str, tuple[int, ...], Settings, Prediction]],
    best: Optimum | None,
    notes: Sequence[str],
) -> Advice:
    base = made[0][3]
    seen: dict[tuple[int, ...], Candidate] = {}
    for name, caps, settings, plan in made:
        same = name != "default" and plan.nbytes in seen
        if not same:
            low, high = _saved(plan.high, base.low), _saved(plan.low, base.high)
            gain = 1 - plan.step / base.step
            if name == "default":
                gain = low = high = 0.0
            seen[plan.nbytes] = Candidate(
                name=name,
                caps=caps,
                settings=settings,
                prediction=plan,
                gain=gain,
                gain_low=low,
                gain_high=high,
            )
    ordered = tuple(
        sorted(
            seen.values(),
            key=lambda one: (round(one.prediction.step, 9), one.name != "default", len(one.prediction.nbytes)),
        )
    )
    first = ordered[0]
    last = backward.gradients[-1]
    tail = max(0.0, last.ready + float(cost.at(last.nbytes)[0]) - backward.seconds)
    notes = list(notes)
    if first.prediction.outside:
        notes.append(f"extrapolated: {cost.alone.what or 'the collective'} was not measured at every size of the plan")
    if backward.disturbed and cost.gamma > 1:
        notes.append("the ready times were taken while communication ran: its slowdown is counted twice")
    if not backward.whole:
        notes.append("only the job's own buckets are known: they can be merged here, and not split")
    if base.added > 0 and tail >= base.added / 2:
        notes.append(
            f"most of what communication costs is the message of the last gradient "
            f"({last.name or last.nbytes}): no bucket size changes that, splitting or sharing the tensor can"
        )
    if best and best.within is None:
        notes.append("computing and communication slow each other so much that waiting can be better than overlapping")
    most = max(one.gain if one.gain_high is None else one.gain_high for one in ordered)
    keep = "" if most >= _LEAST_GAIN else f"no setting is predicted to save more than {max(most, 0):.1%} of the step"
    return Advice(
        framework=framework,
        candidates=ordered,
        tail=tail,
        floor=None if best is None else best.end - backward.seconds,
        within=None if best is None else best.within,
        keep=keep,
        notes=tuple(notes),
    )


def _saved(plan: float | None, base: float | None) -> float | None:
    return 1 - plan / base if plan is not None and base else None


def fsdp2(
    layers: Sequence[Layer],
    gather: Cost,
    scatter: Cost,
    *,
    prefetch: Sequence[int] = (1, 2, 3),
    reshard: bool = True,
    max_held_nbytes: int | None = None,
) -> tuple[Sharded, ...]:
    """Ways to wrap for FSDP2, the fastest first: every number of layers a group, every prefetch.

    A layer a group with a prefetch of 1, which is what FSDP2 does by itself, is always among them; of equally fast
    ones that comes first which holds the fewest bytes.
    """
    made = []
    for group in range(1, len(layers) + 1):
        whole, left = divmod(len(layers), group)
        counts = [group] * whole + [left] * (left > 0)
        made += [sharded(layers, counts, gather, scatter, depth, reshard) for depth in {1, *prefetch}]
    fits = [
        one
        for one in made
        if max_held_nbytes is None
        or one.held_nbytes <= max_held_nbytes
        or (len(one.groups), one.prefetch) == (len(layers), 1)
    ]
    return tuple(sorted(fits, key=lambda one: (one.seconds, one.held_nbytes, one.prefetch)))
