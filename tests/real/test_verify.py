"""Real jobs with and without a recommendation: faster, slower, equal, crashing, hanging, silent; nothing is left."""

import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ranks import COMMBENCH, MPIRUN, TORCHRUN, Ended, run, start, wait_for

from commbench.jobs.verify import NAME
from commbench.records import recommendation as records
from commbench.records.recommendation import BucketPlan, Recommendation, Rule

pytestmark = pytest.mark.real
GAINS: dict[str, Any] = {"baseline_us": 2, "gain_low": 0.1, "gain": 0.2, "gain_high": 0.3}

# A job whose steps sleep, as long as a variable says; a second variable makes it misbehave.
SLEEPER = """
import json, os, pathlib, random, sys, time

with_it = os.environ.get("NCCL_PROTO") == "LL"
mood = sys.argv[1] if with_it else "good"
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK", "0")))
size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
chance = random.Random(int(os.environ["COMMBENCH_SEED"]))
offset = 0.01 * chance.random()
share = {"faster": 0.8, "slower": 1.25}.get(mood, 1)
file = None
if mood != "silent":
    file = open(pathlib.Path(os.environ["COMMBENCH_STEPS"], f"steps-{rank}.jsonl"), "w", buffering=1)
    environment = {name: value for name, value in os.environ.items() if name.startswith("NCCL_")}
    if mood == "deaf":
        environment = {}
    file.write(json.dumps({"environment": environment, "world": size + (mood == "lonely")}) + "\\n")
for step in range(12 if mood != "short" else 11):
    if mood == "crash" and step == 3:
        sys.exit("CUDA error: out of memory")
    if mood == "hang" and step == 3:
        time.sleep(3600)
    seconds = 0.03 * share * (1 + 0.02 * random.random())
    time.sleep(seconds)
    loss = (2 + 1 / (1 + step)) * (1 + offset + (0.2 if mood == "dull" else 0))
    if file:
        file.write(json.dumps({"step": step, "seconds": seconds, "loss": loss, "tokens": 8}) + "\\n")
    print(f"step {step} took {1e3 * seconds:.3f} ms", flush=True)
"""


class Job(NamedTuple):
    folder: Path
    program: Path

    def verify(self, *words: str, before: tuple[str, ...] = (), **env: str) -> Ended:
        options = [word for word in words if word.startswith("--")]
        mood = [word for word in words if not word.startswith("--")]
        command = [*before, sys.executable] if before != tuple(TORCHRUN) else [*before]
        return run([*self.asking(*options), *command, str(self.program), *mood], **env)

    def asking(self, *options: str) -> list[str]:
        return [*COMMBENCH, "verify", str(self.folder), "--skip-steps=2", "--rounds=3", *options, "--"]

    @property
    def told(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((self.folder / NAME).read_bytes())
        return answer


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(program: str = SLEEPER, ranks: int = 1, **fields: Any) -> Job:
        rule = Rule(
            op="all_reduce",
            ranks=ranks,
            min_bytes=1,
            max_bytes=2**20,
            settings=(("NCCL_PROTO", "LL"),),
            time_us=1,
            **GAINS,
        )
        made = {"machine": {}, "versions": {}, "data_sha256": "ab", "rules": (rule,), **fields}
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        data = records.encode(Recommendation(created="2026-01-01", expires="2999-01-01", **made))
        (folder / records.NAME).write_bytes(data)
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(program))
        return Job(folder, path)

    return make


