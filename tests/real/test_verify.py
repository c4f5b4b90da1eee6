"""Real jobs with and without a recommendation: faster, slower, equal, crashing, hanging, silent; nothing is left."""

import json
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from ranks import COMMBENCH, MPIRUN, TORCHRUN, Ended, run, start, wait_for

from commbench.cli.verify import command
from commbench.errors import SpecError
from commbench.jobs.verify import NAME
from commbench.records import recommendation as records
from commbench.records.recommendation import BucketPlan, Recommendation, Rule

pytestmark = pytest.mark.real
GAINS: dict[str, Any] = {"baseline_us": 2, "gain_low": 0.1, "gain": 0.2, "gain_high": 0.3}

# A job that tells how long its steps were: a variable makes them shorter, a word makes it misbehave with it.
TELLER = """
import json, os, random, sys, time
from commbench import StepRecorder, ddp_kwargs

asked = ddp_kwargs()
with_it = os.environ.get("NCCL_PROTO") == "LL" or bool(asked)
mood = sys.argv[1] if with_it else "good"
if mood == "deaf":
    del os.environ["NCCL_PROTO"]
chance = random.Random(int(os.environ["COMMBENCH_SEED"]))
offset = 0.01 * chance.random()
share = {"faster": 0.8, "slower": 1.25}.get(mood, 1)
recorder = None if mood == "silent" or "SILENT" in os.environ else StepRecorder(size=2 if mood == "lonely" else None)
for step in range(12):
    if mood == "crash" and step == 3:
        sys.exit("CUDA error: out of memory")
    if mood == "hang" and step == 3:
        time.sleep(3600)
    seconds = 0.03 * share * (1 + 0.02 * random.random())
    loss = (2 + 1 / (1 + step)) * (1 + offset + (0.2 if mood == "dull" else 0))
    if recorder:
        recorder.write(seconds, loss, 8, {})
    print(f"step {step} took {1e3 * seconds:.3f} ms", flush=True)
    time.sleep(float(os.environ.get("SLOWLY", 0)))
sizes = [int(cap * 2**20) for cap in asked.get("bucket_cap_mb_list", [1])]
with open(os.path.join(os.environ["COMMBENCH_STEPS"], "ddp-0.json"), "w") as file:
    json.dump({"rebuilt_bucket_sizes": ", ".join(map(str, sizes))}, file)
"""


