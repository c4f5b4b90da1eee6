"""Bucket plans as candidates, what their trials prove, and the recommendation and text that follow from the record."""

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commbench.emit import frameworks
from commbench.emit.target import Place
from commbench.errors import CommbenchError, SpecError
from commbench.jobs.plan import _afford
from commbench.model.bucket_advice import DDP_CAPS, MIB, ddp
from commbench.model.curve import Cost, Curve
from commbench.model.step import Backward, Gradient
from commbench.records import Host, Machine, Measurement
from commbench.records.recommendation import decode, encode
from commbench.report import plan_plot
from commbench.report.plans import as_json, text
from commbench.training.apply import kwargs as ddp_arguments
from commbench.training.plans import _slowdowns
from commbench.tune.candidates import Settings
from commbench.tune.plans import (
    OP,
    Plan,
    Planned,
    caps_of,
    case_of,
    ddp_plans,
    expected,
    found,
    fsdp_plans,
    kwargs_of,
    race,
    recommend,
    settings_of,
)
from commbench.tune.search import Search

SPEC = {"model": "gpt", "parallel": "ddp", "backend": "gloo"}
CAP5 = settings_of({"bucket_cap_mb": 5})
# 40 gradients of 256 KiB over 200 ms; 10 MiB over 1 Gbit/s between 4 hosts take about as long.
BACKWARD = Backward(
    gradients=tuple(Gradient(index=39 - k, nbytes=2**18, ready=0.1 + 0.005 * k, name=f"g{k}") for k in range(40)),
    seconds=0.3,
    rest=0.02,
)
COST = Cost(alone=Curve(nbytes=(4096, 10 * MIB), seconds=(0.002, 0.15), what="all_reduce gloo 4 ranks"), gamma=1.05)


def advice() -> Any:
    return ddp(BACKWARD, COST)


def planned(steps: Mapping[Settings, float], rounds: int = 8, noise: float = 0.01, **more: Any) -> Planned:
    """A search whose candidates take `steps` seconds in truth."""
    rng = random.Random(7)
    trials = [trial(s, seconds * rng.gauss(1, noise), k) for k in range(rounds) for s, seconds in steps.items()]
    hosts = tuple(Host(name=f"h{k}") for k in range(4))
    facts: dict[str, Any] = {
        "name": "gpt", "created": "2026-02-28T10:00:00+00:00", "commbench": "0", "spec": SPEC, "seed": 0,
        "machine": Machine(hosts=hosts, host_of=(0, 1, 2, 3), launcher="torchrun"),
        "text_sha256": "", "parameters": 2621440, "backward": BACKWARD, "cost": COST, "tail": 0.004, "floor": 0.05,
        "plans": tuple(Plan(name=str(s) if s else "default", settings=s) for s in steps),
        "budget": 60.0, "seconds": 50.0,
    }  # fmt: skip
    return Planned(**{**facts, "trials": tuple(trials), **more})


def trial(settings: Settings, seconds: float, round_: int = 0, **more: Any) -> Measurement:
    case = msgspec.structs.replace(case_of(SPEC, BACKWARD.gradients[0].nbytes * 40), settings=settings)
    return Measurement(
        **{
            "case": case,
            "ranks": 4,
            "nbytes": case.nbytes,
            "seconds": (seconds,) * 5,
            "wrong": 0,
            "launch": round_,
            **more,
        }
    )


@pytest.mark.parametrize(
    "kwargs",
    [
        {"bucket_cap_mb": 5.0},
        {"bucket_cap_mb_list": [0.125, 4.3333, 25.0], "static_graph": True},
        {"blocks": 2, "prefetch": 1, "reshard_after_forward": False},
        {},
    ],
)
def test_settings_are_the_arguments(kwargs: dict[str, Any]) -> None:
    assert kwargs_of(settings_of(kwargs)) == kwargs


def test_the_default_takes_part_and_the_caps_are_those_that_were_predicted() -> None:
    plans = ddp_plans(advice(), {}, "")
    assert sum(one.settings == () for one in plans) == 1
    assert len({one.settings for one in plans}) == len(plans)
    record = planned({(): 1.0})
    for one in plans:
        assert one.predicted == expected(record, one.settings)
    best = next(one for one in plans if one.settings)
    assert {"gradient_as_bucket_view", "static_graph"} <= {key for one in plans for key, _ in one.settings}
    assert all(dict(one.settings).items() >= dict(best.settings).items() for one in plans if "+" in one.name)
    assert ddp_plans(None, {}, "")[0].name == "default"  # nothing is known: the caps that people try


def test_a_hook_takes_part_only_where_it_is_asked_for() -> None:
    assert not any("hook" in dict(one.settings) for one in ddp_plans(advice(), {}, ""))
    hooked = [one for one in ddp_plans(advice(), {}, "bf16") if "hook" in dict(one.settings)]
    assert len(hooked) == 2
    assert all(one.predicted is None for one in hooked)


