"""The reference job with real ranks over Gloo: it learns, its settings are in effect, and its end is clear."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from ranks import COMMBENCH, MPIRUN, Ended, ranks_of, run, start, wait_for

from commbench.jobs.train import read
from commbench.measure import trial
from commbench.model.step import backward_of_stats
from commbench.records.recommendation import BucketPlan, Recommendation, encode
from commbench.stats.trials import Restart
from commbench.training import read_steps

pytestmark = pytest.mark.real
SMALL = (
    "model: gpt\nlayers: 2\nwidth: 64\nheads: 2\ncontext: 32\nbatch: 4\nsteps: 12\nwarmup: 2\nalone: 2\n"
    "text: 256KiB\nlearning_rate: 0.003\n"
)


def spec(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Restart, Path, Path]:
    """One start of `verify`, of a job that commbench starts: (what it saw, its folder, the folder of the result)."""
    tmp_path = tmp_path_factory.mktemp("verify")
    plan = BucketPlan(
        model="gpt", ranks=2, bucket_bytes=(100_000,), baseline_us=2, step_us=1, gain_low=0.4, gain=0.5, gain_high=0.6
    )
    made = Recommendation(created="", expires="", machine={}, versions={}, data_sha256="", buckets=(plan,))
    file, folder, out = tmp_path / "recommendation.json", tmp_path / "steps", tmp_path / "run"
    file.write_bytes(encode(made))
    wanted = trial.Wanted(
        side="recommended",
        round=3,
        argv=[
            *[*COMMBENCH, "train", spec(tmp_path), "-n", "2", "--launcher", "mpirun"],
            *["--out", str(out), "--set", "ddp.bucket_cap_mb=4"],
        ],
        environment={**os.environ, "COMMBENCH_RECOMMENDATION": str(file)},
        watched=("COMMBENCH_RECOMMENDATION", "NCCL_PROTO"),
        folder=folder,
    )
    return trial.restart(wanted, trial.Limits(deadline=120, patience=60)), folder, out


def test_a_gpt_learns_and_tells_what_a_step_is_made_of(started: tuple[Restart, Path, Path]) -> None:
    one, folder, out = started
    assert (one.why, one.code) == ("", 0)
    printed = (folder / trial.LOG).read_text()
    assert ("in effect" in printed, printed.count("# folder")) == (True, 1)
    found, steps = read(out), read_steps(folder)
    assert (found.machine.launcher, sorted(steps)) == ("openmpi", [0, 1])
    assert sum(found.buckets) == 4 * found.parameters == sum(g.nbytes for g in found.gradients)
    for rank, own in steps.items():
        result = found.ranks[rank]
        assert [s.step for s in own] == list(range(12))
        first, last = own[0].loss, own[-1].loss
        assert first is not None
        assert last is not None
        assert first > 5.0 > 4.5 > last
        assert result.last_loss == last
        for s in own:
            assert s.forward_s
            assert s.backward_s
            assert s.optimizer_s
            assert s.exposed_s
            assert s.ready_us
            assert s.forward_s + s.backward_s + s.optimizer_s == pytest.approx(s.seconds)
            assert len(s.ready_us) == len(found.gradients)
            assert 0 < s.exposed_s == pytest.approx(s.backward_s - max(s.ready_us) / 1e6, abs=1e-6)
        assert result.alone is not None
        assert result.alone.backward_s > 0
    ready = {g.name: g.ready_us for g in found.gradients}
    assert ready["head.weight"] < ready["blocks.0.qkv.weight"] < ready["token.weight"]  # type: ignore[operator]


def test_verify_sees_what_the_job_ran_with(started: tuple[Restart, Path, Path]) -> None:
    """The plan replaces the caps of the spec, the seed is the round's, and what DDP made of it is told where the
    recorder's variable says."""
    one, folder, out = started
    file = str(folder.with_name("recommendation.json"))
    assert one.world == 2
    assert one.seen == {"COMMBENCH_RECOMMENDATION": (file,), "NCCL_PROTO": ("",)}
    assert (len(one.seconds), len(one.losses), one.tokens) == (12, 12, 12 * 2 * 4 * 32)
    found = read(out)
    assert (found.applied, found.origin, found.in_effect) == ({"bucket_cap_mb": 100_000 / 2**20}, file, True)
    assert found.spec["seed"] == 3
    assert one.buckets == found.buckets
    assert len(found.buckets) > 2
    assert all(nbytes >= 100_000 for nbytes in found.buckets[:-1])
    assert [path.name for path in out.iterdir()] == ["train.json"]
    told = json.loads((folder / "ddp-1.json").read_text())
    assert [(g["name"], g["nbytes"]) for g in told["gradients"]] == [(g.name, g.nbytes) for g in found.gradients]
    backward = backward_of_stats(told["backward_ns"], told["gradients"])  # torch's own clock, in the same order
    assert backward.gradients[0].name == "head.weight"
    assert sum(backward.sizes) == sum(found.buckets)


