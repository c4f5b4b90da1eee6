"""The verdict on restarts of a job: what is proved, what is worse, what has no answer, and how often it errs.

COMMBENCH_TRIALS=2000 draws that many simulated verifications of each kind.
"""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from commbench.errors import FolderError, SpecError
from commbench.jobs import verify as job
from commbench.measure import told as telling
from commbench.measure import trial
from commbench.records import recommendation as records
from commbench.records.recommendation import BucketPlan, Recommendation, Rule
from commbench.report import verdicts
from commbench.stats.trials import SIDES, Judgement, Restart, Side, judge

DRAWS = int(os.environ.get("COMMBENCH_TRIALS", "400"))
WANTED = {"NCCL_PROTO": "LL"}


def restart(side: Side, number: int, step: float = 0.1, steps: int = 12, **fields: object) -> Restart:
    made = {
        "side": side,
        "round": number,
        "seconds": (step,) * steps,
        "wall_seconds": step * steps,
        "world": 2,
        "code": 0,
        "seen": {"NCCL_PROTO": ("LL" if side == "recommended" else "",)},
    }
    return Restart(**{**made, **fields})  # type: ignore[arg-type]


def rounds(change: float = 1.0, count: int = 5, **fields: object) -> list[Restart]:
    """Restarts that vary by 0.2 %; the recommended ones take `change` times as long and have these fields."""
    return [
        restart(side, k, 0.1 * (1 + 0.002 * (k % 3)) * (change if side == "recommended" else 1), **own)
        for k in range(count)
        for side in SIDES
        for own in [fields if side == "recommended" else {}]
    ]