def alive(word: str) -> list[int]:
    """Live processes with this word in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(("mood", "code", "verdict"), [("faster", 0, "proved"), ("slower", 1, "worse")])
def test_a_real_difference_is_found(job: Callable[..., Job], mood: str, code: int, verdict: str) -> None:
    made = job()
    ended = made.verify(mood)
    assert ended.code == code, ended.out + ended.err
    told = made.told
    assert told["verdict"] == verdict
    assert told["judgement"]["effect"] == "confirmed"
    assert told["settings"] == {"NCCL_PROTO": "LL"}
    assert len(told["restarts"]) == 6
    assert {(one["side"], one["round"]) for one in told["restarts"]} == {
        (side, k) for side in ("default", "recommended") for k in range(3)
    }
    ratio = told["judgement"]["speed"]
    assert ratio["low"] < {"faster": 0.8, "slower": 1.25}[mood] * 1.02
    assert ratio["high"] > {"faster": 0.8, "slower": 1.25}[mood] * 0.98
    assert ended.err.count("round ") == 6


def test_no_difference_proves_nothing(job: Callable[..., Job]) -> None:
    made = job()
    ended = made.verify("same", "--json", "--min-effect=20%")
    assert ended.code == 3
    told = json.loads(ended.out)
    assert (told["verdict"], told["losses"]["verdict"]) == ("same", "same")
    assert told["ratio_low"] < 1 < told["ratio_high"]


def test_a_changed_convergence_is_told(job: Callable[..., Job]) -> None:
    made = job()
    ended = made.verify("dull")
    assert ended.code == 1
    assert "the job learns worse" in ended.out
    assert made.told["judgement"]["losses"]["verdict"] == "higher"


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("crash", "exit code 1, after 3 steps; its last words: "),
        ("silent", "with the recommendation: it recorded no step"),
        ("short", "12 steps without the recommendation, 11 with it"),
        ("lonely", "1 of 2 ranks recorded steps"),
        ("deaf", "NCCL_PROTO=LL did not reach the ranks"),
    ],
)
def test_what_gives_no_answer_says_why(job: Callable[..., Job], mood: str, said: str) -> None:
    made = job()
    ended = made.verify(mood)
    assert ended.code == 3, ended.out + ended.err
    assert said in ended.out
    assert made.told["verdict"] == "void"
    if mood == "crash":
        assert "out of memory" in ended.out
        assert "without the recommendation 1 of 1 ended well" in ended.out


def test_a_job_that_hangs_is_ended(job: Callable[..., Job]) -> None:
    made = job()
    ended = made.verify("hang", "--budget=18s")
    assert ended.code == 3
    assert "no step and no output for 3 s, after 3 steps" in ended.out
    assert not alive(str(made.program))
    assert ended.seconds < 40


def test_steps_are_found_in_the_output(job: Callable[..., Job]) -> None:
    made = job()
    ended = run(
        [*made.asking("--step-regex=took ([0-9.]+) ms", "--unit=ms"), sys.executable, str(made.program), "faster"]
    )
    assert ended.code == 0, ended.out + ended.err
    assert made.told["judgement"]["effect"] == "untold"
    assert 0.02 < made.told["judgement"]["step_seconds"][1] < 0.03
    ended = made.verify("faster", "--step-regex=epoch ([0-9]+)")
    assert ended.code == 3
    assert "--step-regex found no step" in ended.out


def test_a_budget_for_less_than_an_honest_comparison(job: Callable[..., Job]) -> None:
    ended = job().verify("faster", "--budget=2s")
    assert ended.code == 3
    assert "--budget 2 s is too small: one start takes" in ended.out


def test_what_was_measured_elsewhere_is_refused(job: Callable[..., Job]) -> None:
    made = job(ranks=4)
    refused = made.verify("faster", before=tuple(MPIRUN))
    assert refused.code == 2
    assert "the job has 2 ranks, the recommendation was measured with 4" in refused.err
    made = job(machine={"cpu": "an abacus"})
    refused = made.verify("faster")
    assert refused.code == 2
    assert "cpu: measured with an abacus, here " in refused.err
    forced = made.verify("faster", "--force")
    assert forced.code == 0
    assert "forced: cpu: measured with an abacus" in forced.out


def test_mistakes_in_the_command(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job()
    command = [*COMMBENCH, "verify", str(made.folder)]
    for words, code, said in [
        ([], 2, "which job?"),
        (["--", "no-such-program"], 4, "no-such-program: cannot be started: No such file"),
        (["--step-regex", "(", "--", "true"], 2, "--step-regex '('"),
        (["--step-regex", "no group", "--", "true"], 2, "give one group"),
        (["--rounds", "2", "--", "true"], 2, "--rounds"),
        (["--budget", "10", "--", "true"], 2, "is not a time with its unit"),
    ]:
        ended = run([*command, *words])
        assert (ended.code, "Traceback" in ended.err) == (code, False), ended.err
        assert said in ended.err
    assert run([*COMMBENCH, "verify", str(tmp_path / "none"), "--", "true"]).code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_an_interrupted_verification_leaves_no_process(
    job: Callable[..., Job], launcher: str, number: signal.Signals
) -> None:
    made = job(program=SLEEPER.replace("range(12", "range(100000"), ranks=2)
    command = {"mpirun": [*MPIRUN, sys.executable], "torchrun": TORCHRUN}[launcher]
    process = start([*made.asking(), *command, str(made.program), "faster"])
    wait_for(lambda: len(list(made.folder.glob("verify-*/*/steps-*.jsonl"))) == 2)
    time.sleep(0.3)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 1, 3)
    assert not alive(str(made.program))
    assert not (made.folder / NAME).exists()


# Two ranks that train with Gloo; the plan of buckets is taken from the recommendation.
TRAINING = """
import json, os, pathlib, time
import torch, torch.distributed as dist
from commbench.training.apply import ddp_kwargs

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(int(os.environ["COMMBENCH_SEED"]))
torch.set_num_threads(1)
kwargs = ddp_kwargs()
model = torch.nn.Sequential(*(torch.nn.Linear(200, 200) for _ in range(12)))
model = torch.nn.parallel.DistributedDataParallel(model, **kwargs)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
folder = pathlib.Path(os.environ["COMMBENCH_STEPS"])
with open(folder / f"steps-{rank}.jsonl", "w", buffering=1) as file:
    names = ("NCCL_PROTO", "COMMBENCH_RECOMMENDATION")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    file.write(json.dumps({"environment": environment, "world": size}) + "\\n")
    for step in range(10):
        began = time.perf_counter()
        data = torch.randn(8, 200)
        loss = ((model(data) - data) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if kwargs:
            time.sleep(0.02)  # what the plan costs here, to have a difference that any machine shows
        line = {"step": step, "seconds": time.perf_counter() - began, "loss": loss.item(), "tokens": 8}
        file.write(json.dumps(line) + "\\n")
(folder / f"ddp-{rank}.json").write_text(json.dumps(dict(model._get_ddp_logging_data()), default=str))
dist.destroy_process_group()
"""


def test_a_bucket_plan_in_a_real_ddp_job(job: Callable[..., Job]) -> None:
    plan = BucketPlan(model="mlp", ranks=2, bucket_bytes=(2**18, 2**20), step_us=1, **GAINS)
    made = job(program=TRAINING, ranks=2, rules=(), buckets=(plan,))
    ended = run([*made.asking(), *TORCHRUN, str(made.program)], timeout=240)
    told = made.told
    assert list(told["settings"]) == ["COMMBENCH_RECOMMENDATION"], ended.err
    assert {one["world"] for one in told["restarts"]} == {2}
    buckets = [{tuple(o["buckets"]) for o in told["restarts"] if o["side"] == s} for s in ("default", "recommended")]
    assert (ended.code, told["judgement"]["effect"]) == (1, "confirmed"), ended.out + ended.err
    assert buckets[0] != buckets[1]
    assert told["judgement"]["losses"]["verdict"] == "same"  # buckets change no sum of two