def test_a_plan_of_fsdp2_is_taken_and_told(tmp_path: Path) -> None:
    """`verify` sees the groups that FSDP2 has made of the plan, and the spec's own are replaced by it."""
    plan = BucketPlan(
        model="gpt", ranks=2, baseline_us=2, step_us=1, gain_low=0.4, gain=0.5, gain_high=0.6,
        modules=("blocks.0+blocks.1",), prefetch=0, reshard_after_forward=False,
    )  # fmt: skip
    made = Recommendation(created="", expires="", machine={}, versions={}, data_sha256="", buckets=(plan,))
    file = tmp_path / "recommendation.json"
    file.write_bytes(encode(made))
    wanted = trial.Wanted(
        side="recommended",
        round=0,
        argv=[*COMMBENCH, "train", spec(tmp_path), "-n", "2", "--set", "parallel=fsdp2", "--set", "steps=4"],
        environment={**os.environ, "COMMBENCH_RECOMMENDATION": str(file)},
        watched=("COMMBENCH_RECOMMENDATION",),
        folder=tmp_path / "steps",
    )
    one = trial.restart(wanted, trial.Limits(deadline=120, patience=60))
    assert (one.why, one.code, one.world) == ("", 0, 2)
    told = {"modules": "blocks.0+blocks.1", "prefetch": "0", "reshard_after_forward": "false"}
    assert one.applied == told
    found = read(tmp_path / "steps")
    assert (found.applied["blocks"], found.origin, found.in_effect) == (2, str(file), True)
    assert one.facts["cores"] == str(os.cpu_count())


# One launch, many jobs: starting Python and torch takes longer than all of their steps.
JOBS = """
import os, sys
import msgspec, torch
import torch.distributed as dist
from commbench.spec.train import load
from commbench.training.job import Job
from commbench.training.text import standard_library
from commbench.world.torch import leave
rank, size = (int(os.environ[f"OMPI_COMM_WORLD_{what}"]) for what in ("RANK", "SIZE"))
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}/meet", rank=rank, world_size=size)
for name, (overrides, kwargs) in msgspec.json.decode(sys.argv[2]).items():
    spec = load(sys.argv[1], overrides)
    job = Job(spec, standard_library(spec.text), rank, size, torch.device("cpu"))
    alone = job.alone(0).ready_s
    job.wrap(kwargs)
    losses = [job.step(k).loss for k in range(spec.steps)]
    buckets = job.buckets(kwargs, spec.steps)
    facts = {"losses": losses, "bytes": buckets.nbytes, "in_effect": buckets.in_effect, "alone": len(alone)}
    with open(f"{sys.argv[3]}/{name}-{rank}.json", "wb") as file:
        file.write(msgspec.json.encode(facts))
    del job
leave()
"""


def several(path: str, folder: Path, jobs: dict[str, tuple[list[str], dict[str, object]]]) -> dict[str, list[Any]]:
    """What each rank tells of each job."""
    (folder / "jobs.py").write_text(JOBS)
    ended = run(
        [*MPIRUN, "--bind-to", "none", sys.executable, str(folder / "jobs.py"), path, json.dumps(jobs), str(folder)]
    )
    assert ended.code == 0, ended.err
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in jobs}


