"""The step recorder, a recommendation's arguments, the text, and the spec of the reference job: all without ranks."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from types import ModuleType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import StepRecorder, ddp_kwargs
from commbench.errors import CommbenchError, FolderError, ReadError, SpecError, StoreError
from commbench.jobs import train as jobs
from commbench.model.step import backward_of_stats
from commbench.records.recommendation import BucketPlan, Recommendation, encode
from commbench.spec.document import shipped
from commbench.spec.train import TRAINING, TrainSpec, load
from commbench.training import apply, place, read_steps
from commbench.training.record import expected_buckets
from commbench.training.text import Batches, standard_library

LAUNCHED = ("OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "COMMBENCH_")


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run inside a job."""
    for name in list(os.environ):
        if name.startswith(LAUNCHED):
            monkeypatch.delenv(name)


def lines(folder: Path, rank: int = 0) -> list[dict[str, object]]:
    """The steps; the line about the start is left out."""
    every = [json.loads(line) for line in (folder / f"steps-{rank}.jsonl").read_text().splitlines()]
    return [line for line in every if "step" in line]


# ---- the recorder -----------------------------------------------------------------------------------------


def test_two_lines_record_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMBENCH_STEPS", str(tmp_path / "new/steps"))
    rec = StepRecorder()
    for k in range(3):
        with rec.step(tokens=128) as step:
            time.sleep(0.01)
            step.loss = 2.0 - k
    found = read_steps(tmp_path / "new/steps")
    assert list(found) == [0]
    assert [(s.step, s.loss, s.tokens) for s in found[0]] == [(0, 2.0, 128), (1, 1.0, 128), (2, 0.0, 128)]
    assert all(0.01 <= s.seconds < 1.0 for s in found[0])


def test_the_first_tick_only_starts_the_clock(tmp_path: Path) -> None:
    rec = StepRecorder(tmp_path)
    time.sleep(0.05)
    rec.tick(loss=9.0)
    for loss in (3.0, 2.0):
        time.sleep(0.01)
        rec.tick(loss=loss, tokens=7)
    assert [(line["step"], line["loss"], line["tokens"]) for line in lines(tmp_path)] == [(0, 3.0, 7), (1, 2.0, 7)]
    assert all(0.01 <= float(str(line["seconds"])) < 0.05 for line in lines(tmp_path))


def test_without_the_variable_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "nonsense")  # nobody asks for it
    rec = StepRecorder()
    with rec.step(loss=1.0):
        pass
    rec.tick()
    rec.tick()
    assert not rec.active
    assert list(tmp_path.iterdir()) == []


def test_the_rank_is_the_launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    with StepRecorder(tmp_path).step():
        pass
    assert [(s.loss, s.tokens) for s in read_steps(tmp_path)[3]] == [(None, None)]
    assert json.loads((tmp_path / "steps-3.jsonl").read_text().splitlines()[0])["world"] == 4


def test_the_first_line_tells_the_surroundings_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NCCL_PROTO": "LL", "NCCL_API_KEY": "hush", "HOME": "/home/me"}.items():
        monkeypatch.setenv(name, value)
    StepRecorder(tmp_path, rank=1, size=2)
    start = json.loads((tmp_path / "steps-1.jsonl").read_text())
    assert (start["world"], start["environment"]["NCCL_PROTO"]) == (2, "LL")
    assert not {"NCCL_API_KEY", "HOME"} & set(start["environment"])
    assert start["facts"]["cores"] == str(os.cpu_count())
    assert read_steps(tmp_path) == {1: []}


class Replica:
    """What the recorder asks of DistributedDataParallel, with an embedding that it was told to ignore."""

    def __init__(self, torch: ModuleType) -> None:
        self.module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Embedding(4, 5), torch.nn.Linear(2, 1))
        self.module[2].bias.requires_grad = False
        self.parameters_to_ignore = {"1.weight"}
        self.reducer = self
        self.passes = 0

    def _get_ddp_logging_data(self) -> dict[str, object]:
        return {"rebuilt_bucket_sizes": "40"}

    def get_backward_stats(self) -> list[int]:
        self.passes += 1
        return [30, 20, 10 + self.passes]