class Job(NamedTuple):
    folder: Path
    program: Path

    def verify(self, *words: str, before: tuple[str, ...] = (), **env: str) -> Ended:
        options = [word for word in words if word.startswith("--")]
        mood = [word for word in words if not word.startswith("--")]
        return run([*self.asking(*options), *before, sys.executable, str(self.program), *mood], **env)

    def asking(self, *options: str) -> list[str]:
        return [*COMMBENCH, "verify", str(self.folder), "--skip-steps=2", "--rounds=3", *options, "--"]

    @property
    def told(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((self.folder / NAME).read_bytes())
        return answer


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(program: str = TELLER, ranks: int = 1, **fields: Any) -> Job:
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


def test_a_real_gain_is_proved(job: Callable[..., Job]) -> None:
    made = job()
    ended = made.verify("faster", "--json")
    assert ended.code == 0, ended.out + ended.err
    said, told = json.loads(ended.out), made.told
    assert (said["verdict"], said["losses"]["verdict"], said["effect"]) == ("proved", "same", "confirmed")
    assert (told["verdict"], told["settings"]) == ("proved", {"NCCL_PROTO": "LL"})
    assert {(one["side"], one["round"]) for one in told["restarts"]} == {
        (side, k) for side in ("default", "recommended") for k in range(3)
    }
    assert len(told["restarts"]) == ended.err.count("round ") == 6
    assert said["ratio_low"] < 0.8 * 1.02
    assert said["ratio_high"] > 0.8 * 0.98


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


IN_OUTPUT = ("--step-regex=step (?P<step>[0-9]+) took (?P<seconds>[0-9.]+) ms", "--unit=ms")


def test_steps_are_found_in_the_output(job: Callable[..., Job]) -> None:
    """And a job that is slower makes the exit code 1. What its recorder tells beside is believed."""
    made = job()
    ended = made.verify("slower", *IN_OUTPUT)
    assert ended.code == 1, ended.out + ended.err
    assert re.search(r"Worse: the job is slower with the recommendation, \+2[456]\.\d %", ended.out), ended.out
    assert made.told["judgement"]["effect"] == "confirmed"
    assert 0.035 < made.told["judgement"]["step_seconds"][1] < 0.04


def test_a_job_that_tells_nothing_but_its_steps(job: Callable[..., Job]) -> None:
    """Its gain is not proved, unless every rank is seen on this machine with what it was given."""
    ended = job().verify("faster", *IN_OUTPUT, SILENT="1")
    assert ended.code == 3, ended.out + ended.err
    assert "nothing shows that the ranks ran with the settings" in ended.out
    made = job(ranks=2)
    ended = made.verify("faster", *IN_OUTPUT, before=tuple(MPIRUN), SILENT="1", SLOWLY="0.1")
    assert ended.code == 0, ended.out + ended.err
    assert {one["world"] for one in made.told["restarts"]} == {2}
    other = job(ranks=4).verify("faster", *IN_OUTPUT, before=tuple(MPIRUN), SILENT="1", SLOWLY="0.1")
    assert (other.code, "the job has 2 ranks" in other.err) == (2, True)


def test_a_line_without_a_figure_is_no_step(job: Callable[..., Job]) -> None:
    """The group of the pattern is optional; a job that prints more of them than a pipe holds goes on."""
    more = 'print("time\\n" * 100000)\n'
    ended = job(TELLER + more).verify("slower", "--step-regex=(?:time|took)(?: ([0-9.]+) ms)?", "--unit=ms")
    assert ended.code == 1, ended.out + ended.err


def test_a_budget_for_less_than_an_honest_comparison(job: Callable[..., Job]) -> None:
    ended = job().verify("faster", "--budget=3s", SLOWLY="0.05")
    assert ended.code == 3
    assert "--budget 3 s is too small: one start takes" in ended.out
    ended = job().verify("faster", "--budget=1s", SLOWLY="60")
    assert ended.code == 3
    assert "--budget 1 s is too small: the first start" in ended.out
    assert "6.6 times as long as one start" in ended.out


def test_what_was_measured_elsewhere_is_refused(job: Callable[..., Job]) -> None:
    made = job(ranks=4)
    refused = made.verify("faster", before=tuple(MPIRUN))
    assert refused.code == 2
    assert "the job has 2 ranks, the recommendation was measured with 4" in refused.err
    assert "--force: what follows then says nothing about the gain" in refused.err
    made = job(machine={"cpu": "an abacus"})
    refused = made.verify("faster")
    assert refused.code == 2
    assert "cpu: measured with an abacus, here " in refused.err


def test_mistakes_in_the_command(job: Callable[..., Job], tmp_path: Path) -> None:
    folder = str(job().folder)
    for words, said in [
        ([folder], "which job?"),
        ([folder, "--step-regex", "(", "--", "true"], "--step-regex '('"),
        ([folder, "--step-regex", "no group", "--", "true"], "give one group"),
        ([folder, "--rounds", "2", "--", "true"], "--rounds"),
        ([folder, "--budget", "10", "--", "true"], "is not a time with its unit"),
    ]:
        refused = CliRunner().invoke(command, words)
        assert said in refused.output + str(refused.exception)
        assert refused.exit_code == 2 or isinstance(refused.exception, SpecError)
    for words, code, said in [
        ([folder, "--", "no-such-program"], 4, "no-such-program: cannot be started: No such file"),
        ([str(tmp_path / "none"), "--", "true"], 2, "recommendation.json: No such file"),
    ]:
        ended = run([*COMMBENCH, "verify", *words])
        assert (ended.code, "Traceback" in ended.err, said in ended.err) == (code, False, True), ended.err


@pytest.mark.parametrize(("launcher", "number"), [("mpirun", signal.SIGINT), ("torchrun", signal.SIGTERM)])
def test_an_interrupted_verification_leaves_no_process(
    job: Callable[..., Job], launcher: str, number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        number = signal.SIGTERM  # these tests run in the background of a shell, where nobody can press Ctrl-C
    made = job(ranks=2)
    words = {"mpirun": [*MPIRUN, sys.executable], "torchrun": TORCHRUN}[launcher]
    process = start([*made.asking(), *words, str(made.program), "faster"], SLOWLY="60")
    wait_for(lambda: len(list(made.folder.glob("verify-*/*/steps-*.jsonl"))) == 2)
    time.sleep(0.3)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 1, 3)
    assert not alive(str(made.program))
    assert not (made.folder / NAME).exists()


def test_a_bucket_plan_reaches_the_job_and_other_places_are_forced(job: Callable[..., Job]) -> None:
    """What a real DDP makes of a plan is in test_train.py."""
    plan = BucketPlan(model="mlp", ranks=2, bucket_bytes=(2**18, 2**20), step_us=1, **GAINS)
    made = job(rules=(), buckets=(plan,), machine={"cpu": "an abacus"})
    ended = made.verify("faster", "--force", RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost")
    told = made.told
    assert (ended.code, told["judgement"]["effect"]) == (0, "confirmed"), ended.out + ended.err
    assert set(told["settings"]) == {"COMMBENCH_RECOMMENDATION", "COMMBENCH_FORCE"}
    buckets = [{tuple(o["buckets"]) for o in told["restarts"] if o["side"] == s} for s in ("default", "recommended")]
    assert buckets == [{(2**20,)}, {(2**18, 2**20)}]
    assert "forced: cpu: measured with an abacus" in ended.out
    assert "note: the job has 1 ranks, the recommendation was measured with 2" in ended.out
