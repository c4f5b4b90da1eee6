"""The bucket plan: exact against every cut, DDP's buckets as torch makes them, what a prediction may say."""

import inspect
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.errors import SpecError
from commbench.model.bucket_advice import DDP_CAPS, MIB, ddp, deepspeed, fsdp2, list_caps, megatron
from commbench.model.buckets import Buckets, assign, ddp_buckets, fitted, optimum, predict
from commbench.model.curve import Cost, Curve, curve, measured_curve
from commbench.model.step import (
    Backward,
    Gradient,
    Layer,
    Work,
    backward_of_stats,
    backward_of_workload,
    play,
    sharded,
)
from commbench.records import Case, Measurement, Workload
from commbench.records.workload import Call, Group, Rank, Step


def straight(alpha: float, rate: float, sizes: Sequence[int] = (1, 2**40), spread: float = 0.0) -> Curve:
    """alpha seconds and bytes / rate."""
    times = [(size, alpha + size / rate) for size in sizes]
    return curve([(size, took, took * (1 - spread), took * (1 + spread)) for size, took in times], "all_reduce test")


def job(*gradients: tuple[int, float], seconds: float = 0.0, **more: float) -> Backward:
    """From (bytes, ready); a gradient is defined the earlier the later it is ready."""
    made = [
        Gradient(index=len(gradients) - 1 - k, nbytes=nbytes, ready=ready, elements=max(nbytes // 4, 1), name=f"g{k}")
        for k, (nbytes, ready) in enumerate(gradients)
    ]
    return Backward(gradients=tuple(made), seconds=max(seconds, gradients[-1][1]), **more)


def cuts(count: int) -> list[Buckets]:
    """Every cut of `count` gradients into consecutive buckets."""
    return [
        tuple(
            tuple(range(i, j)) for i, j in itertools.pairwise([0, *(k + 1 for k in range(count - 1) if cut[k]), count])
        )
        for cut in itertools.product((False, True), repeat=count - 1)
    ]


GPT = job(*[(MIB * (1 + k % 3), 0.01 * (k + 1)) for k in range(24)], (40 * MIB, 0.26), rest=0.1)


@st.composite
def jobs(draw: st.DrawFn, slowed: bool, most: int = 7) -> tuple[Backward, Cost]:
    count = draw(st.integers(1, most))
    ready = sorted(draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)))
    sizes = draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    points = sorted(draw(st.sets(st.integers(1, 6000), min_size=1, max_size=6)))
    times = sorted(draw(st.lists(st.integers(1, 60), min_size=len(points), max_size=len(points))))
    alone = Curve(nbytes=tuple(points), seconds=tuple(time / 7 for time in times))
    gamma = draw(st.integers(10, 30)) / 10 if slowed else 1.0
    bound = gamma / (gamma - 1) if gamma > 1 else 5.0
    delta = 1 + (min(bound, 5.0) - 1) * draw(st.integers(0, 10)) / 10
    backward = job(*zip(sizes, map(float, ready), strict=True), seconds=ready[-1] + draw(st.integers(0, 3)))
    return backward, Cost(alone=alone, loaded=alone.scaled(delta), gamma=gamma)


# -- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slowed", [False, True])
def test_no_cut_beats_the_plan(slowed: bool) -> None:
    @settings(max_examples=100, derandomize=True, deadline=None)
    @given(jobs(slowed))
    def check(given_job: tuple[Backward, Cost]) -> None:
        backward, cost = given_job
        found = optimum(backward, cost)
        ends = {plan: predict(backward, cost, plan).step for plan in cuts(len(backward.gradients))}
        assert found.within == 0
        assert found.end == pytest.approx(min(ends.values()), rel=1e-9)
        assert ends[found.buckets] == pytest.approx(found.end, rel=1e-9)

    check()


def test_a_prefix_that_ends_later_but_delays_computing_less_can_win() -> None:
    backward = job((1_880_000, 0.25), (6040, 0.643), (136, 0.96), seconds=1.0)
    sizes = (50, 330, 930, 81_700, 94_000, 1_160_000, 3_780_000)
    alone = Curve(nbytes=sizes, seconds=(2e-4, 5.7e-4, 0.058, 0.116, 0.532, 0.833, 2.327))
    found = optimum(backward, Cost(alone=alone, loaded=alone.scaled(1.027), gamma=3.27))
    assert found.buckets == ((0, 1), (2,))
    greedy = predict(backward, Cost(alone=alone, loaded=alone.scaled(1.027), gamma=3.27), ((0,), (1, 2))).step
    assert found.end < greedy * 0.999