def test_ddp_tells_its_buckets_its_gradients_and_when_they_were_ready(tmp_path: Path) -> None:
    model = Replica(pytest.importorskip("torch"))
    rec = StepRecorder(tmp_path)
    for _ in range(30):
        rec.ddp(model)
    told = json.loads((tmp_path / "ddp-0.json").read_text())
    assert told["rebuilt_bucket_sizes"] == "40"
    assert [(g["name"], g["nbytes"]) for g in told["gradients"]] == [("0.weight", 24), ("0.bias", 8), ("2.weight", 8)]
    assert {(g["dtype"], g["device"], 4 * g["elements"] == g["nbytes"]) for g in told["gradients"]} == {
        ("float32", "cpu", True)
    }
    assert told["backward_ns"] == [[30, 20, 10 + k] for k in range(1, 21)]  # of the first 20 passes
    assert backward_of_stats(told["backward_ns"], told["gradients"]).sizes == (8, 8, 24)
    with pytest.raises(CommbenchError, match="takes a DistributedDataParallel, and this is a Linear"):
        StepRecorder(tmp_path).ddp(model.module[0])
    StepRecorder().ddp(model.module[0])  # nobody asked for it


def test_a_step_that_raises_is_no_step(tmp_path: Path) -> None:
    rec = StepRecorder(tmp_path)
    with pytest.raises(ZeroDivisionError), rec.step():
        1 / 0  # noqa: B018
    assert lines(tmp_path) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_said(tmp_path: Path, loss: float) -> None:
    with StepRecorder(tmp_path).step(loss=loss):
        pass
    (step,) = read_steps(tmp_path)[0]
    assert (step.loss, step.loss_is) == (None, str(loss))


def test_a_step_costs_less_than_50_us(tmp_path: Path) -> None:
    rec = StepRecorder(tmp_path)
    costs = []
    for _ in range(2000):
        began = time.perf_counter()
        with rec.step(loss=1.5, tokens=4096):
            pass
        costs.append(time.perf_counter() - began)
    assert median(costs) < 50e-6
    assert len(read_steps(tmp_path)[0]) == 2000