def curve(noise: float = 0.0, lift: float = 0.0, seed: int = 0, steps: int = 40) -> tuple[float, ...]:
    """A loss that falls from 5 to 2, with one offset for the whole restart and a lift in its second half."""
    steps_of = np.arange(steps)
    offset = np.random.default_rng(seed).normal() * noise
    values = (2 + 3 * np.exp(-steps_of / 10)) * (1 + offset + lift * (steps_of >= steps // 2))
    return tuple(values.tolist())


def with_losses(noise: float, lift: float, change: float = 0.8) -> list[Restart]:
    return [
        restart(
            side,
            k,
            0.1 * (1 + 0.002 * (k % 3)) * (change if side == "recommended" else 1),
            steps=40,
            losses=curve(noise, lift if side == "recommended" else 0, seed=k + 100 * (side == "default")),
        )
        for k in range(5)
        for side in SIDES
    ]


# ---- the verdict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "verdict", "code"), [(0.9, "proved", 0), (1.1, "worse", 1), (1.0, "same", 3), (0.995, "same", 3)]
)
def test_the_verdict_and_its_code(change: float, verdict: str, code: int) -> None:
    found = judge(rounds(change), WANTED)
    assert (found.verdict, found.code) == (verdict, code)
    assert found.speed is not None
    assert found.speed.low < change < found.speed.high  # type: ignore[operator]
    assert found.step_seconds == pytest.approx((0.1, 0.1 * change), rel=0.01)
    assert found.effect == "confirmed"


def test_a_gain_below_the_least_that_matters_is_not_proved() -> None:
    assert judge(rounds(0.98), WANTED, min_effect=0.01).code == 0
    assert judge(rounds(0.98), WANTED, min_effect=0.05).verdict == "same"


def test_restarts_that_vary_decide_nothing() -> None:
    seconds = [0.10, 0.14, 0.11, 0.16, 0.12]
    noisy = [restart(side, k, s) for k, s in enumerate(seconds) for side in SIDES]
    found = judge(noisy, WANTED)
    assert (found.verdict, found.code) == ("unsure", 3)


def test_slow_first_steps_do_not_count() -> None:
    first = [msgspec.structs.replace(one, seconds=(3.0,) * 5 + one.seconds[5:]) for one in rounds(0.9)]
    assert judge(first, WANTED, skip=5).step_seconds == judge(rounds(0.9), WANTED, skip=5).step_seconds


def test_a_few_steps_that_became_very_slow_are_no_gain() -> None:
    rare = [
        msgspec.structs.replace(one, seconds=(*one.seconds[:-1], 1.0)) if one.side == "recommended" else one
        for one in rounds(0.9)
    ]
    found = judge(rare, WANTED)
    assert found.verdict == "unsure"
    assert "mean step" in found.doubts[0]


# ---- losses -----------------------------------------------------------------------------------------------


def test_losses_within_the_noise_of_seeds_change_nothing() -> None:
    found = judge(with_losses(noise=0.005, lift=0.0), WANTED)
    assert (found.losses.verdict, found.code) == ("same", 0)
    assert len(found.losses.changes) == 4


@pytest.mark.parametrize(("lift", "verdict", "code"), [(0.1, "higher", 1), (-0.1, "lower", 3)])
def test_a_change_of_convergence_beyond_the_noise_is_told(lift: float, verdict: str, code: int) -> None:
    found = judge(with_losses(noise=0.005, lift=lift), WANTED)
    assert (found.losses.verdict, found.code) == (verdict, code)
    assert found.speed is not None
    assert found.speed.verdict == "faster"


def test_without_noise_between_seeds_a_change_is_a_doubt() -> None:
    found = judge(with_losses(noise=0.0, lift=0.05), WANTED)
    assert (found.losses.verdict, found.code) == ("bare", 3)
    assert "COMMBENCH_SEED" in found.doubts[0]


def test_rounding_is_no_change_of_convergence() -> None:
    assert judge(with_losses(noise=0.0, lift=1e-5), WANTED).code == 0


def test_a_job_that_diverges_is_worse() -> None:
    ended = [
        msgspec.structs.replace(one, losses=(*one.losses[:-1], None)) if one.side == "recommended" else one
        for one in with_losses(0.005, 0.0)
    ]
    assert judge(ended, WANTED).losses.verdict == "higher"


def test_losses_that_nobody_told_are_not_called_the_same() -> None:
    found = judge(rounds(0.9), WANTED)
    assert found.losses.verdict == "untold"
    assert "not checked" in "\n".join(verdicts.text(found, WANTED, (), 0.01))


# ---- no answer --------------------------------------------------------------------------------------------


def change_one(side: Side, **fields: object) -> list[Restart]:
    made = rounds(0.9)
    index = next(k for k, one in enumerate(made) if one.side == side and one.round == 2)
    made[index] = msgspec.structs.replace(made[index], **fields)
    return made


@pytest.mark.parametrize(
    ("restarts", "said"),
    [
        (change_one("recommended", why="exit code 1, after 3 steps"), "round 3, with the recommendation: exit code 1"),
        (change_one("recommended", why="gone"), "without the recommendation 5 of 5 ended well"),
        (change_one("default", world=4), "2 or 4 ranks without the recommendation, 2 with it"),
        (change_one("default", world=None), "unknown or 2 ranks"),
        (rounds(0.9, steps=9), "12 steps without the recommendation, 9 with it"),
        (change_one("recommended", tokens=7), "unknown tokens without"),
        (change_one("recommended", seen={"NCCL_PROTO": ("",)}), "NCCL_PROTO=LL did not reach the ranks"),
        (change_one("recommended", seen={"NCCL_PROTO": ("", "LL")}), "saw nothing, 'LL'"),
        (change_one("recommended", seen={}), "did not reach"),
        (change_one("default", seen={"NCCL_PROTO": ("LL",)}), "the job sets it by itself"),
        (rounds(0.9, count=2), "2 rounds"),
        ([], "0 rounds"),
        (rounds(0.9)[:1], "0 rounds"),
    ],
)
def test_no_answer_without_its_reason(restarts: list[Restart], said: str) -> None:
    found = judge(restarts, WANTED)
    assert (found.verdict, found.code, found.speed) == ("void", 3, None)
    assert said in found.void
    assert "\n".join(verdicts.text(found, WANTED, (), 0.01)).startswith("Cannot tell: ")


def test_too_few_steps_say_how_many_are_needed() -> None:
    few = [msgspec.structs.replace(one, seconds=one.seconds[:7]) for one in rounds(0.9)]
    assert judge(few, WANTED, skip=5).void == "7 steps, of which the first 5 do not count (--skip-steps); 8 are needed"
    assert judge(few, WANTED, skip=4).code == 0


def plan(**fields: object) -> BucketPlan:
    gains = {"baseline_us": 2.0, "step_us": 1.0, "gain_low": 0.4, "gain": 0.5, "gain_high": 0.6}
    return BucketPlan(**{"model": "gpt", "ranks": 2, **gains, **fields})  # type: ignore[arg-type]


def sides(default: dict[str, object], recommended: dict[str, object]) -> list[Restart]:
    """Rounds in which the recommended side is faster; the sides told these fields."""
    fields = {"default": default, "recommended": recommended}
    return [msgspec.structs.replace(one, **fields[one.side]) for one in rounds(0.9)]


SIZES = plan(bucket_bytes=(10, 20))


def test_a_plan_of_buckets_that_was_not_taken_up() -> None:
    alike = sides({"buckets": (10, 20)}, {"buckets": (10, 20)})
    assert "ddp_kwargs()" in judge(alike, WANTED, plans=[SIZES]).void
    assert judge(alike, WANTED).code == 0
    other = sides({"buckets": (30,)}, {"buckets": (10, 20)})
    assert judge(other, WANTED, plans=[SIZES]).code == 0


STATIC = plan(static_graph=True)
HOOK = plan(hook="fp16")
SHARDED = plan(modules=("a+b", "c"), prefetch=1, reshard_after_forward=False)
GROUPS = {"modules": "a+b,c", "prefetch": "1", "reshard_after_forward": "false"}


@pytest.mark.parametrize(
    ("asked", "default", "recommended", "verdict", "said"),
    [
        (STATIC, {"static_graph": "false"}, {"static_graph": "true"}, "proved", ""),
        (STATIC, {"static_graph": "true"}, {"static_graph": "true"}, "void", "same on both sides"),
        (STATIC, {"static_graph": "true"}, {"static_graph": "false"}, "void", "static_graph=true of the plan is not"),
        (STATIC, {}, {}, "unsure", "recorder.ddp(model)"),
        (HOOK, {"hook": ""}, {"hook": "fp16_compress_hook"}, "proved", ""),
        (HOOK, {"hook": ""}, {"hook": ""}, "void", "same on both sides"),
        (SHARDED, {**GROUPS, "modules": "a,b,c"}, GROUPS, "proved", ""),
        (SHARDED, GROUPS, GROUPS, "void", "same on both sides"),
        (SHARDED, {**GROUPS, "prefetch": "0"}, {**GROUPS, "modules": "a,b,c"}, "void", "the job has a,b,c"),
    ],
)
def test_a_plan_without_sizes_is_judged_by_what_it_changes(
    asked: BucketPlan, default: dict[str, str], recommended: dict[str, str], verdict: str, said: str
) -> None:
    """DDP's buckets are the same on both sides, as they must be."""
    same = {"buckets": (10, 20)}
    found = judge(sides({"applied": default, **same}, {"applied": recommended, **same}), WANTED, plans=[asked])
    assert found.verdict == verdict
    assert said in f"{found.void} {found.doubts}"


def test_a_gain_of_settings_that_nobody_saw_is_not_proved() -> None:
    """Neither where the ranks tell nothing, nor where only one side does, nor where DDP's buckets are not told."""
    for silent in (
        judge(sides({"seen": None}, {"seen": None}), WANTED),
        judge(sides({"seen": None}, {}), WANTED),
        judge(sides({}, {"seen": None}), {"OMPI_MCA_coll_han_priority": "0"}),
        judge(rounds(0.9), WANTED, plans=[SIZES]),
        judge(sides({}, {"buckets": (10, 20)}), WANTED, plans=[SIZES]),
    ):
        assert (silent.verdict, silent.code, silent.effect) == ("unsure", 3, "untold")
        assert "StepRecorder" in silent.doubts[0]
    slower = [msgspec.structs.replace(one, seen=None) for one in rounds(1.1)]
    assert judge(slower, WANTED).code == 1  # whatever made it slower, the default is better


def test_a_start_that_escaped_a_look_is_no_other_work() -> None:
    """Of a job that tells nothing itself the ranks are looked for; one start in which they were not found hides all."""
    once = change_one("default", seen=None, world=None)
    assert "unknown" in judge(once, WANTED).void
    assert judge(job._evenly(once), WANTED).verdict == "unsure"
    assert judge(job._evenly(rounds(0.9)), WANTED).code == 0


# ---- how often it errs ------------------------------------------------------------------------------------


def draw(chance: np.random.Generator, change: float, sd: float, drift: float, losses: float) -> Judgement:
    """Restarts vary by sd, the machine becomes slower by `drift` with every start, losses vary from seed to seed."""
    made, start = [], 0
    for k, order in enumerate(job.orders(5, int(chance.integers(2**31)))):
        for side in order:
            level = math.exp(chance.normal() * sd + drift * start) * (change if side == "recommended" else 1)
            start += 1
            steps = 0.1 * level * np.exp(chance.normal(size=30) * 0.05)
            told = (2 + np.exp(-np.arange(30) / 10)) * (1 + losses * chance.normal()) + chance.normal(size=30) * 0.05
            made.append(restart(side, k, seconds=tuple(steps.tolist()), losses=tuple(told.tolist())))
    return judge(made, WANTED)


@pytest.mark.parametrize(
    ("sd", "drift", "losses"),
    [(0.01, 0.0, 0.01), (0.03, 0.0, 0.002), (0.02, 0.01, 0.01), (0.005, 0.0, 0.0)],
    ids=["quiet", "noisy", "drifting", "very quiet"],
)
def test_equal_sides_are_seldom_told_apart(sd: float, drift: float, losses: float) -> None:
    chance = np.random.default_rng(1)
    found = [draw(chance, 1.0, sd, drift, losses) for _ in range(DRAWS)]
    alarms = sum(one.verdict in ("proved", "worse") or one.losses.verdict in ("higher", "lower") for one in found)
    # 5 % and three standard errors of so many draws: it fails by chance once in a thousand runs, and seeds are fixed.
    assert alarms <= DRAWS * 0.05 + 3 * math.sqrt(DRAWS * 0.05 * 0.95)
    assert sum(one.verdict == "proved" for one in found) <= DRAWS * 0.025 + 3 * math.sqrt(DRAWS * 0.025)


def test_a_tenth_is_found_where_restarts_vary_by_two_percent() -> None:
    chance = np.random.default_rng(2)
    found = [draw(chance, 0.9, 0.02, 0.0, 0.01) for _ in range(DRAWS // 2)]
    assert sum(one.verdict == "proved" for one in found) > 0.9 * len(found)


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_each_side_begins_half_of_the_rounds(count: int) -> None:
    several = [job.orders(count, seed) for seed in range(40)]
    for found in several:
        assert all(sorted(order) == sorted(SIDES) for order in found)
        assert abs(2 * sum(order[0] == "default" for order in found) - count) <= 1
    assert len({str(found) for found in several}) > 1
    assert job.orders(count, 7) == job.orders(count, 7)


# ---- what a start tells -----------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    def write(**ranks: str) -> Path:
        for name, text in ranks.items():
            (tmp_path / f"steps-{name.removeprefix('r')}.jsonl").write_text(text)
        return tmp_path

    return write


STEP = '{"step": %d, "seconds": %g, "loss": %s, "tokens": 10}\n'
HEAD = '{"environment": {"NCCL_PROTO": "LL"}, "world": 2, "facts": {"cpu": "abacus", "usable_cores": "%d"}}\n'


def test_a_step_is_as_long_as_on_its_slowest_rank(record: Callable[..., Path]) -> None:
    folder = record(
        r0=HEAD % 1 + STEP % (0, 0.1, "2") + STEP % (1, 0.3, "null"),
        r1=HEAD % 2 + STEP % (0, 0.2, "4") + STEP % (1, 0.1, "null"),
    )
    assert telling.in_files(folder, ["NCCL_PROTO", "NCCL_ALGO"]) == {
        "seconds": (0.2, 0.3),
        "losses": (3.0, None),
        "tokens": 40,
        "world": 2,
        "seen": {"NCCL_PROTO": ("LL",), "NCCL_ALGO": ("",)},
        "buckets": (),
        "applied": {},
        "dtypes": (),
        "facts": {"cpu": "abacus"},
    }


def test_the_buckets_that_ddp_told(record: Callable[..., Path]) -> None:
    folder = record(r0=STEP % (0, 0.1, "2"), r1=STEP % (0, 0.1, "2"))
    (folder / "ddp-0.json").write_text('{"rebuilt_bucket_sizes": "1442400, 1442400", "rank": 0}')
    made = telling.in_files(folder, ["NCCL_PROTO"])
    assert made["buckets"] == (1442400, 1442400)
    assert made["seen"] is None  # no rank told its environment
    assert (made["applied"], made["dtypes"]) == ({}, ())


def test_what_ddp_and_fsdp2_say_of_themselves(record: Callable[..., Path]) -> None:
    folder = record(r0=STEP % (0, 0.1, "2"))
    gradients = [{"name": name, "nbytes": 2, "dtype": kind} for name, kind in (("a", "float32"), ("b", "bfloat16"))]
    told = {"gradient_as_bucket_view": 1, "comm_hook": "fp16_compress_hook", "gradients": gradients}
    (folder / "ddp-0.json").write_text(json.dumps(told))
    made = telling.in_files(folder, [])
    assert made["applied"] == {
        "gradient_as_bucket_view": "true",
        "static_graph": "false",  # DDP names it where it is set
        "hook": "fp16_compress_hook",
    }
    assert made["dtypes"] == ("bfloat16", "float32")
    for damaged in ("[]", '{"bucket_sizes": 3}', '{"bucket_sizes": "x"}', '{"gradients": [1]}', "\x00"):
        (folder / "ddp-0.json").write_text(damaged)
        assert telling.in_files(folder, [])["buckets"] == ()
    (folder / "fsdp2-0.json").write_text('{"modules": ["a+b", "c"], "prefetch": 1, "reshard_after_forward": false}')
    assert telling.in_files(folder, [])["applied"] == {
        "modules": "a+b,c",
        "prefetch": "1",
        "reshard_after_forward": "false",
    }


def test_files_beside_steps_of_the_output(record: Callable[..., Path]) -> None:
    """They tell the surroundings where every rank wrote one; what makes no sense there tells nothing."""
    folder = record(r0=HEAD % 1, r1=HEAD % 1)
    assert telling.beside(folder, ["NCCL_PROTO"])["seen"] == {"NCCL_PROTO": ("LL",)}
    for lonely in ({"r1": HEAD.replace("2", "3") % 1}, {"r1": "rubbish\n"}):
        assert "seen" not in telling.beside(record(**lonely), ["NCCL_PROTO"])
    (folder / "steps-1.jsonl").unlink()
    assert "seen" not in telling.beside(folder, ["NCCL_PROTO"])
    (folder / "steps-0.jsonl").unlink()
    assert "seen" not in telling.beside(folder, ["NCCL_PROTO"])


def test_a_torn_last_line_is_dropped(record: Callable[..., Path]) -> None:
    folder = record(r0=STEP % (0, 0.1, "2") + '{"step": 1, "sec', r1=STEP % (0, 0.1, "2"))
    assert telling.in_files(folder, [])["seconds"] == (0.1,)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ({}, "recorded no step: use commbench.StepRecorder"),
        ({"r0": "", "r1": ""}, "recorded no step"),
        ({"r0": HEAD % 1 + STEP % (0, 0.1, "1")}, "1 of 2 ranks recorded"),
        ({"r0": STEP % (0, 0.1, "1"), "r1": STEP % (1, 0.1, "1")}, "different steps"),
        ({"r0": HEAD % 1, "r1": HEAD.replace("2", "3") % 1}, "disagree about their number"),
        ({"r0": 2 * (STEP % (0, 0.1, "1")), "r1": 2 * (STEP % (0, 0.1, "1"))}, "a step twice"),
        ({"r0": "rubbish\n" + STEP % (0, 0.1, "1"), "r1": STEP % (0, 0.1, "1")}, "steps-0.jsonl:1"),
        ({"r0": STEP % (0, 0, "1"), "r1": STEP % (0, 0.1, "1")}, "step 0 took 0 s"),
        ({"r0": STEP % (0, -1, "1"), "r1": STEP % (0, 0.1, "1")}, "no time"),
    ],
)
def test_files_of_steps_that_make_no_sense(record: Callable[..., Path], ranks: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        telling.in_files(record(**ranks), [])


def lines(pattern: trial.Pattern, text: str) -> dict[str, object]:
    found = [pattern.find(line) for line in text.splitlines()]
    return telling.in_output([one for one in found if one])


def test_steps_in_the_output() -> None:
    plain = trial.Pattern(re.compile(r"took ([\d.]+)"), 1e-3)
    assert lines(plain, "hello\n1: took 12\n2: took 13.5\n")["seconds"] == pytest.approx((0.012, 0.0135))
    named = trial.Pattern(re.compile(r"step (?P<step>\d+) loss (?P<loss>\S+) in (?P<seconds>\S+)"))
    both = "step 1 loss 2 in 0.5\nstep 0 loss 4 in 0.1\nstep 0 loss 2 in 0.2\n"  # two ranks print step 0
    assert lines(named, both) == {"seconds": (0.2, 0.5), "losses": (3.0, 2.0), "tokens": None}
    optional = trial.Pattern(re.compile(r"time(?: ([\d.]+))?"))
    assert lines(optional, "time\ntime 2\ntime\n")["seconds"] == (2.0,)
    numbered = trial.Pattern(re.compile(r"(?P<step>\d+)(?: t=(?P<seconds>[\d.]+))?"))
    assert numbered.find("17 nothing") is None  # its number is no time
    assert lines(numbered, "17 t=3\n")["seconds"] == (3.0,)
    with pytest.raises(ValueError, match="found no step"):
        telling.in_output([])
    with pytest.raises(ValueError, match="could not convert"):
        plain.find("took ...")
    with pytest.raises(ValueError, match="no time"):
        lines(plain, "took 0\n")


# ---- a recommendation in a job ----------------------------------------------------------------------------


def recommend(*settings: tuple[tuple[str, str], ...], **fields: object) -> Recommendation:
    rules = tuple(
        Rule(
            op="all_reduce",
            ranks=2,
            min_bytes=2**k,
            max_bytes=2**k,
            settings=own,
            baseline_us=2,
            time_us=1,
            gain_low=0.4,
            gain=0.5,
            gain_high=0.6,
        )
        for k, own in enumerate(settings)
    )
    made = {"created": "2026-01-01", "expires": "2027-01-01", "machine": {}, "versions": {}, "data_sha256": "ab"}
    return Recommendation(**{**made, "rules": rules, **fields})  # type: ignore[arg-type]


def test_settings_become_variables(tmp_path: Path) -> None:
    made = recommend((("NCCL_PROTO", "LL"),), (("NCCL_PROTO", "LL"),))
    assert job.variables(made, tmp_path) == {"NCCL_PROTO": "LL"}
    with pytest.raises(SpecError, match="holds for all"):
        job.variables(recommend((("NCCL_PROTO", "LL"),), (("NCCL_PROTO", "Simple"),)), tmp_path)
    with pytest.raises(SpecError, match="no variable sets it"):
        job.variables(recommend((("threads", "4"),)), tmp_path)


def test_sizes_of_open_mpi_go_into_a_file_of_rules(tmp_path: Path) -> None:
    one, other = ((("coll_tuned_allreduce_algorithm", str(k)),) for k in (4, 3))
    made = recommend(one, other)
    found = job.variables(made, tmp_path / "verify")
    job.write_files(made, tmp_path / "verify", "mpirun")
    assert found.pop("OMPI_MCA_coll_tuned_use_dynamic_rules") == "true"
    (rules,) = found.values()
    assert {"1 4 0 0", "2 3 0 0"} <= set(Path(rules).read_text().splitlines())


def asked_of(folder: Path, **fields: object) -> job.Request:
    return job.Request(**{"folder": folder, "argv": ("true",), "created": "2026-06-01T00:00:00+00:00", **fields})  # type: ignore[arg-type]


def refused(folder: Path, made: Recommendation, **env: str) -> str:
    (folder / records.NAME).write_bytes(records.encode(made))
    with pytest.raises((SpecError, FolderError)) as caught:
        job.verify(asked_of(folder), lambda one: None, env)
    return str(caught.value)


def test_what_must_not_be_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    assert "cpu: measured with a slide rule, here" in refused(
        tmp_path, recommend(WANT, machine={"cpu": "a slide rule"})
    )
    assert "measured with 1.0" in refused(tmp_path, recommend(WANT, versions={"numpy": "1.0"}))
    assert "both sides would be alike" in refused(tmp_path, recommend(WANT), NCCL_PROTO="LL")
    assert not list(tmp_path.glob("verify*"))


WANT = (("NCCL_PROTO", "LL"),)


@pytest.mark.parametrize(("asked", "said"), [(SHARDED, "shards modules with FSDP2"), (HOOK, "communication hook fp16")])
def test_a_plan_that_the_job_cannot_take_is_refused(tmp_path: Path, asked: BucketPlan, said: str) -> None:
    made = recommend(buckets=(asked,))
    answer = refused(tmp_path, made)
    assert said in answer
    assert "-- commbench train SPEC" in answer
    for own in (("mpirun", "-n", "2", "/bin/commbench", "train", "x"), ("python", "-m", "commbench", "train", "x")):
        job._takes(asked_of(tmp_path, argv=own), [asked])


def test_the_default_as_a_recommendation_needs_no_restart(tmp_path: Path) -> None:
    (tmp_path / records.NAME).write_bytes(records.encode(recommend(keep_default="no candidate was faster")))
    found = job.verify(asked_of(tmp_path), lambda one: pytest.fail("nothing is to be run"), {})
    assert found.code == 3
    assert "no candidate was faster" in found.judgement.void
    assert json.loads((tmp_path / job.NAME).read_bytes())["verdict"] == "void"


def test_no_recommendation_is_said(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="commbench tune"):
        job.verify(asked_of(tmp_path), lambda one: None, {})


def test_the_words_of_a_job_obey_no_terminal() -> None:
    evil = restart("recommended", 0, why="\x1b[2Jgone")
    assert "\x1b" not in verdicts.restart(evil, 5, 5)
    found = judge([evil, restart("default", 0)], {"A\x1b": "b\n"})
    assert "\x1b" not in "".join(verdicts.text(found, {"A\x1b": "b\n"}, ("\x1b",), 0.01))
    assert "\\u001b" in verdicts.as_json(found, [evil], {}, [], 5)