@settings(max_examples=30, derandomize=True, deadline=None)
@given(jobs(slowed=True), st.integers(1, 4000))
def test_a_limit_holds_for_all_but_single_tensors_and_never_helps(given_job: tuple[Backward, Cost], most: int) -> None:
    backward, cost = given_job
    found = optimum(backward, cost, most)
    nbytes = [sum(backward.sizes[k] for k in bucket) for bucket in found.buckets]
    assert all(size <= most or len(bucket) == 1 for size, bucket in zip(nbytes, found.buckets, strict=True))
    assert found.end >= optimum(backward, cost).end - 1e-9
    allowed = [
        plan
        for plan in cuts(len(backward.gradients))
        if all(len(bucket) == 1 or sum(backward.sizes[k] for k in bucket) <= most for bucket in plan)
    ]
    assert found.end == pytest.approx(min(predict(backward, cost, plan).step for plan in allowed), rel=1e-9)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(jobs(slowed=True))
def test_a_slower_network_never_ends_earlier_and_time_has_no_unit(given_job: tuple[Backward, Cost]) -> None:
    backward, cost = given_job
    end = optimum(backward, cost).end
    slower = Cost(alone=cost.alone.scaled(1.5), loaded=cost.loaded and cost.loaded.scaled(1.5), gamma=cost.gamma)
    assert optimum(backward, slower).end >= end - 1e-9
    assert end >= backward.seconds + 0.0
    later = [(one.nbytes, one.ready * 8) for one in backward.gradients]
    scaled = Cost(alone=cost.alone.scaled(8), loaded=cost.loaded and cost.loaded.scaled(8), gamma=cost.gamma)
    assert optimum(job(*later, seconds=backward.seconds * 8), scaled).end == pytest.approx(8 * end)


def test_where_overlap_does_harm_nothing_is_claimed() -> None:
    alone = straight(1e-3, 1e9)
    found = optimum(GPT, Cost(alone=alone, loaded=alone.scaled(4), gamma=3))
    assert found.within is None
    assert "waiting" in " ".join(ddp(GPT, Cost(alone=alone, loaded=alone.scaled(4), gamma=3)).notes)


def test_start_up_merges_and_bandwidth_splits() -> None:
    """All start-up: one message after the last gradient. None: every gradient at once."""
    assert len(optimum(GPT, Cost(alone=straight(1.0, 1e15))).buckets) == 1
    assert len(optimum(job(*[(MIB, k + 1.0) for k in range(9)]), Cost(alone=straight(1e-9, MIB))).buckets) == 9


def test_of_equal_plans_the_one_with_few_buckets() -> None:
    """The first eight gradients hide behind computing however they are sent."""
    backward = job(*[(1000, 1.0 + k / 1000) for k in range(8)], (1000, 100.0))
    assert len(optimum(backward, Cost(alone=straight(1e-6, 1e9))).buckets) == 2


# -- two queues ----------------------------------------------------------------------------------------------------


def test_both_slow_each_other_only_while_both_work() -> None:
    """Computing 4 s, a collective of 3 s that is ready after 2: beside each other half as fast."""
    done = play([Work(2, 4), Work(2, 4)], [Work(3, 6, 1)])
    assert done.computed == pytest.approx(6)  # 2 alone, then 2 at half speed
    assert done.both == pytest.approx(4)
    assert done.end == pytest.approx(7)  # two thirds of the collective in 4 s beside, the rest in 1
    assert done.exposed == pytest.approx(1)


def test_a_prediction_is_taken_apart_into_what_costs() -> None:
    backward = job((100, 2.0), seconds=4.0, rest=10.0)
    alone = straight(3.0, 1e12)
    told = predict(backward, Cost(alone=alone, loaded=alone.scaled(2), gamma=2), ((0,),))
    assert (told.step, told.exposed, told.stretch) == pytest.approx((17.0, 1.0, 2.0))
    assert told.added == pytest.approx(told.exposed + told.stretch)