KILLED = """
import os, signal, sys
from commbench import StepRecorder
assert not {"torch", "mpi4py", "scipy"} & set(sys.modules)
rec = StepRecorder()
for k in range(10):
    with rec.step(loss=k):
        pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_step_and_no_heavy_library_is_loaded(tmp_path: Path) -> None:
    env = {**os.environ, "COMMBENCH_STEPS": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", KILLED], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [s.loss for s in read_steps(tmp_path)[0]] == list(range(10))


def test_a_second_start_mends_the_half_line_and_counts_alone(tmp_path: Path) -> None:
    rec = StepRecorder(tmp_path)
    for loss in (5.0, 4.0):
        with rec.step(loss=loss):
            pass
    with (tmp_path / "steps-0.jsonl").open("ab") as file:
        file.write(b'{"step":2,"sec')
    assert [s.loss for s in read_steps(tmp_path)[0]] == [5.0, 4.0]
    with StepRecorder(tmp_path).step(loss=3.0):
        pass
    assert [line["loss"] for line in lines(tmp_path)] == [5.0, 4.0, 3.0]
    assert [s.loss for s in read_steps(tmp_path)[0]] == [3.0]
    StepRecorder(tmp_path)  # and one that made no step
    assert read_steps(tmp_path) == {0: []}


@settings(max_examples=30)
@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_has_its_first_steps(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    rec = StepRecorder(folder)
    for loss in range(5):
        with rec.step(loss=loss):
            pass
    path = folder / "steps-0.jsonl"
    whole = path.read_bytes()
    cut += whole.index(b"\n")  # behind the line about the start, or just before its end
    path.write_bytes(whole[:cut])
    assert [s.loss for s in read_steps(folder)[0]] == list(range(whole[:cut].count(b"\n") - 1))


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "steps-1.jsonl"
    path.write_text('{"step":0,"seconds":1.0}\n{"step":1,"seconds":"long"}\n{"step":2,"seconds":1.0}\n')
    with pytest.raises(ReadError, match=r"steps-1\.jsonl:2: is no step"):
        read_steps(tmp_path)
    path.write_text('{"step":0,"seconds":-1.0}\n')
    with pytest.raises(ReadError, match=r"steps-1\.jsonl:1: .*negative"):
        read_steps(tmp_path)
    path.rename(tmp_path / "steps-one.jsonl")
    with pytest.raises(ReadError, match=r"steps-RANK\.jsonl"):
        read_steps(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_full_disc_costs_a_warning_and_not_the_job(tmp_path: Path) -> None:
    (tmp_path / "steps-0.jsonl").symlink_to("/dev/full")
    with pytest.warns(RuntimeWarning, match="records no more steps"):
        rec = StepRecorder(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with rec.step():
            pass
    assert not rec.active


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="COMMBENCH_STEPS"):
        StepRecorder(tmp_path / "file")


# ---- ddp_kwargs -------------------------------------------------------------------------------------------


def recommend(path: Path, *plans: BucketPlan, torch: str = "") -> str:
    made = Recommendation(
        created="2026-01-01T00:00:00+00:00",
        expires="2026-07-01T00:00:00+00:00",
        machine={},
        versions={"torch": torch} if torch else {},
        data_sha256="0" * 64,
        buckets=plans,
        keep_default="" if plans else "nothing is faster",
    )
    path.write_bytes(encode(made))
    return str(path)


def plan(*sizes: int, ranks: int = 2, model: str = "gpt", view: bool | None = None, hook: str = "") -> BucketPlan:
    return BucketPlan(
        model=model,
        ranks=ranks,
        bucket_bytes=sizes,
        baseline_us=2.0,
        step_us=1.0,
        gain_low=0.4,
        gain=0.5,
        gain_high=0.6,
        gradient_as_bucket_view=view,
        hook=hook,
    )


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "recommendation.json"
    monkeypatch.setenv("COMMBENCH_RECOMMENDATION", str(path))
    return path


def test_no_recommendation_gives_no_arguments(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommend(file)
    assert ddp_kwargs() == {}
    recommend(file, plan())
    assert ddp_kwargs() == {}
    monkeypatch.delenv("COMMBENCH_RECOMMENDATION")
    assert ddp_kwargs() == {}


def test_buckets_become_caps_in_mib(file: Path) -> None:
    recommend(file, plan(4 * 2**20, view=True))
    assert ddp_kwargs() == {"bucket_cap_mb": 4.0, "gradient_as_bucket_view": True}
    recommend(file, plan(1, 3 * 2**20 + 1))
    caps = ddp_kwargs()["bucket_cap_mb_list"]
    assert [int(cap * 2**20) for cap in caps] == [1, 3 * 2**20 + 1]  # not a byte is lost


def test_an_older_torch_has_no_list(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_torch", lambda: "2.11.0")
    recommend(file, plan(5))
    assert ddp_kwargs() == {"bucket_cap_mb": 5 / 2**20}
    recommend(file, plan(5, 6))
    with pytest.raises(CommbenchError, match=r"2\.12.*2\.11\.0"):
        ddp_kwargs()


def test_another_job_is_refused_with_what_differs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommend(file, plan(5, ranks=4), torch="1.0")
    with pytest.raises(CommbenchError, match=r"torch: measured with 1\.0.*ranks: measured with 4, here 2"):
        ddp_kwargs(ranks=2)
    with pytest.warns(UserWarning, match="forced.*nobody has measured"):
        assert ddp_kwargs(ranks=2, force=True) == {"bucket_cap_mb": 5 / 2**20}
    monkeypatch.setenv("COMMBENCH_FORCE", "1")
    with pytest.warns(UserWarning, match="forced"):
        assert ddp_kwargs(ranks=2) == {"bucket_cap_mb": 5 / 2**20}
    monkeypatch.delenv("COMMBENCH_FORCE")
    recommend(file, plan(5, ranks=4), plan(6))
    assert ddp_kwargs(ranks=2) == {"bucket_cap_mb": 6 / 2**20}


def test_another_machine_is_refused_with_what_differs(file: Path) -> None:
    """As commbench verify does; hosts and ranks of a host are the launcher's business."""
    machine = {"cpu": "an abacus", "cores": "100000", "ranks": "2", "hosts": "77"}
    made = msgspec.json.decode(Path(recommend(file, plan(5), torch="1.0")).read_bytes(), type=Recommendation)
    file.write_bytes(encode(msgspec.structs.replace(made, machine=machine)))
    with pytest.raises(
        CommbenchError, match=r"cores: measured with 100000, here .*cpu: measured with an abacus"
    ) as told:
        ddp_kwargs(ranks=2)
    assert "hosts" not in str(told.value)
    with pytest.warns(UserWarning, match="forced.*abacus"):
        assert ddp_kwargs(ranks=2, force=True) == {"bucket_cap_mb": 5 / 2**20}
    here = {name: value for name, value in place.facts().items() if name in ("cpu", "cores")}
    file.write_bytes(encode(msgspec.structs.replace(made, machine=here, versions={})))
    assert ddp_kwargs(ranks=2) == {"bucket_cap_mb": 5 / 2**20}