def test_what_the_spec_sets_itself_takes_part() -> None:
    assert ddp_plans(advice(), {"bucket_cap_mb": 3.7}, "")[-1].settings == (("bucket_cap_mb", "3.7"),)


def test_where_nothing_is_to_gain_one_honest_comparison_is_left() -> None:
    nothing = msgspec.structs.replace(advice(), keep="no setting is predicted to save more than 0.1%")
    assert ddp_plans(nothing, {}, "")[0].name == "default"
    assert len(ddp_plans(nothing, {}, "")) == 2


def test_fsdp_plans_are_different_and_hold_the_default() -> None:
    plans = fsdp_plans(4)
    assert plans[0].settings == ()
    assert len({one.settings for one in plans}) == len(plans) == 12
    assert max(kwargs_of(one.settings).get("blocks", 1) for one in plans) == 4


def test_the_search_tries_them_in_the_models_order() -> None:
    """With time for two plans only, they are the default and the one that the model puts first."""
    plans = ddp_plans(advice(), {}, "")
    clock = [0.0]
    search = Search(
        [case_of(SPEC, 10 * MIB)], {OP: race(plans)}, ranks=4, budget=10.0, trial=1.0, clock=lambda: clock[-1]
    )
    assert [case.settings for case in search.ask()] == [()]  # what a trial costs
    clock.append(1.0)
    search.tell((trial((), 0.5),))
    best = next(one.settings for one in plans if one.settings)
    assert {case.settings for case in search.ask()} == {(), best}


def test_a_proved_plan_becomes_arguments_of_ddp_and_files_of_the_others() -> None:
    record = planned({(): 0.5, CAP5: 0.4})
    made = recommend(record)
    (plan,) = made.buckets
    assert plan.gain_low < 0.2 < plan.gain_high
    assert plan.gain_low > 0.15
    assert (plan.baseline_us, plan.step_us) == (pytest.approx(5e5, rel=0.02), pytest.approx(4e5, rel=0.02))
    assert ddp_arguments(plan) == {"bucket_cap_mb": 5}
    assert made.expires == "2026-05-29T10:00:00+00:00"
    assert (
        decode(encode(made), Path("x"))
        == made
        == recommend(msgspec.json.decode(msgspec.json.encode(record), type=Planned))
    )
    said = "\n".join(text(record, made))
    elements = 5 * MIB // 4
    assert "DistributedDataParallel(model, bucket_cap_mb=5" in said
    assert f'"reduce_bucket_size": {elements}' in said
    assert f"--ddp-bucket-size {elements}" in said
    assert "tail: 4 ms" in said
    assert frameworks.ddp(made, Place(Path(), "x"))
    told = json.loads(as_json(record, made))
    assert [one["ratio"] for one in told["plans"]] == [None, pytest.approx(0.8, rel=0.02)]
    assert told["recommendation"]["buckets"][0]["bucket_bytes"] == [5 * MIB]


def test_frameworks_with_one_size_get_the_best_single_size_that_is_proved() -> None:
    several = settings_of({"bucket_cap_mb_list": [1, 4, 5]})
    (plan,) = recommend(planned({(): 0.5, several: 0.4, CAP5: 0.44, settings_of({"bucket_cap_mb": 1}): 0.49})).buckets
    assert plan.bucket_bytes == (MIB, 4 * MIB, 5 * MIB)
    assert plan.uniform is not None
    assert plan.uniform.bucket_bytes == (5 * MIB,)
    assert plan.uniform.gain == pytest.approx(0.12, abs=0.02)
    made = recommend(planned({(): 0.5, several: 0.4, CAP5: 0.44}))
    assert f": {5 * MIB // 4}" in "".join(line.text for line in frameworks.deepspeed(made, Place(Path(), "x")))
    assert decode(encode(made), Path("x")) == made
    alone = recommend(planned({(): 0.5, several: 0.4, CAP5: 0.5}))
    with pytest.raises(SpecError, match="no single size is proved"):
        frameworks.megatron(alone, Place(Path(), "x"))


@pytest.mark.parametrize("more", [{"hook": "bf16"}, {"static_graph": True}, {"gradient_as_bucket_view": True}])
def test_a_plan_of_more_than_a_size_keeps_the_best_size_alone_beside_it(more: dict[str, object]) -> None:
    whole = settings_of({"bucket_cap_mb": 5, **more})
    (plan,) = recommend(planned({(): 0.5, whole: 0.4, CAP5: 0.44, settings_of({"bucket_cap_mb": 1}): 0.49})).buckets
    assert plan.gain == pytest.approx(0.2, abs=0.02)
    assert plan.uniform is not None
    assert (plan.uniform.bucket_bytes, plan.uniform.hook, plan.uniform.static_graph) == ((5 * MIB,), "", None)
    assert plan.uniform.gain == pytest.approx(0.12, abs=0.02)
    assert recommend(planned({(): 0.5, whole: 0.4, CAP5: 0.5})).buckets[0].one_size is None
    assert recommend(planned({(): 0.5, CAP5: 0.44})).buckets[0].uniform is None


