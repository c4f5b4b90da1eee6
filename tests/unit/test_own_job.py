"""Bucket sizes of the user's own job, by restarts. The job here sleeps as long as its buckets say."""

import sys
from pathlib import Path

import pytest
from ranks import COMMBENCH, run

from commbench.jobs.plan import read
from commbench.records import recommendation as records

# A job of 24 MiB of gradients. Buckets of 2 MiB make its steps 40 % shorter; with 5 MiB it crashes.
JOB = """
import sys, time
from commbench import StepRecorder, ddp_kwargs

class Replica:
    parameters_to_ignore, reducer = (), None
    def named_parameters(self):
        return []
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
    (plan,) = records.read(spec.parent / "out").buckets
    assert plan.bucket_bytes == (2 * 2**20,)
    assert plan.gain_low > 0.1
    assert "cap 2 MiB" in ended.out
    assert "out of memory" in ended.out  # the candidate that crashes is void, with its last words
    planned = read(spec.parent / "out")
    assert all(m.proof for m in planned.trials if m.case.settings and m.status == "ok")


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