SHARDED = msgspec.structs.replace(
    plan(), modules=("blocks.0+blocks.1", "blocks.2"), prefetch=1, reshard_after_forward=False
)


def train(file: Path, *overrides: str) -> jobs._Settings:
    spec = file.with_name("spec.yaml")
    spec.write_text("model: gpt\nlayers: 3\n")
    return jobs._settings(load(str(spec), overrides), 2)


def test_a_plan_of_fsdp2_is_taken_by_the_reference_job_alone(file: Path) -> None:
    recommend(file, SHARDED)
    with pytest.raises(CommbenchError, match=r"shards modules with FSDP2.*--for fsdp2"):
        ddp_kwargs()
    found = train(file, "parallel=fsdp2", "fsdp.blocks=3")
    assert found.kwargs == {"blocks": 2, "prefetch": 1, "reshard_after_forward": False}
    assert found.origin == str(file)
    with pytest.raises(CommbenchError, match="it is for another model"):
        train(file, "parallel=fsdp2", "layers=4")
    with pytest.raises(CommbenchError, match="shards modules with FSDP2"):
        train(file)
    recommend(file, msgspec.structs.replace(SHARDED, reshard_after_forward=2))
    with pytest.raises(CommbenchError, match="reshards to 2 ranks"):
        train(file, "parallel=fsdp2")
    recommend(file, plan(5))
    with pytest.raises(CommbenchError, match="is for DDP"):
        train(file, "parallel=fsdp2")
    recommend(file, plan(5), SHARDED)  # each job takes its own
    assert ddp_kwargs() == {"bucket_cap_mb": 5 / 2**20}
    assert train(file, "parallel=fsdp2").kwargs["blocks"] == 2


def test_the_reference_job_takes_the_hook_of_a_plan(file: Path) -> None:
    recommend(file, plan(5, hook="fp16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(file, "ddp.bucket_cap_mb=4", "ddp.static_graph=true")
    assert (found.kwargs, found.hook) == ({"bucket_cap_mb": 5 / 2**20, "static_graph": True}, "fp16")
    for hook, said in (("bf16", "over gloo"), ("mine", "has the hook mine")):
        recommend(file, plan(5, hook=hook))
        with pytest.raises(CommbenchError, match=said):
            train(file)


def test_several_models_need_a_choice(file: Path) -> None:
    recommend(file, plan(5), plan(6, model="mlp"))
    with pytest.raises(CommbenchError, match=r"gpt on 2 ranks, mlp on 2 ranks"):
        ddp_kwargs(ranks=2)
    assert ddp_kwargs(model="mlp", ranks=2) == {"bucket_cap_mb": 6 / 2**20}
    with pytest.raises(CommbenchError, match="'resnet'; it has: gpt, mlp"):
        ddp_kwargs(model="resnet", ranks=2)


def test_a_hook_is_never_applied_in_silence(file: Path) -> None:
    recommend(file, plan(5, hook="bf16_compress"))
    with pytest.warns(UserWarning, match="bf16_compress"):
        assert ddp_kwargs() == {"bucket_cap_mb": 5 / 2**20}


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"format": 99}', b"\xff"])
def test_a_file_that_is_no_recommendation(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FolderError, match=r"recommendation\.json"):
        ddp_kwargs()


# ---- buckets, text, spec ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=30),
    caps=st.lists(st.integers(1, 8000), min_size=1, max_size=4),
)
def test_expected_buckets_are_torchs_own(sizes: list[int], caps: list[int]) -> None:
    torch = pytest.importorskip("torch")
    import torch.distributed as dist

    tensors = [torch.empty(size) for size in sizes]
    buckets, _ = dist._compute_bucket_assignment_by_size(tensors, [4 * cap for cap in caps])
    theirs = sorted(tuple(bucket) for bucket in buckets)  # torch gives them in the order of their first tensor
    assert expected_buckets([4 * size for size in sizes], [4 * cap for cap in caps]) == tuple(
        sum(4 * sizes[index] for index in bucket) for bucket in theirs
    )