def test_queues_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        play([Work(1, 1, 1)], [Work(1, 1, 1)])


# -- the curve -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.dictionaries(st.integers(1, 10**6), st.floats(1e-6, 10), min_size=1, max_size=12))
def test_a_curve_never_falls_and_keeps_its_sum(points: dict[int, float]) -> None:
    made = curve([(size, took, took / 2, took * 2) for size, took in points.items()])
    everywhere = np.unique(np.geomspace(1, 10**7, 300))
    for side in ("seconds", "high"):
        assert (np.diff(made.at(everywhere, side)[np.isfinite(made.at(everywhere, side))]) >= -1e-12).all()
    assert (made.at(everywhere, "low") <= made.at(everywhere) + 1e-12).all()
    assert sum(made.seconds) == pytest.approx(sum(points.values()))


def test_beyond_the_measured_sizes_the_interval_is_open_and_said() -> None:
    made = straight(1.0, 100.0, (100, 1000), spread=0.1)
    assert made.outside([50, 100, 500, 1000, 1001]) == (50, 1001)
    assert made.at([50.0, 2000.0]) == pytest.approx([2.0, 21.0])
    assert made.at([50.0, 2000.0], "low") == pytest.approx([0.0, 9.9])
    assert made.at([50.0, 2000.0], "high") == pytest.approx([2.2, math.inf])
    told = predict(job((2000, 1.0)), Cost(alone=made), ((0,),))
    assert (told.outside, told.high) == ((2000,), None)
    assert told.low == pytest.approx(10.9)


def test_without_an_interval_there_is_none() -> None:
    told = predict(job((8, 1.0)), Cost(alone=curve([(8, 1.0, None, None)])), ((0,),))
    assert (told.step, told.low, told.high) == (2.0, None, None)


def test_the_curve_of_a_run() -> None:
    def measured(nbytes: int, took: float, **case: object) -> Measurement:
        about = {"op": "all_reduce", "backend": "gloo", "nbytes": nbytes, **case}
        return Measurement(case=Case(**about), ranks=4, nbytes=nbytes, seconds=(took,) * 9)

    run = [measured(1024, 2e-3), measured(4096, 1e-3), measured(2**20, 9e-3), measured(8, 1e-3, op="broadcast")]
    made = measured_curve(run, "all_reduce")
    assert made.nbytes == (1024, 4096, 2**20)
    assert made.seconds == pytest.approx((1.5e-3, 1.5e-3, 9e-3))
    assert made.what == "all_reduce gloo 4 ranks"
    with pytest.raises(SpecError, match="dtype"):
        measured_curve([*run, measured(1024, 1e-3, dtype="float16")], "all_reduce")
    assert len(measured_curve([*run, measured(8, 1e-3, dtype="float16")], "all_reduce", dtype="float32").nbytes) == 3
    with pytest.raises(SpecError, match="no measured all_gather"):
        measured_curve(run, "all_gather")


# -- DDP's rule ----------------------------------------------------------------------------------------------------


def test_buckets_are_torchs_own() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.distributed._compute_bucket_assignment_by_size
    kinds = [torch.float32, torch.bfloat16, torch.float64]

    @settings(max_examples=200, derandomize=True, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(1, 400), st.sampled_from(kinds), st.booleans()), min_size=1, max_size=20),
        st.lists(st.integers(0, 3000), min_size=1, max_size=4),
        st.booleans(),
    )
    def check(tensors: list[tuple[int, "torch.dtype", bool]], limits: list[int], sort: bool) -> None:
        made = [torch.zeros(count, dtype=kind) for count, kind, _ in tensors]
        sparse = [flag for _, _, flag in tensors]
        found, _ = theirs(made, limits, sparse, [] if sort else list(range(len(made))))
        sizes = [one.numel() * one.element_size() for one in made]
        assert [list(bucket) for bucket in assign(sizes, limits, [one.dtype for one in made], sparse, sort)] == found

    check()