def test_the_default_stays_where_nothing_is_proved() -> None:
    same = recommend(planned({(): 0.5, CAP5: 0.5}, rounds=16))
    assert (same.buckets, "no plan is proved" in same.keep_default) == ((), True)
    small = recommend(planned({(): 0.5, CAP5: 0.495}, rounds=16, noise=0.001))
    assert not small.buckets  # a percent is a tie
    assert found(planned({(): 0.5, CAP5: 0.5}, rounds=16)).decided


def test_a_void_trial_has_no_time_and_is_named() -> None:
    """Settings that were not in effect cannot win, however fast; with nothing else nothing is decided."""
    record = planned({(): 0.5})
    bad = tuple(trial(CAP5, 0.1, k, status="failed", why="not in effect: DDP uses [1]") for k in range(8))
    made = recommend(msgspec.structs.replace(record, trials=record.trials + bad))
    assert not made.buckets
    assert made.keep_default.startswith("nothing was decided")
    assert any("not in effect" in note for note in made.notes)
    said = list(text(msgspec.structs.replace(record, trials=record.trials + bad), made))
    assert said[0].startswith("Nothing was decided")
    assert not found(planned({})).decided  # no trial at all


def test_fsdp_modules_come_in_the_groups_that_were_raced() -> None:
    settings = settings_of({"blocks": 2, "reshard_after_forward": False})
    modules = tuple(f"blocks.{k}" for k in range(5))
    spec = {**SPEC, "parallel": "fsdp2"}
    (plan,) = recommend(planned({(): 0.5, settings: 0.4}, spec=spec, modules=modules)).buckets
    assert plan.modules == ("blocks.0+blocks.1", "blocks.2+blocks.3", "blocks.4")
    assert (plan.prefetch, plan.reshard_after_forward, plan.bucket_bytes) == (0, False, ())


def test_a_hooks_plan_says_that_it_changes_convergence() -> None:
    settings = settings_of({"bucket_cap_mb": 5, "hook": "bf16"})
    (plan,) = recommend(planned({(): 0.5, settings: 0.3})).buckets
    assert (plan.hook, plan.numerics, plan.bucket_bytes) == ("bf16", "changes-convergence", (5 * MIB,))


@pytest.mark.parametrize("gamma", [1.0, 1.3, 2.0])
def test_gamma_is_found_whether_or_not_the_collective_outlasts_the_backward_pass(gamma: float) -> None:
    alone = 0.1
    bare = {0: [(0.0, alone)] * 3}
    short = {10: [(0.05, alone + 0.05 * (1 - 1 / gamma))]}
    assert _slowdowns(bare | short) == pytest.approx([gamma])
    assert _slowdowns(bare | short | {99: [(1.0, alone * gamma)]}) == pytest.approx([gamma])


def test_ddps_own_caps_are_assumed_where_none_are_set() -> None:
    record = planned({(): 1.0})
    assert caps_of(()) == ()
    assert caps_of(CAP5) == (5 * MIB,)
    one = expected(record, ())
    assert one is not None
    assert one > BACKWARD.seconds + BACKWARD.rest
    assert math.isclose(
        one, expected(record, settings_of({"bucket_cap_mb_list": [cap / MIB for cap in DDP_CAPS]})) or 0
    )


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(SpecError, match=r"smallest that would do is --budget 36s"):
        _afford(30, spent=5, trial=2, curves=10)
    _afford(36, spent=5, trial=2, curves=10)


@pytest.mark.parametrize("more", [{}, {"backward": None, "cost": None}, {"spec": {**SPEC, "parallel": "fsdp2"}}])
def test_the_race_is_drawn_with_what_was_predicted(tmp_path: Path, more: dict[str, Any]) -> None:
    record = planned({(): 0.5, CAP5: 0.4, settings_of({"bucket_cap_mb": 1}): 0.5}, **more)
    plan_plot.plot(record, tmp_path / "plan.svg")
    first = (tmp_path / "plan.svg").read_bytes()
    plan_plot.plot(record, tmp_path / "plan.svg")
    assert first.startswith(b"<?xml")
    assert first == (tmp_path / "plan.svg").read_bytes()


def test_where_nothing_was_raced_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(CommbenchError, match="no plan was raced"):
        plan_plot.plot(planned({(): 0.5}), tmp_path / "plan.svg")
    with pytest.raises(SpecError, match="known: pdf, png, svg"):
        plan_plot.plot(planned({(): 0.5, CAP5: 0.4}), tmp_path / "plan.gif")