def test_every_rank_has_its_own_text_in_an_order_by_seed() -> None:
    text = standard_library(2**16)
    assert len(text.data) == 2**16
    assert standard_library(2**16).sha256 == text.sha256
    ranks = [Batches(text, 32, 4, rank, 3, seed=7) for rank in range(3)]
    epoch = [index for step in range(2047 // 12) for rank in ranks for index in rank.indices(step)]
    assert len(set(epoch)) == len(epoch)
    assert (ranks[1](5) == Batches(text, 32, 4, 1, 3, seed=7)(5)).all()  # whatever was asked before
    assert (ranks[1](5) != Batches(text, 32, 4, 1, 3, seed=8)(5)).any()
    assert ranks[0](0).shape == (4, 33)
    assert {tuple(row) for row in ranks[0](10**6)} <= {tuple(text.data[32 * k :][:33]) for k in range(2047)}


def test_a_text_that_is_too_short_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommbenchError, match="1 windows"):
        Batches(standard_library(40), 32, 2, 0, 2, 0)
    with pytest.raises(CommbenchError, match="no Python sources"):
        standard_library(10, tmp_path)


def spec(tmp_path: Path, text: str, *overrides: str) -> TrainSpec:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load(str(path), overrides)


def test_a_spec_needs_a_model_only(tmp_path: Path) -> None:
    found = spec(tmp_path, "model: mlp\n", "steps=3", "ddp.bucket_cap_mb_list=[1, 2.5]")
    assert (found.name, found.parallel, found.backend, found.warmup) == ("mine", "ddp", "gloo", 2)
    assert found.ddp.kwargs() == {"bucket_cap_mb_list": [1.0, 2.5]}
    assert msgspec.json.decode(msgspec.json.encode(found.canonical()))["ddp"]["bucket_cap_mb_list"] == [1.0, 2.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 3", "$.model: is missing"),
        ("model: gpd", "did you mean 'gpt'"),
        ("model: gpt\nwidht: 3", ":2: $.widht: unknown key 'widht'; did you mean 'width'"),
        ("model: gpt\nwidth: 100\nheads: 3", ":3: $.heads: width 100 is not a multiple of the 3 heads"),
        ("model: gpt\nsteps: 3\nwarmup: 3", ":3: $.warmup: 3 of 3 steps leave none"),
        ("model: gpt\nddp: {bucket_cap_mb: 0}", "$.ddp.bucket_cap_mb: 0 is not a number above 0"),
        ("model: gpt\nddp: {bucket_cap_mb: 1, bucket_cap_mb_list: [1]}", "keep one of them"),
        ("model: gpt\nparallel: fsdp2\nddp: {bucket_cap_mb: 1}", "goes with parallel: ddp, not with fsdp2"),
        ("model: gpt\nlearning_rate: .nan", "is not a number above 0"),
        ("model: gpt\ntext: a lot", "is not a size"),
    ],
)
def test_a_mistake_gets_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(tmp_path, text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/mine.yaml:")
    assert "\n" not in str(caught.value)


def test_the_shipped_training_spec_loads() -> None:
    assert "gpt" in shipped(TRAINING)
    assert load("gpt").model == "gpt"
