"""Searches that are killed, interrupted or run out of disc: nothing is left running, and they go on from there."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks import COMMBENCH, fill, load, ranks_of, rows, run, small_disc, start, wait_for

from commbench.jobs import plan
from commbench.jobs.tune import digest
from commbench.records import recommendation as records
from commbench.tune.plans import recommend

pytestmark = pytest.mark.real

COLLECTIVES = """
backend: mpi
collectives: all_reduce
sizes: [64KiB]
trial: {max_time: 100ms, warmup: 10ms}
budget: 30s
"""
MODEL = (
    "model: mlp\nlayers: 2\nwidth: 64\ncontext: 16\nbatch: 4\nsteps: 5\nwarmup: 1\nalone: 2\ntext: 64KiB\n"
    "deadline: 20s\n"
)
# A job on two ranks; with buckets of 2 MiB its steps are shorter. It would run for hours where `slow` names a file.
JOB = """
import os, sys, time
from commbench import StepRecorder, ddp_kwargs

class Replica:
    parameters_to_ignore, reducer = (), None
    def named_parameters(self):
        return []
    module = property(lambda self: self)
    def __init__(self, bucket_cap_mb=25.0):
        self.cap = int(bucket_cap_mb * 2**20)
    def _get_ddp_logging_data(self):
        return {"rebuilt_bucket_sizes": ", ".join(["%d" % self.cap] * 8), "has_rebuilt_buckets": 1}

model, recorder = Replica(**ddp_kwargs()), StepRecorder()
for _ in range(6):
    with recorder.step(loss=1.0):
        time.sleep(0.006 if model.cap == 2 * 2**20 else 0.010)
recorder.ddp(model)
if model.cap == 2 * 2**20 and os.path.exists(sys.argv[1]):
    time.sleep(3600)
"""


def tune(spec: Path, out: Path, *more: str) -> list[str]:
    return [*COMMBENCH, "tune", str(spec), "--out", str(out), *more]


def lines(out: Path) -> list[bytes]:
    return (out / "journal.jsonl").read_bytes().splitlines()


def processes(out: Path) -> list[int]:
    """Processes that know of this folder, by their command or by what they were told."""
    found, word = [], os.fsencode(out)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            known = (
                word in (entry / "cmdline").read_bytes()
                or b"COMMBENCH_STEPS=" + word in (entry / "environ").read_bytes()
            )
        except OSError:
            continue
        if known:
            found.append(int(entry.name))
    return found


def goes_on(command: list[str], out: Path, before: list[bytes]) -> None:
    """What a resumed search must come to: an answer, from the trials that were there and more."""
    assert not (out / records.NAME).exists()
    ended = run([*command, "--resume"])
    assert ended.code in (0, 3), ended.err
    assert lines(out)[: len(before)] == before
    found = records.read(out)
    if (out / plan.NAME).exists():
        assert found == recommend(plan.read(out))
    else:
        assert found.data_sha256 == digest(out)
    assert load(out)[0].resumed


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    mpirun = Path(sys.executable).with_name("mpirun")
    words = [mpirun, "-n", 2, "--map-by", "slot:OVERSUBSCRIBE", sys.executable, tmp_path / "job.py", tmp_path / "slow"]
    path = tmp_path / "own.yaml"
    path.write_text(f"command: [{', '.join(map(str, words))}]\ncaps: [2]\nskip: 1\nrounds: 4\nbudget: 60s\n")
    return path


def test_a_killed_search_for_settings_goes_on(tmp_path: Path, out: Path) -> None:
    """One for a bucket plan goes on in the same way (tests/unit/test_runfolder.py), but takes long to start."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(COLLECTIVES)
    command = tune(spec, out, "-n", "2")
    process = start(command)
    wait_for(lambda: rows(out) >= 4)
    os.kill(ranks_of(out)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    wait_for(lambda: not processes(out), 10)
    before = lines(out)
    assert (process.returncode, "Traceback" in err) == (4, False), err
    assert f"{len(before)} trials are kept in {out}, --resume --out {out} goes on" in err
    goes_on([*command, "--budget", "2s"], out, before)


def test_a_killed_search_in_the_users_own_job_leaves_no_rank_of_it(own: Path, out: Path) -> None:
    """A stranger's ranks do not end with their launcher."""
    (own.parent / "slow").touch()
    process = start(tune(own, out))
    wait_for(lambda: rows(out) >= 1 and len(processes(out)) >= 3)
    time.sleep(0.5)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not processes(out), 10)
    assert not (out / records.NAME).exists()
    assert {m.status for m in load(out)[1]} == {"ok"}


def test_an_interrupted_search_says_one_sentence_and_goes_on(own: Path, out: Path) -> None:
    (own.parent / "slow").touch()
    process = start(tune(own, out, "--quiet"))
    wait_for(lambda: rows(out) >= 1 and len(processes(out)) >= 3)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    count = len(lines(out))
    sentence = f"commbench: interrupted; {count} trials are kept in {out}, --resume --out {out} goes on\n"
    assert (process.returncode, err) == (4, sentence)
    wait_for(lambda: not processes(out), 10)


@pytest.fixture
def disc(tmp_path: Path) -> Iterator[Path]:
    with small_disc(tmp_path / "disc", "512k") as folder:
        yield folder


@pytest.mark.parametrize("kind", ["settings", "own job"])
def test_a_full_disc_ends_a_search_that_goes_on_when_there_is_room(
    own: Path, tmp_path: Path, disc: Path, kind: str
) -> None:
    out = disc / "run"
    spec = tmp_path / "spec.yaml"
    spec.write_text(COLLECTIVES)
    command = tune(own, out) if kind == "own job" else tune(spec, out, "-n", "2")
    process = start(command)
    wait_for(lambda: rows(out) >= 2)
    filler = fill(disc)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert "Traceback" not in err
    assert f"{out}" in err
    assert "No space left on device; make room" in err
    again = run([*command, "--resume"])
    assert (again.code, again.said[-1].startswith(f"{out}: No space left on device; make room")) == (4, True), again.err
    before = lines(out)
    assert {m.status for m in load(out)[1]} == {"ok"}  # nobody gets the blame
    filler.unlink()
    goes_on(command if kind == "own job" else [*command, "--budget", "2s"], out, before)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(own: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(COLLECTIVES)
    (tmp_path / "mlp.yaml").write_text(MODEL)
    kinds: list[Callable[[Path], list[str]]] = [
        lambda out: tune(tmp_path / "spec.yaml", out, "-n", "2"),
        lambda out: tune(tmp_path / "mlp.yaml", out, "-n", "2"),
        lambda out: tune(own, out),
    ]
    for command in kinds:
        ended = run(command(Path("/proc/commbench")))
        assert (ended.code, len(ended.err.splitlines())) == (4, 1), ended.err
        assert ended.said[0].startswith("/proc/commbench: ")
        assert "choose a folder you may write with --out" in ended.err


def test_too_small_a_budget_is_told_once_and_leaves_nothing(tmp_path: Path, out: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(COLLECTIVES)
    ended = run(tune(spec, out, "-n", "2", "--budget", "100ms"))
    assert (ended.code, len(ended.said)) == (2, 1), ended.err
    assert ended.said[0].startswith("a budget of 100 ms is too small for one honest comparison")
    assert not list(out.iterdir())