@pytest.mark.parametrize(
    "asked",
    [{}, {"bucket_cap_mb": 0.3}, {"bucket_cap_mb_list": [0.5, 2, 1.25]}],
)
def test_a_real_ddp_rebuilds_these_buckets(asked: dict[str, object]) -> None:
    torch = pytest.importorskip("torch")
    parallel = torch.nn.parallel.DistributedDataParallel
    if "bucket_cap_mb_list" in asked and "bucket_cap_mb_list" not in inspect.signature(parallel).parameters:
        pytest.skip(f"torch {torch.__version__} has no bucket_cap_mb_list")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        widths = [64, 512, 700, 256, 900, 300, 8]
        model = torch.nn.Sequential(*[torch.nn.Linear(*pair) for pair in itertools.pairwise(widths)])
        wrapped = parallel(model, **asked)
        for _ in range(3):
            wrapped(torch.ones(2, 64)).sum().backward()
        about = [{"name": name, "nbytes": one.numel() * 4} for name, one in model.named_parameters()]
        backward = backward_of_stats([wrapped.reducer.get_backward_stats()], about)
        told = wrapped._get_ddp_logging_data()["rebuilt_per_bucket_param_indices"]
    finally:
        torch.distributed.destroy_process_group()
    megabytes = asked.get("bucket_cap_mb_list") or [cap for cap in [asked.get("bucket_cap_mb")] if cap]
    made = ddp_buckets(backward, [int(cap * MIB) for cap in megabytes] or DDP_CAPS)
    theirs = [[int(number) for number in bucket.split()] for bucket in told.split(",")]
    assert [[backward.gradients[place].index for place in bucket] for bucket in made] == theirs


def test_an_explicit_25_is_not_the_default() -> None:
    backward = job(*[(MIB, k + 1.0) for k in range(60)])
    first, *_ = ddp_buckets(backward, DDP_CAPS)
    assert len(first) == 1
    assert [len(bucket) for bucket in ddp_buckets(backward, (25 * MIB,))] == [25, 25, 10]


def test_a_cap_is_a_threshold_on_whole_tensors() -> None:
    backward = job((3 * MIB, 1.0), (3 * MIB, 2.0), (50 * MIB, 3.0))
    assert ddp_buckets(backward, (5 * MIB,)) == ((0, 1), (2,))


def test_buckets_that_are_not_rebuilt_follow_the_definition() -> None:
    backward = job((MIB, 1.0), (MIB, 2.0), (MIB, 3.0), (MIB, 4.0), (MIB, 5.0))
    assert ddp_buckets(backward, (MIB, 3 * MIB), rebuilt=False) == ((0,), (3, 2, 1), (4,))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=10), st.data())
def test_a_list_of_caps_makes_its_plan(sizes: list[int], data: st.DataObject) -> None:
    backward = job(*[(size, k + 1.0) for k, size in enumerate(sizes)])
    plan = data.draw(st.sampled_from(cuts(len(sizes))))
    assert ddp_buckets(backward, [int(cap * MIB) for cap in list_caps(backward, plan)]) == plan


# -- advice --------------------------------------------------------------------------------------------------------

SIZES = tuple(2**k for k in range(10, 28))
SLOW = Cost(alone=straight(1e-3, 1e9, SIZES, spread=0.02))


def test_ddp_is_told_what_its_own_rule_makes() -> None:
    advice = ddp(GPT, SLOW)
    names = [one.name for one in advice.candidates]
    assert "default" in names
    assert "list" in names
    for one in advice.candidates:
        again = predict(GPT, SLOW, ddp_buckets(GPT, one.caps))
        assert again == one.prediction
        assert again.step >= GPT.rest + GPT.seconds + advice.floor - 1e-12
    assert advice.within == 0
    assert advice.floor >= advice.tail > 0
    steps = [round(one.prediction.step, 9) for one in advice.candidates]
    assert steps == sorted(steps)
    assert advice.default.gain == 0
    assert advice.default.settings == {}
    assert any("last gradient" in note for note in advice.notes)


def test_nothing_to_gain_is_said() -> None:
    """Computing hides everything but the last message."""
    advice = ddp(GPT, Cost(alone=straight(1e-6, 1e13, SIZES, spread=0.02)))
    assert "no setting" in advice.keep
    assert ddp(GPT, Cost(alone=straight(5e-3, 1e9, SIZES, spread=0.02))).keep == ""


