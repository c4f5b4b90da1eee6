"""Bucket sizes of the user's own job, by restarts. The job here sleeps as long as its buckets say."""

import os
import sys
from pathlib import Path

import msgspec
import pytest
from ranks import COMMBENCH, run

from commbench.jobs.ownjob import _machine
from commbench.jobs.plan import read
from commbench.records import recommendation as records
from commbench.stats.trials import Restart
from commbench.training import place
from commbench.tune.plans import Plan, Planned, _dtype, recommend

# A job of 24 MiB of gradients. Buckets of 2 MiB make its steps 40 % shorter; with 5 MiB it crashes.
JOB = """
import sys, time
from commbench import StepRecorder, ddp_kwargs

class Parameter:
    requires_grad, dtype = True, "torch.bfloat16"
    numel = staticmethod(lambda: 12 * 2**20)
    element_size = staticmethod(lambda: 2)
    device = type("Device", (), {"type": "cuda"})

class Replica:
    parameters_to_ignore, reducer = (), None
    def named_parameters(self):
        return [("weight", Parameter())]
    module = property(lambda self: self)
    def __init__(self, bucket_cap_mb=25.0):
        self.cap = int(bucket_cap_mb * 2**20)
    def _get_ddp_logging_data(self):
        sizes = ", ".join(["%d" % self.cap] * (24 * 2**20 // self.cap) or ["25165824"])
        return {"bucket_sizes": sizes, "rebuilt_bucket_sizes": sizes, "has_rebuilt_buckets": 1}

model = Replica(**({} if "deaf" in sys.argv else ddp_kwargs()))
if model.cap == 5 * 2**20 or "broken" in sys.argv:
    sys.exit("out of memory")
recorder = StepRecorder()
for _ in range(6):
    with recorder.step(loss=1.0):
        time.sleep(0.006 if model.cap == 2 * 2**20 else 0.010)
if "silent" not in sys.argv:
    recorder.ddp(model)
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    path = tmp_path / "mine.yaml"
    path.write_text(f"command: [{sys.executable}, {tmp_path / 'job.py'}]\ncaps: [2, 5, 10]\nskip: 1\nbudget: 60s\n")
    return path


def tune(spec: Path, *more: str) -> object:
    return run([*COMMBENCH, "tune", str(spec), "--out", str(spec.parent / "out"), *more])


def test_it_finds_the_cap_that_makes_the_step_shorter(spec: Path) -> None:
    ended = tune(spec)
    assert ended.code == 0, ended.err
    made = records.read(spec.parent / "out")
    (plan,) = made.buckets
    assert plan.bucket_bytes == (2 * 2**20,)
    assert plan.gain_low > 0.1
    assert "cap 2 MiB" in ended.out
    assert "out of memory" in ended.out  # the candidate that crashes is void, with its last words
    assert plan.dtype == "bfloat16"  # a count of elements is made with it
    assert made.machine["cores"] == str(os.cpu_count())
    assert not {"hosts", "ranks_per_host"} & set(made.machine)
    assert made.versions == place.installed(("torch", "nccl"))
    planned = read(spec.parent / "out")
    assert all(m.proof for m in planned.trials if m.case.settings and m.status == "ok")


def test_what_a_job_does_not_tell_of_itself_is_unknown() -> None:
    """How its ranks lie on hosts, the type of its gradients; the facts are those that its ranks tell."""
    told = {"cpu": "theirs", "torch": "2.13.0", "nccl": "2.27.5"}
    first = Restart(side="default", round=0, wall_seconds=1.0, world=4, facts=told)
    machine = _machine(first)
    assert (machine.size, machine.facts) == (4, told)
    planned = Planned(
        name="x",
        created="2026-01-01T00:00:00+00:00",
        commbench="0",
        spec={"model": "x", "backend": "job", "parallel": "ddp"},
        seed=0,
        machine=machine,
        text_sha256="",
        parameters=0,
        plans=(Plan(name="default"),),
        trials=(),
        budget=1.0,
        seconds=1.0,
    )
    made = recommend(planned)
    assert made.machine == {"cpu": "theirs", "ranks": "4"}
    assert made.versions == {"torch": "2.13.0", "nccl": "2.27.5"}
    assert (_dtype(planned), _dtype(msgspec.structs.replace(planned, dtype="bfloat16"))) == ("unknown", "bfloat16")


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("deaf", 3, "DDP makes the same buckets as by default"),
        ("silent", 4, "call recorder.ddp(model)"),
        ("broken", 4, "exit code 1, after 0 steps; its last words: out of memory"),
    ],
)
def test_a_job_that_cannot_answer_is_told_why(spec: Path, how: str, code: int, says: str) -> None:
    spec.write_text(spec.read_text().replace("job.py]", f"job.py, {how}]"))
    ended = tune(spec)
    assert (ended.code, says in ended.out + ended.err) == (code, True), ended.out + ended.err


def test_nonsense_is_refused(spec: Path) -> None:
    for more, says in (
        (["-n", "4"], "do not go with a command"),
        (["--set", "rounds=3"], "rounds"),
        (["--set", "caps=[]"], "write caps in MiB"),
        (["--set", "caps=[-1]"], "not a number above 0"),
        (["--set", "command=[]"], "write how the job is started"),
        (["--budget", "1ms"], "the smallest that would do"),
    ):
        ended = tune(spec, *more)
        assert (ended.code, says in ended.err) == (2, True), ended.err
