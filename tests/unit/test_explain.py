"""A job's messages from what it left behind, which sizes and weights a search makes of them, and what tuning gains."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from real_data import real

from commbench import store
from commbench.errors import CommbenchError, ReadError
from commbench.jobs.messages import messages
from commbench.model.messages import Job, Message, Use, ddp_buckets, of_workload, sizes, weights
from commbench.records import Case, Machine, Measurement, Run
from commbench.records.workload import Call, Group, Rank, Step, Workload
from commbench.tune.explain import explain

EXAMPLES = int(os.environ.get("COMMBENCH_EXAMPLES", "30"))
HERE = {"launcher": "", "hosts": [], "host_of": [], "facts": {}, "environment": {}}
JOB = {Message("all_reduce", 4, 4096): Use(10), Message("all_reduce", 4, 1024): Use(4), Message("x", 4, 1024): Use(4)}


def at(nbytes: int, ranks: int = 4) -> Message:
    return Message("all_reduce", ranks, nbytes)


def trials(
    times: dict[int, dict[str, float]], rounds: int = 8, noise: float = 0.005, seed: int = 0, dtype: str = "float32"
) -> list[Measurement]:
    """`times`: nbytes -> candidate ("" is the default) -> seconds in truth."""
    random = np.random.default_rng(seed)
    return [
        Measurement(
            case=Case(
                op="all_reduce",
                backend="mpi",
                nbytes=nbytes,
                dtype=dtype,
                settings=(("algorithm", name),) if name else (),
            ),
            ranks=4,
            nbytes=nbytes,
            seconds=(seconds * math.exp(random.normal(0, noise)),),
            wrong=0,
            launch=k,
        )
        for k in range(rounds)
        for nbytes, each in times.items()
        for name, seconds in each.items()
    ]


# ---- the gain -------------------------------------------------------------------------------------------


def test_it_weighs_by_the_bytes_of_the_job() -> None:
    told = explain(trials({1024: {"": 1e-3, "a": 1e-3}, 4096: {"": 2e-3, "a": 1e-3}}), JOB, step_us=100_000)
    assert told.top == 1
    assert told.top_share == pytest.approx(40960 / (40960 + 8192))
    assert told.measured_share == pytest.approx(45056 / 49152)
    assert told.gain is not None
    gain, half = told.gain
    assert gain == pytest.approx(0.1, abs=0.004)  # 10 calls of 2 ms become 1 ms each, in a step of 100 ms
    assert 0 < half < 0.01
    first, second, *_ = told.sentences()
    assert first.startswith("83 % of your bytes are in 1 size; possible gain ")
    assert " % of the step, +-" in first
    assert second == "8 % of the bytes are of sizes that were not measured"


def test_it_counts_only_what_is_exposed_and_proved() -> None:
    rows = trials({1024: {"": 1e-3, "a": 1e-3}, 4096: {"": 2e-3, "a": 1e-3}})
    half = explain(rows, {at(4096): Use(10, exposed=0.5)})
    assert half.gain_us[0] == pytest.approx(5000, rel=0.03)
    assert half.gain is None
    assert explain(rows, {at(1024): Use(10)}).gain_us == (0, 0)
    assert explain(rows, {at(4096, 8): Use(10)}).measured_share == 0


def test_what_was_not_measured_is_told_and_why() -> None:
    rows = trials({1024: {"": 1e-3, "a": 5e-4}, 4096: {"": 2e-3, "a": 1e-3}})
    assert "none of your sizes was measured, so nothing" in next(explain([], JOB).sentences())
    assert "measured on 4 ranks, the job calls it on 8" in next(explain(rows, {at(4096, 8): Use(1)}).sentences())
    outside = explain(rows, {at(8192): Use(1)})
    assert "none of your sizes was measured, so nothing" in next(outside.sentences())
    little = list(explain(rows, {at(4096): Use(1000), at(8192): Use(1)}).sentences())
    assert "less than 1 % of the bytes are of sizes that were not measured" in little
    assert little[0].startswith("more than 99 % of your bytes")


def test_between_two_sizes_the_rule_counts_where_it_was_tried_at_both() -> None:
    both = trials({1024: {"": 1e-3, "a": 5e-4}, 4096: {"": 4e-3, "a": 1e-3}})
    told = explain(both, {at(2048): Use(1)})
    assert told.lines[0].default_us == pytest.approx(2000, rel=0.01)  # half way, on log axes
    assert told.gain_us[0] == pytest.approx(2000 * (1 - math.sqrt(0.5 * 0.25)), rel=0.02)
    change = trials({1024: {"": 1e-3, "a": 5e-4}, 4096: {"": 4e-3, "b": 1e-3}})
    assert explain(change, {at(2048): Use(1)}).gain_us == (0, 0)
    assert explain(change, {at(1024): Use(1), at(4096): Use(1)}).gain_us[0] == pytest.approx(3500, rel=0.02)


def test_a_job_that_tells_all_its_exposed_time_cannot_gain_more() -> None:
    rows = trials({1024: {"": 1e-3, "a": 5e-4}, 4096: {"": 2e-3, "a": 1e-3}})
    told = explain(rows, {at(1024): Use(10), at(4096): Use(5)}, 1e5, exposed_us=2000.0)
    assert told.exposed_us == pytest.approx(2000)
    assert told.gain_us[0] == pytest.approx(1000, rel=0.02)
    assert told.lines[0].gain_us is not None
    half = explain(rows, {at(1024): Use(10), Message("broadcast", 4, 10240): Use(1)}, 1e5, exposed_us=2000.0)
    assert half.gain_us[0] == pytest.approx(500, rel=0.02)  # half of the bytes were not measured
    assert explain(rows, {at(1024): Use(1)}, 1e5, exposed_us=1e9).gain_us[0] == pytest.approx(500, rel=0.02)


def test_a_step_shorter_than_its_communication_is_another_network() -> None:
    told = explain(trials({4096: {"": 2e-3, "a": 1e-3}}), {at(4096): Use(10)}, step_us=15_000)
    assert told.gain is None
    assert "takes 20 ms of a step of 15 ms: the job ran on another network" in " ".join(told.sentences())


def test_of_two_series_the_one_counts_that_promises_least() -> None:
    rows = trials({4096: {"": 2e-3, "a": 1e-3}}) + trials({4096: {"": 2e-3, "a": 1.6e-3}}, dtype="bfloat16")
    assert explain(rows, {at(4096): Use(1)}).gain_us[0] == pytest.approx(400, rel=0.05)


def test_sizes_that_share_a_measurement_share_its_error() -> None:
    """A hundred sizes between two measured ones are no hundred independent looks at them."""
    rows = trials({1024: {"": 1e-3, "a": 5e-4}, 4096: {"": 1e-3, "a": 5e-4}}, noise=0.03)
    one = explain(rows, {at(2048): Use(100)})
    many = explain(rows, {at(1998 + k): Use(1) for k in range(100)})
    assert many.gain_us[0] == pytest.approx(one.gain_us[0], rel=0.01)
    assert many.gain_us[1] == pytest.approx(one.gain_us[1], rel=0.02)


times = st.fixed_dictionaries(
    {
        n: st.fixed_dictionaries({"": st.just(1e-3), "a": st.floats(3e-4, 2e-3), "b": st.floats(3e-4, 2e-3)})
        for n in (512, 2048, 8192)
    }
)
uses = st.dictionaries(
    st.integers(256, 16384).map(at),
    st.builds(Use, st.floats(0.01, 100), st.floats(0, 1), st.none()),
    min_size=1,
    max_size=6,
)


@given(times, uses, st.integers(0, 9), st.floats(0.1, 10))
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_gain_adds_up(times: dict[int, dict[str, float]], job: dict[Message, Use], seed: int, more: float) -> None:
    rows = trials(times, rounds=6, noise=0.02, seed=seed)
    told = explain(rows, job, 1e9)
    parts = [line.gain_us for line in told.lines if line.gain_us]
    assert sum(line.share for line in told.lines) == pytest.approx(1)
    assert told.gain_us[0] == pytest.approx(sum(gain for gain, _ in parts), abs=1e-6)
    halves = [half for _, half in parts]
    assert max(halves, default=0) - 1e-6 <= told.gain_us[1] <= sum(halves) + 1e-6
    assert told.gain_us[0] <= told.exposed_us + 1e-6  # no more than there is
    assert told.gain is not None
    assert told.gain[0] == pytest.approx(told.gain_us[0] / 1e9)
    assert sum(line.share for line in told.lines[: told.top]) == pytest.approx(told.top_share)
    scaled = explain(rows, {m: use._replace(calls=use.calls * more) for m, use in reversed(job.items())})
    assert scaled.gain_us == pytest.approx([value * more for value in told.gain_us], rel=1e-6, abs=1e-6)
    hidden = explain(rows, {m: use._replace(exposed=0.0) for m, use in job.items()})
    assert hidden.gain_us == (0, 0)


def test_the_interval_covers_the_truth_though_the_fastest_of_many_was_chosen() -> None:
    """Six settings are equally good: the one that is chosen was lucky, and the interval must know."""
    inside, wide = 0, 0
    names = "abcdef"
    for seed in range(60):
        rows = trials({4096: {"": 2e-3} | dict.fromkeys(names, 1.6e-3)}, noise=0.03, seed=seed)
        told = explain(rows, {at(4096): Use(1)})
        inside += abs(told.gain_us[0] - 400) <= told.gain_us[1]
        wide += told.gain_us[1] > 200
    assert inside >= 56
    assert wide == 0  # an interval that always covers is no answer


def test_the_interval_is_shown_with_digits_that_it_has() -> None:
    rows = trials({4096: {"": 2e-3, "a": 1e-3}})
    said = [next(explain(rows, {at(4096): Use(1)}, step).sentences()).partition("gain ")[2] for step in (1e4, 1e6, 1e9)]
    told = [[float(text) for text in one.replace("+-", "").split() if text[0].isdigit()] for one in said]
    assert [gain for gain, _ in told] == pytest.approx([10, 0.1, 0], abs=0.2)
    assert told[0][1] > 0
    assert told[1][1] > 0


# ---- which sizes, which weights -------------------------------------------------------------------------


def test_sizes_are_the_jobs_own_with_one_below_and_above() -> None:
    job = {at(1000): Use(1), at(5000): Use(10), at(5100): Use(1), at(40000): Use(2), at(8): Use(3)}
    assert sizes(job, "all_reduce") == (2500, 5000, 40000, 80000)  # 1000 and 8 bytes are not in 95 % of the bytes
    assert sizes(job, "all_gather") == ()
    assert sizes(job, "all_reduce", ranks=8) == ()
    assert sizes({Message("barrier", 4, 0): Use(1)}, "barrier") == ()


@given(st.dictionaries(st.integers(1, 2**40), st.floats(0.01, 1e3), min_size=1, max_size=60), st.integers(2, 14))
@settings(max_examples=EXAMPLES, deadline=None)
def test_sizes_cover_the_bytes(calls: dict[int, float], most: int) -> None:
    found = sizes({at(n): Use(c) for n, c in calls.items()}, "all_reduce", most=most)
    assert list(found) == sorted(set(found))
    assert len(found) <= most + 2
    inside = sum(n * c for n, c in calls.items() if found[0] <= n <= found[-1])
    assert inside >= 0.95 * sum(n * c for n, c in calls.items()) * (1 - 1e-9)
    assert set(found) - {found[0], found[-1]} <= set(calls)


def cases(*nbytes: int) -> list[Case]:
    return [Case(op="all_reduce", backend="mpi", nbytes=n) for n in nbytes]


def test_weights_are_shares_of_the_exposed_time() -> None:
    small, large = cases(1024, 4096)
    job = {at(1024): Use(10, 1.0, 100.0), at(4096): Use(1, 0.5, 2000.0), at(1): Use(1, 1.0, 2000.0)}
    assert weights([small, large], job) == pytest.approx({small: 0.25, large: 0.25})  # the rest is out of reach
    untold = {at(1024): Use(4), at(4096): Use(1), Message("broadcast", 4, 8192): Use(1)}
    assert weights([small, large], untold) == pytest.approx({small: 0.25, large: 0.25})  # by bytes
    assert weights([small, large], {at(2048): Use(1)}) == pytest.approx({small: 0.5, large: 0.5})
    assert weights([small, large], {}) == {small: 0, large: 0}
    assert weights([small], untold, ranks=8) == {small: 0}


@given(st.sets(st.integers(1, 2**30), min_size=1, max_size=8), uses)
@settings(max_examples=EXAMPLES, deadline=None)
def test_weights_add_up_to_what_lies_within_the_sizes(asked: set[int], job: dict[Message, Use]) -> None:
    found = weights(cases(*asked), job)
    whole = {m.nbytes: m.nbytes * use.calls * use.exposed for m, use in job.items()}
    assume(sum(whole.values()) > 0)
    inside = sum(value for n, value in whole.items() if min(asked) <= n <= max(asked))
    assert sum(found.values()) == pytest.approx(inside / sum(whole.values()))
    assert min(found.values()) >= 0


# ---- what jobs leave behind: traces ---------------------------------------------------------------------


def rank_of(number: int, calls: Sequence[Call], marked: bool = True) -> Rank:
    steps = tuple(Step(number=k if marked else None, start_us=1000.0 * k, end_us=1000.0 * k + 900) for k in range(2))
    return Rank(rank=number, steps=steps if marked else steps[:1], calls=tuple(calls))


def reduced(step: int | None, group: int | None = 0, exposed: float | None = 10.0, nbytes: int | None = 4096) -> Call:
    return Call(op="all_reduce", nbytes=nbytes, group=group, step=step, start_us=0.0, end_us=40.0, exposed_us=exposed)


GROUPS = (Group(name="0", size=4, ranks=(0, 1, 2, 3)), Group(name="1", ranks=(0, 1)))


def test_calls_are_those_of_one_rank_in_one_step() -> None:
    ranks = (
        rank_of(0, [reduced(0), reduced(1), reduced(1, group=1), reduced(None)]),
        rank_of(1, [reduced(0), reduced(1, exposed=None)]),
    )
    job = of_workload(Workload(world_size=4, groups=GROUPS, ranks=ranks), "t")
    assert job.messages == {at(4096, 4): Use(1.0, 0.25, 40.0), at(4096, 2): Use(0.25, 0.25, 40.0)}
    assert job.step_us == 900
    assert job.notes == ("1 calls outside of the marked steps are not counted",)


def test_what_a_trace_does_not_tell_is_not_guessed() -> None:
    calls = [reduced(0, group=None), reduced(0, nbytes=None), reduced(0, exposed=None)]
    whole = Workload(groups=GROUPS, ranks=(rank_of(0, calls, marked=False),))
    job = of_workload(whole, "t")
    assert job.messages == {at(4096): Use(1.0, 1.0, 40.0)}  # no exposed time is told: all of it counts
    assert job.step_us is None
    assert [note.partition(":")[0] for note in job.notes] == [
        "2 of 3 calls are not counted",
        "no steps are marked",
    ]
    assert of_workload(whole, "t", ranks=4).messages[at(4096)].calls == 2
    for left, said in (
        (calls[:1], "tells how many ranks its group has"),
        (calls[1:2], "tells what it carries"),
        ([], "holds no communication"),
    ):
        with pytest.raises(ReadError, match=said):
            of_workload(Workload(groups=GROUPS, ranks=(rank_of(0, left),)), "t")


def test_an_imported_run_folder_is_a_job(tmp_path: Path) -> None:
    about = {"format": store.FORMAT, "name": "t", "created": "2026-01-01T00:00:00+00:00", "commbench": "0"}
    run = Run(**about, seed=0, spec={}, machine=msgspec.convert(HERE, Machine))  # type: ignore[arg-type]
    for rank, name in enumerate(("one", "two")):
        store.create(tmp_path / name, run).close()
        workload = Workload(groups=GROUPS, ranks=(rank_of(rank, [reduced(0), reduced(1)]),))
        store.write_parts(tmp_path / name, [workload])
    assert messages(tmp_path / "one").messages == {at(4096): Use(1.0, 0.25, 40.0)}
    with pytest.raises(CommbenchError, match=r"holds 2 jobs \(one, two\), for they lie in several folders; name one"):
        messages(tmp_path)


def test_real_traces() -> None:
    job = messages(real("trace/ddp-a100-rank0of2-collargs.json.gz"))
    assert sizes(job.messages, "all_reduce") == (4098000, 8196000, 9724160, 26550272, 31502336, 63004672)
    assert job.messages[at(8196000, 2)].calls == 1
    assert job.step_us == pytest.approx(222_368, abs=1)
    dlrm = real("trace/dlrm-v100-8ranks")
    with pytest.raises(ReadError, match="none of the 8 communication calls tells how many ranks its group has"):
        messages(dlrm / "rank0.json.gz")
    eight = messages(dlrm, ranks=8).messages
    assert eight[Message("all_to_all", 8, 24576)].calls == 2  # 16 calls of 8 ranks in one step


# ---- what jobs leave behind: DDP's data, step files, shapes ---------------------------------------------


def ddp(**more: Any) -> dict[str, Any]:
    return {"rebuilt_bucket_sizes": "1313792, 11914240", "has_rebuilt_buckets": 1, "world_size": 2, **more}


def recorded(folder: Path, *told: object, exposed: bool = True) -> Path:
    for rank, one in enumerate(told):
        (folder / f"ddp-{rank}.json").write_text(json.dumps(one))
        lines = [
            {"step": k, "seconds": 0.1 + 0.01 * rank, **({"exposed_s": 0.02 + 0.01 * rank} if exposed else {})}
            for k in range(3)
        ]
        (folder / f"steps-{rank}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_step_files_with_what_ddp_says(tmp_path: Path) -> None:
    job = messages(recorded(tmp_path, ddp(), ddp()))
    assert job.messages == {at(1313792, 2): Use(1.0), at(11914240, 2): Use(1.0)}
    assert job.step_us == pytest.approx(110_000)  # of the slower rank
    assert job.exposed_us == pytest.approx(20_000)  # of the rank that came last, and waits least
    assert job.notes == ()
    alike = messages(
        recorded(tmp_path, ddp(rebuilt_bucket_sizes="8, 8"), ddp(rebuilt_bucket_sizes="8, 8"), exposed=False)
    )
    assert alike.messages == {at(8, 2): Use(2.0)}
    assert alike.exposed_us is None
    assert "all of it counts" in alike.notes[0]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([ddp(world_size=1)], "ddp-0.json: a job on 1 ranks sends nothing"),
        ([ddp(world_size=None)], "ddp-0.json: a job on null ranks"),
        ([ddp(rebuilt_bucket_sizes="a\x1b[2J")], "ddp-0.json: rebuilt_bucket_sizes is"),
        ([ddp(rebuilt_bucket_sizes="", bucket_sizes=[1])], "not a list of bytes"),
        ([ddp(rebuilt_bucket_sizes="0, 5")], "a bucket of 0 bytes"),
        ([ddp(comm_hook="bf16_compress_hook")], "bf16_compress_hook' sends something else"),
        ([ddp(), ddp(rebuilt_bucket_sizes="7")], "ddp-1.json: other buckets or ranks than in ddp-0.json"),
        ([ddp(), ddp(), ddp()], "steps of 3 ranks in a job of 2"),
        ([[1]], "is no logging data of DDP"),
    ],
)
def test_nonsense_of_ddp_is_refused(tmp_path: Path, told: list[object], said: str) -> None:
    with pytest.raises(ReadError) as caught:
        messages(recorded(tmp_path, *told))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_step_files_alone_tell_no_message(tmp_path: Path) -> None:
    (recorded(tmp_path, ddp()) / "ddp-0.json").unlink()
    with pytest.raises(ReadError, match=r"call rec.ddp\(model\)"):
        messages(tmp_path)
    with pytest.raises(ReadError, match="name its folder"):
        messages(tmp_path / "steps-0.jsonl")


def train_json(**more: Any) -> dict[str, Any]:
    step = {"seconds": 0.1, "forward_s": 0.03, "backward_s": 0.05, "optimizer_s": 0.02, "exposed_s": 0.01}
    rank = step | {"alone": None, "tokens_per_s": 1.0, "first_loss": 5.0, "last_loss": 3.0}
    about = {"name": "gpt", "created": "", "commbench": "0", "spec": {}, "machine": HERE, "text_sha256": ""}
    made = {"parameters": 1, "gradients": [], "applied": {}, "origin": "spec", "buckets": [1000, 4000]}
    said = {"in_effect": True, "unproved": "", "told": {}, "exposed": ""}
    return about | made | said | {"ranks": [rank, rank | {"seconds": 0.12, "exposed_s": 0.03}]} | more


def test_train_json(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(train_json()))
    job = messages(tmp_path)
    assert (job.messages, job.step_us) == ({at(1000, 2): Use(1.0), at(4000, 2): Use(1.0)}, pytest.approx(120_000))
    assert job.exposed_us == pytest.approx(10_000)
    assert messages(path) == job
    for more, said in (
        ({"buckets": [], "unproved": "FSDP2 tells nothing of its groups"}, "FSDP2 tells nothing of its groups; take a"),
        ({"told": {"comm_hook": "PowerSGD"}}, "sends something else than buckets"),
        ({"format": 9}, "newer than this commbench reads"),
        ({"ranks": []}, "0 ranks sends nothing"),
        ({"buckets": "x"}, "is no train.json of commbench train"),
    ):
        path.write_text(json.dumps(train_json(**more)))
        with pytest.raises(ReadError, match=said):
            messages(path)


def test_shapes_become_ddps_buckets(tmp_path: Path) -> None:
    """From the last parameter on; the first bucket closes at 1 MiB, the others at the cap."""
    mib = 2**20
    path = tmp_path / "model.yaml"
    listed = "".join(f"  - {{name: p{k}, nbytes: {k}MiB}}\n" for k in (40, 3, 2))
    path.write_text(f"framework: ddp\nranks: 4\ngradients:\n{listed}")
    job = messages(path)
    assert job.messages == {at(2 * mib): Use(1.0), at(43 * mib): Use(1.0)}
    assert job.step_us is None
    path.write_text(f"bucket_cap_mb: 4\ngradients:\n{listed}")
    assert messages(path, ranks=8).messages == {at(5 * mib, 8): Use(1.0), at(40 * mib, 8): Use(1.0)}
    as_json = tmp_path / "model.json"
    as_json.write_text(json.dumps({"gradients": [{"name": "w", "nbytes": 8}], "ranks": 2}))
    assert messages(as_json).messages == {at(8, 2): Use(1.0)}
    assert ddp_buckets([4, 4, 4], [8], ["a", "b", "a"]) == (8, 4)  # data types do not share a bucket


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gradients: []\nranks: 2", "write a list, in the order of the parameters"),
        ("ranks: 2", "write a list"),
        ("gradients: [{name: a, nbytes: 8}]", "$.ranks: is missing"),
        ("gradients: [{name: a}]\nranks: 2", "$.gradients[0].nbytes: is missing"),
        ("gradients: [{name: a, nbytes: -1}]\nranks: 2", "$.gradients[0].nbytes"),
        ("gradients: [{nbytes: 8}]\nranks: 1", "not a whole number from 2"),
        ("gradients: [{nbytes: 8}]\nranks: 2\nframework: fsdp", "unknown framework"),
        ("gradients: [{nbytes: 8}]\nranks: 2\nbucket_cap_mb: 0", "not a number of MiB above 0"),
        ("gradients: [{nbytes: 8}]\nranks: 2\nbucket_cap_mb: 1\nbucket_cap_mb_list: [1]", "keep one of them"),
        ("gradiants: []", "did you mean 'gradients'"),
        ("- 1", "is not a file of shapes"),
    ],
)
def test_nonsense_of_shapes_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(CommbenchError) as caught:
        messages(tmp_path / "m.yaml")
    assert said in str(caught.value)
    assert "m.yaml" in str(caught.value)


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_cost_one_sentence(tmp_path: Path, data: st.DataObject) -> None:
    """Cut, with other bytes in the middle, or with other values: an answer or a CommbenchError that names the file."""
    shapes = {"gradients": [{"name": "w", "nbytes": 8}], "ranks": 2, "bucket_cap_mb": 1}
    name, whole = data.draw(st.sampled_from([("train.json", train_json()), ("ddp-0.json", ddp()), ("m.json", shapes)]))
    odd = st.sampled_from([None, -1, 0, 1e400, "x", [], {}, True, 2**70, "1,\x00"])
    changed = {**whole, data.draw(st.sampled_from(sorted(whole))): data.draw(odd)}
    text = json.dumps(data.draw(st.sampled_from([whole, changed]))).encode()
    cut = data.draw(st.integers(0, len(text)))
    text = data.draw(st.sampled_from([text, text[:cut], text[:cut] + data.draw(st.binary(max_size=4)) + text[cut:]]))
    folder = tmp_path / name.removesuffix(".json")
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text)
    job, said = None, name
    try:
        job = messages(folder / name if name == "m.json" else folder)
    except CommbenchError as error:
        said = str(error)
    assert name in said
    if job:
        assert all(m.ranks > 1 and m.nbytes > 0 for m in job.messages)
        assert job.step_us is None or 0 < job.step_us < math.inf


def test_what_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommbenchError, match="no such file"):
        messages(tmp_path / "none")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(CommbenchError, match=r"note\.txt"):
        messages(tmp_path / "note.txt")
    with pytest.raises(CommbenchError, match="holds neither a run nor a readable file"):
        messages(tmp_path)
    assert Job({}, None, "").exposed_us is None