def test_plans_stay_within_what_was_measured() -> None:
    small = Cost(alone=straight(1e-2, 1e12, tuple(2**k for k in range(10, 23)), spread=0.02))
    advice = ddp(GPT, small)
    chosen = next(one for one in advice.candidates if one.name == "list")
    assert all(size <= 2**22 or size == 40 * MIB for size in chosen.prediction.nbytes)
    assert chosen.prediction.outside == (40 * MIB,)
    assert any("extrapolated" in note for note in advice.notes)


def test_old_torch_gets_no_list_and_several_kinds_get_one_cap() -> None:
    assert all("bucket_cap_mb_list" not in one.settings for one in ddp(GPT, SLOW, lists=False).candidates)
    mixed = Backward(
        gradients=tuple(
            Gradient(index=k, nbytes=MIB, ready=k + 1.0, dtype=("float32", "bfloat16")[k % 2]) for k in range(8)
        ),
        seconds=9.0,
    )
    advice = ddp(mixed, SLOW)
    assert (advice.floor, advice.within) == (None, None)
    assert {len(one.settings) for one in advice.candidates} == {0, 1}
    assert all("bucket_cap_mb_list" not in one.settings for one in advice.candidates)


def test_deepspeed_counts_elements_and_closes_before_the_cap() -> None:
    backward = job((400, 1.0), (400, 2.0), (2000, 3.0), (400, 4.0))
    advice = deepspeed(backward, Cost(alone=straight(1e-9, 1000.0)))
    made = {one.settings["reduce_bucket_size"]: one.prediction.nbytes for one in advice.candidates if one.settings}
    for cap, nbytes in made.items():
        assert all(size <= 4 * cap or size == 2000 for size in nbytes)
    assert advice.default.prediction.nbytes == (3200,)
    assert advice.candidates[0].prediction.nbytes != (3200,)
    assert any("convergence" in note for note in advice.notes)


def test_megatron_counts_parameters_from_the_end_of_the_model() -> None:
    """Bucket by definition; the gradient that is ready last was defined last, so the first bucket waits for it."""
    gradients = [Gradient(index=k, nbytes=400, elements=100, ready=1.0 + k) for k in range(4)]
    backward = Backward(gradients=tuple(gradients), seconds=4.0)
    advice = megatron(backward, Cost(alone=straight(1e-3, 1e5)), ranks=64)
    assert advice.default.caps == (64_000_000 * 4,)
    assert advice.default.prediction.nbytes == (1600,)
    assert {name for one in advice.candidates for name in one.settings} == {"ddp_bucket_size"}
    with pytest.raises(SpecError, match="counts elements"):
        megatron(Backward(gradients=(Gradient(index=0, nbytes=4, ready=1.0),), seconds=1.0), SLOW, 2)


def test_slowdowns_are_found_from_measured_steps() -> None:
    alone = straight(1e-3, 1e9)
    true = Cost(alone=alone, loaded=alone.scaled(1.6), gamma=1.4)
    plans = [ddp_buckets(GPT, caps) for caps in (DDP_CAPS, (MIB,), (5 * MIB,), (100 * MIB,))]
    found, rest = fitted(GPT, alone, [(plan, predict(GPT, true, plan).step) for plan in plans])
    unseen = ddp_buckets(GPT, (10 * MIB,))
    told = rest + predict(GPT, found, unseen).step - GPT.rest
    assert told == pytest.approx(predict(GPT, true, unseen).step, rel=0.01)
    with pytest.raises(SpecError, match="three"):
        fitted(GPT, alone, [(plans[0], 1.0)])


# -- FSDP2 ---------------------------------------------------------------------------------------------------------

LAYERS = [Layer(name=f"block{k}", nbytes=MIB, forward=0.01, backward=0.02, grad_nbytes=2 * MIB) for k in range(8)]


def test_gathers_hide_behind_computing_but_the_first_and_the_last() -> None:
    fast = Cost(alone=straight(1e-3, 1e15))
    one = sharded(LAYERS, [1] * 8, fast, fast, 1)
    assert one.seconds == pytest.approx(8 * 0.03 + 3e-3)  # first gather of each pass, last reduce-scatter
    assert one.held_nbytes == 2 * MIB
    assert sharded(LAYERS, [1] * 8, fast, fast, 0).exposed > one.exposed


