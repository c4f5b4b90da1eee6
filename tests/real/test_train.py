"""The reference job with real ranks over Gloo: it learns, its settings are in effect, and its end is clear."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ranks import COMMBENCH, MPIRUN, TORCHRUN, Ended, ranks_of, run, start, wait_for

from commbench.jobs.train import read
from commbench.records.recommendation import BucketPlan, Recommendation, encode
from commbench.training import read_steps

pytestmark = pytest.mark.real
SMALL = (
    "model: {model}\nlayers: 2\nwidth: 64\nheads: 2\ncontext: 32\nbatch: 4\nsteps: 12\nwarmup: 2\nalone: 2\n"
    "text: 256KiB\nlearning_rate: 0.003\n"
)


def spec(tmp_path: Path, model: str = "gpt", more: str = "") -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(model=model) + more)
    return str(path)


def test_a_gpt_learns_and_tells_what_a_step_is_made_of(tmp_path: Path) -> None:
    """Started by mpirun: the control channel is MPI's."""
    out = tmp_path / "run"
    ended = run([*MPIRUN, *COMMBENCH, "train", spec(tmp_path), "--out", str(out)])
    assert ended.code == 0, ended.err
    assert "in effect" in ended.out
    assert ended.out.count("# folder") == 1
    found, steps = read(out), read_steps(out)
    assert (found.machine.launcher, found.in_effect, sorted(steps)) == ("openmpi", True, [0, 1])
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


# One launch, many jobs: starting Python and torch takes longer than all of their steps.
JOBS = """
import sys
import msgspec, torch
import torch.distributed as dist
from commbench.spec.train import load
from commbench.training.job import Job
from commbench.training.text import standard_library
dist.init_process_group("gloo")
for name, (overrides, kwargs) in msgspec.json.decode(sys.argv[2]).items():
    spec = load(sys.argv[1], overrides)
    job = Job(spec, standard_library(spec.text), dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    alone = job.alone(0).ready_s
    job.wrap(kwargs)
    losses = [job.step(k).loss for k in range(spec.steps)]
    buckets = job.buckets(kwargs, spec.steps)
    facts = {"losses": losses, "bytes": buckets.nbytes, "in_effect": buckets.in_effect, "alone": len(alone)}
    with open(f"{sys.argv[3]}/{name}-{dist.get_rank()}.json", "wb") as file:
        file.write(msgspec.json.encode(facts))
dist.destroy_process_group()
"""


def several(path: str, folder: Path, jobs: dict[str, tuple[list[str], dict[str, object]]]) -> dict[str, list[Any]]:
    """What each rank tells of each job."""
    (folder / "jobs.py").write_text(JOBS)
    ended = run([*TORCHRUN, str(folder / "jobs.py"), path, json.dumps(jobs), str(folder)])
    assert ended.code == 0, ended.err
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)] for name in jobs}


def test_settings_change_what_is_sent_but_not_what_is_learnt(tmp_path: Path) -> None:
    """The same seed gives the same losses with other buckets, and with FSDP2; the buckets are those asked for."""
    fsdp = ["parallel=fsdp2", "fsdp.prefetch=1"]
    jobs: dict[str, tuple[list[str], dict[str, object]]] = {
        "default": ([], {}),
        "small": ([], {"bucket_cap_mb": 0.05, "gradient_as_bucket_view": True}),
        "list": ([], {"bucket_cap_mb_list": [0.02, 0.1], "static_graph": True}),
        "fsdp2": (fsdp, {}),
        "pairs": ([*fsdp, "fsdp.blocks=2", "fsdp.reshard_after_forward=false"], {}),
        "seed": (["seed=1"], {}),
        "mlp": (["model=mlp"], {}),
        "mlp-fsdp2": (["model=mlp", "parallel=fsdp2"], {}),
    }
    told = several(spec(tmp_path), tmp_path, jobs)
    assert [told[name][0]["in_effect"] for name in jobs] == [True, True, True, None, None, True, True, None]
    same = [told[name][0]["bytes"] for name in ("default", "small", "list")]
    assert len({tuple(sizes) for sizes in same}) == 3
    assert len({sum(sizes) for sizes in same}) == 1
    assert told["fsdp2"][0]["bytes"] == []
    for name, like in (("small", "default"), ("list", "default"), ("fsdp2", "default"), ("pairs", "default"),
                       ("mlp-fsdp2", "mlp")):  # fmt: skip
        for mine, other in zip(told[name], told[like], strict=True):
            assert mine["losses"] == pytest.approx(other["losses"], rel=1e-3)
    for name in jobs:
        assert told[name][0]["losses"][-1] < told[name][0]["losses"][0] - 0.3
    assert told["default"][0]["losses"] != told["default"][1]["losses"]  # each rank has its own text
    assert told["seed"][0]["losses"][0] != pytest.approx(told["default"][0]["losses"][0], rel=1e-4)


def test_a_recommendation_replaces_the_caps_of_the_spec(tmp_path: Path) -> None:
    """Started by commbench itself."""
    plan = BucketPlan(
        model="gpt", ranks=2, bucket_bytes=(100_000,), baseline_us=2, step_us=1, gain_low=0.4, gain=0.5, gain_high=0.6
    )
    made = Recommendation(created="", expires="", machine={}, versions={}, data_sha256="", buckets=(plan,))
    file, out = tmp_path / "recommendation.json", tmp_path / "run"
    file.write_bytes(encode(made))
    command = [*COMMBENCH, "train", spec(tmp_path), "-n", "2", "--out", str(out), "--set", "ddp.bucket_cap_mb=4"]
    ended = run(command, COMMBENCH_RECOMMENDATION=str(file))
    assert ended.code == 0, ended.err
    found = read(out)
    assert (found.applied, found.origin, found.in_effect) == ({"bucket_cap_mb": 100_000 / 2**20}, str(file), True)
    assert len(found.buckets) > 2
    assert all(nbytes >= 100_000 for nbytes in found.buckets[:-1])


def test_steps_go_where_the_recorders_variable_says(tmp_path: Path) -> None:
    """Under torchrun."""
    out, steps = tmp_path / "run", tmp_path / "steps"
    command = [*TORCHRUN, "-m", "commbench", "train", spec(tmp_path), "--out", str(out), "--json"]
    ended = run(command, COMMBENCH_STEPS=str(steps))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["machine"]["launcher"] == "torchrun"
    assert {rank: len(own) for rank, own in read_steps(steps).items()} == {0: 12, 1: 12}
    assert json.loads((steps / "ddp-1.json").read_text())["rebuilt_bucket_sizes"]
    assert [path.name for path in out.iterdir()] == ["train.json"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job_and_is_named(tmp_path: Path, victim: int) -> None:
    out = tmp_path / "run"
    path = spec(tmp_path, more="")
    command = [*COMMBENCH, "train", path, "-n", "2", "--out", str(out), "--set", "steps=100000"]
    process = start(command)
    try:
        wait_for(lambda: (out / "steps-1.jsonl").exists() and (out / "steps-1.jsonl").stat().st_size > 5000)
        os.kill(ranks_of(out)[victim], signal.SIGKILL)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4
    assert f"rank {victim}" in said
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
    missing = refused(path, "-n", "2", "--out", str(tmp_path / "x"), COMMBENCH_RECOMMENDATION=str(tmp_path / "none"))
    assert missing.code == 4
    assert "must name a recommendation.json" in missing.err
    assert not (tmp_path / "x" / "train.json").exists()