def test_settings_change_what_is_sent_but_not_what_is_learnt(tmp_path: Path) -> None:
    """The same seed gives the same losses with other buckets, and with FSDP2; what is made is what was asked for."""
    few = ["steps=6"]
    fsdp = [*few, "parallel=fsdp2", "fsdp.prefetch=1"]
    jobs: dict[str, tuple[list[str], dict[str, object]]] = {
        "default": (few, {}),
        "small": (few, {"bucket_cap_mb": 0.05, "gradient_as_bucket_view": True}),
        "list": (few, {"bucket_cap_mb_list": [0.02, 0.1], "static_graph": True}),
        "fsdp2": (fsdp, {}),
        "pairs": ([*fsdp, "fsdp.blocks=2", "fsdp.reshard_after_forward=false"], {}),
        "seed": ([*few, "seed=1"], {}),
        "mlp": (["model=mlp"], {}),
        "mlp-fsdp2": (["model=mlp", "parallel=fsdp2"], {}),
    }
    told = several(spec(tmp_path), tmp_path, jobs)
    assert [told[name][0]["in_effect"] for name in jobs] == [True] * len(jobs)
    same = [told[name][0]["bytes"] for name in ("default", "small", "list")]
    assert len({tuple(sizes) for sizes in same}) == 3
    assert len({sum(sizes) for sizes in same}) == 1
    assert told["fsdp2"][0]["bytes"] == []
    for name, like in (("small", "default"), ("list", "default"), ("fsdp2", "default"), ("pairs", "default"),
                       ("mlp-fsdp2", "mlp")):  # fmt: skip
        for mine, other in zip(told[name], told[like], strict=True):
            assert mine["losses"] == pytest.approx(other["losses"], rel=1e-3)
    for name in jobs:
        assert told[name][0]["losses"][-1] < told[name][0]["losses"][0] - 0.3  # the MLP needs all twelve steps
    assert told["default"][0]["losses"] != told["default"][1]["losses"]  # each rank has its own text
    assert told["seed"][0]["losses"][0] != pytest.approx(told["default"][0]["losses"][0], rel=1e-4)


def test_a_killed_rank_ends_the_job_and_is_named(tmp_path: Path) -> None:
    """Under torchrun, rank 0, which the others ask."""
    out = tmp_path / "run"
    command = [*COMMBENCH, "train", spec(tmp_path), "-n", "2", "--out", str(out)]
    process = start([*command, "--set", "steps=100000", "--set", "alone=0"])
    try:
        wait_for(lambda: (out / "steps-1.jsonl").exists() and (out / "steps-1.jsonl").stat().st_size > 5000)
        os.kill(ranks_of(out)[0], signal.SIGKILL)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4
    assert "rank 0" in said
    assert "died" in said
    assert "steps up to there are in" in said
    assert "Traceback" not in said
    assert printed == ""
    assert not (out / "train.json").exists()
    assert len(read_steps(out)[1]) > 2
    assert ranks_of(out) == {}


def refused(*arguments: str, **env: str) -> Ended:
    ended = run([*COMMBENCH, "train", *arguments], **env)
    assert "Traceback" not in ended.err
    return ended


def test_mistakes_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = spec(tmp_path)
    assert "-n 2" in refused(path).err
    out = tmp_path / "run"
    out.mkdir()
    (out / "steps-0.jsonl").write_text("")
    again = refused(path, "-n", "2", "--out", str(out))
    assert (again.code, "already holds" in again.err) == (2, True)
    for env, code, said in (
        ({"COMMBENCH_RECOMMENDATION": str(tmp_path / "none")}, 2, "must name a recommendation.json"),
        ({"COMMBENCH_SEED": "many"}, 2, "COMMBENCH_SEED='many' is no seed"),
    ):
        ended = refused(path, "-n", "2", "--out", str(tmp_path / "x"), **env)
        assert (ended.code, said in ended.err) == (code, True), ended.err
    assert not (tmp_path / "x").exists()