def test_groups_of_layers_pay_where_start_up_is_dear_and_memory_limits_them() -> None:
    dear = Cost(alone=straight(30e-3, 1e12))
    ways = fsdp2(LAYERS, dear, dear)
    assert len(ways[0].groups) < 8
    narrow = fsdp2(LAYERS, dear, dear, max_held_nbytes=2 * MIB)
    assert all(one.held_nbytes <= 2 * MIB for one in narrow)
    assert any(len(one.groups) == 8 for one in narrow)
    assert narrow[0].seconds >= ways[0].seconds
    kept = fsdp2(LAYERS, dear, dear, reshard=False)
    assert kept[0].seconds < ways[0].seconds
    assert all(one.held_nbytes == 8 * MIB for one in kept)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match="do not fit 8 layers"):
        sharded(LAYERS, [3, 3], SLOW, SLOW, 1)


# -- where ready times come from -----------------------------------------------------------------------------------


def test_ready_times_of_ddp_are_of_the_latest_rank_and_the_median_step() -> None:
    told = [[[3e9, 1e9], [2e9, 2e9]], [[3e9, 1e9], [5e9, 1e9]], [[3e9, 2e9], [1e9, 1e9]]]  # steps, ranks, parameters
    backward = backward_of_stats(told, [{"name": "a", "nbytes": 4}, {"name": "b", "nbytes": 8, "elements": 2}])
    assert [(one.name, one.index, one.ready) for one in backward.gradients] == [("b", 1, 2.0), ("a", 0, 3.0)]
    with pytest.raises(SpecError, match="a never got a gradient"):
        backward_of_stats([[0, 1]], [{"name": "a", "nbytes": 4}, {"name": "b", "nbytes": 8}])
    with pytest.raises(SpecError, match="do not fit"):
        backward_of_stats([[1, 1, 1]], [{"name": "a", "nbytes": 4}])


def test_a_trace_tells_the_jobs_own_buckets() -> None:
    steps = tuple(Step(number=k, start_us=1e6 * k, end_us=1e6 * k + 9e5) for k in range(3))
    calls = [
        Call(op="all_reduce", nbytes=nbytes, group=0, step=k, launch_us=1e6 * k + at, end_us=1e6 * k + at + 1e5)
        for k in range(3)
        for nbytes, at in ((MIB, 4e5), (2 * MIB, 6e5))
    ]
    trace = Workload(
        world_size=2, groups=(Group(size=2),), ranks=(Rank(rank=0, steps=steps, calls=(*calls, calls[0])),)
    )
    backward = backward_of_workload(trace, 0)
    assert [(one.nbytes, one.ready) for one in backward.gradients] == [(MIB, 0.4), (2 * MIB, 0.6)]
    assert backward.rest == pytest.approx(0.2)
    assert not backward.whole
    assert any("cannot" in note or "not split" in note for note in ddp(backward, SLOW).notes)
    with pytest.raises(SpecError, match="no reduce_scatter"):
        backward_of_workload(trace, 0, "reduce_scatter")
    with pytest.raises(SpecError, match="no trace of rank 7"):
        backward_of_workload(trace, 7)


@pytest.mark.parametrize(
    ("gradients", "seconds", "says"),
    [([], 1.0, "needs gradients"), ([(4, 2.0), (4, 1.0)], 3.0, "order"), ([(4, 2.0)], 1.0, "after the backward")],
)
def test_impossible_steps_are_refused(gradients: list[tuple[int, float]], seconds: float, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Backward(
            gradients=tuple(Gradient(index=k, nbytes=n, ready=r) for k, (n, r) in enumerate(gradients)),
            seconds=seconds,
        )


def test_buckets_must_hold_every_gradient_once() -> None:
    with pytest.raises(SpecError, match="every gradient once"):
        predict(GPT, SLOW, ((0, 1), (1, 2)))
    with pytest.raises(SpecError, match="at least as long"):
        Cost(alone=SLOW.alone, gamma=0.5)
