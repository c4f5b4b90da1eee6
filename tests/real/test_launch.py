"""Who am I, who started me: under every launcher, and started by commbench itself."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks import COMMBENCH, MPIRUN, ROOT, TORCHRUN, load, run

from commbench.measure import launch
from commbench.spec import cases
from commbench.spec import load as load_spec

pytestmark = pytest.mark.real
SWEEP = ["-m", "commbench", "sweep"]
SHORT = ["--set", "sizes=[1KiB, 64KiB]", "--set", "stop.max_time=0.1s", "--set", "warmup.max_time=0.05s"]


def _cases(table: str) -> list[tuple[object, ...]]:
    names = ("op", "backend", "nbytes", "dtype", "redop", "mode", "group", "ranks", "in_place", "wrong", "status")
    return [tuple(row[name] for name in names) for row in json.loads(table)["rows"]]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Slurm of two slurmd on this host."""
    if not (shutil.which("slurmctld") or Path("/usr/sbin/slurmctld").exists() or os.environ.get("CI") == "true"):
        pytest.skip("no Slurm here: tests/slurm/start --install, as root, brings Debian's")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([ROOT / "tests/slurm/start", folder], capture_output=True, text=True, check=False)
    if started.returncode == 2:
        pytest.skip(started.stderr.strip().splitlines()[-1])
    assert started.returncode == 0, started.stderr
    try:
        yield {"SLURM_CONF": started.stdout.strip().partition("=")[2]}
    finally:
        subprocess.run([ROOT / "tests/slurm/stop", folder], check=True, capture_output=True)


def test_the_same_table_under_mpirun_torchrun_and_srun(slurm: dict[str, str], tmp_path: Path) -> None:
    tables = {}
    for name, launcher in {
        "openmpi": [*MPIRUN, sys.executable],
        "torchrun": TORCHRUN,
        "srun": ["srun", "-n", "2", sys.executable],
    }.items():
        ended = run([*launcher, *SWEEP, "quick", *SHORT, "--out", str(tmp_path / name), "--json"], **slurm)
        assert ended.code == 0, ended.err
        tables[name] = _cases(ended.out)
        assert load(tmp_path / name)[0].machine.launcher == name
    assert tables["openmpi"] == tables["torchrun"] == tables["srun"]
    assert len(tables["srun"]) == len(cases(load_spec("quick", ["sizes=[1KiB, 64KiB]"]), [0, 0]))
    assert all(row[-1] == "ok" and row[-2] == 0 for row in tables["srun"])


# A launcher whose ranks have ended, and which waits for ever: PRRTE's does so now and then.
DESERTED = """
import subprocess, time
ranks = [subprocess.Popen(["sleep", "1"]) for _ in range(2)]
ranks[0].wait()  # the other one stays a zombie
time.sleep(100)
"""


def test_a_launcher_that_outlives_its_ranks_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_ALONE", 0.5)
    began = time.monotonic()
    ended = launch.run([sys.executable, "-c", DESERTED], lambda: 0, 60.0, lambda line: None, ranks=2)
    assert (ended.stopped, ended.code != 0) == ("", True)
    assert time.monotonic() - began < 30  # a guard, far from both
    # Ranks on other hosts are nobody's children here: a launcher without any is left alone.
    quiet = launch.run(
        [sys.executable, "-c", "import time; time.sleep(2)"], lambda: 0, 60.0, lambda line: None, ranks=2
    )
    assert quiet.code == 0


# Prints the threads that are left when Python begins to end.
LEFT = """
import atexit, os, pathlib
from commbench.cli import main
def tell():
    names = [task.joinpath("comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
    os.write(2, f"left: {' '.join(names)}\\n".encode())  # in one piece: both ranks write to the same pipe
atexit.register(tell)
main()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are read from Linux' /proc")
@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_no_thread_of_gloo_meets_the_dying_interpreter(
    launcher: str, spec: Callable[..., str], out: Path, tmp_path: Path
) -> None:
    program = tmp_path / "left.py"
    program.write_text(LEFT)
    command = {"mpirun": [*MPIRUN, sys.executable], "torchrun": TORCHRUN}[launcher]
    path = spec(backend="gloo", op="[all_reduce, send_recv]", groups="[world, {every: 1}]")
    ended = run([*command, str(program), "sweep", path, "--out", str(out), "--quiet"])
    assert ended.code == 0, ended.err
    told = [line for line in ended.err.splitlines() if "left:" in line]
    assert len(told) == 2, ended.err
    assert not [line for line in told if "gloo" in line]


def test_srun_over_two_nodes(slurm: dict[str, str], spec: Callable[..., str], out: Path) -> None:
    path = spec(backend="gloo")
    command = ["srun", "-N", "2", "-n", "2", *COMMBENCH, "sweep", path, "--out", str(out), "--quiet"]
    ended = run(command, **slurm)
    assert ended.code == 0, ended.err
    assert {m.status for m in load(out)[1]} == {"ok"}


def test_mpi_under_srun(slurm: dict[str, str], spec: Callable[..., str], out: Path) -> None:
    command = [*COMMBENCH, "sweep", spec(), "--out", str(out), "--quiet"]
    alone = run(["srun", "--mpi=none", "-n", "2", *command], **slurm)
    assert alone.code == 4
    assert "--mpi=pmix" in alone.err
    ended = run(["srun", "--mpi=pmix", "-n", "2", *command], **slurm)
    assert ended.code == 0, ended.err
    assert {(m.status, m.ranks) for m in load(out)[1]} == {("ok", 2)}


def test_commbench_starts_srun_by_itself(slurm: dict[str, str], spec: Callable[..., str], out: Path) -> None:
    command = [*COMMBENCH, "sweep", spec(backend="gloo"), "-n", "2", "--launcher", "srun", "--out", str(out)]
    ended = run(command, **slurm)
    assert ended.code == 0, ended.err
    assert load(out)[0].machine.launcher == "srun"


@pytest.mark.parametrize(("launcher", "backend"), [("mpirun", "mpi"), ("mpirun", "gloo"), ("torchrun", "gloo")])
def test_commbench_starts_the_ranks(spec: Callable[..., str], out: Path, launcher: str, backend: str) -> None:
    command = [*COMMBENCH, "sweep", spec(backend=backend, launches="2"), "-n", "2", "--launcher", launcher]
    ended = run([*command, "--out", str(out), "--json"])
    assert ended.code == 0, ended.err
    measured = load(out)[1]
    assert sorted((m.case.nbytes, m.launch) for m in measured) == [(8, 0), (8, 1), (65536, 0), (65536, 1)]
    rows = json.loads(ended.out)["rows"]
    assert [row["launches"] for row in rows] == [2, 2]
    assert all(row["between_us"] is not None for row in rows)


def test_a_launch_has_a_session_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open MPI 5 does not start where a killed mpirun with the same process number left its session folder."""
    monkeypatch.delenv("PRTE_MCA_prte_local_tmpdir_base")
    said: list[str] = []
    for _ in range(2):
        where = 'import os; print("commbench:", os.environ["PMIX_SERVER_TMPDIR"])'
        ended = launch.run([*MPIRUN[:2], "1", sys.executable, "-c", where], lambda: 0, 60.0, said.append)
        assert ended.code == 0, ended.tail
    bases = {Path(line).parent for line in said}
    assert len(bases) == 2
    assert not [base for base in bases if base.exists()]


def test_more_ranks_than_cores(spec: Callable[..., str], out: Path) -> None:
    many = 2 * len(os.sched_getaffinity(0))
    command = [*COMMBENCH, "sweep", spec(), "-n", str(many), "--out", str(out), "--quiet"]
    assert run(command).code == 0
    run_, measured = load(out)
    assert {m.ranks for m in measured} == {many}
    assert any("share" in warning and "cores" in warning for warning in run_.machine.warnings)
    assert run_.machine.environment["OMPI_MCA_mpi_yield_when_idle"] == "1"


def test_mpi_under_torchrun_is_skipped_with_the_reason(spec: Callable[..., str], out: Path) -> None:
    command = [*TORCHRUN, *SWEEP, spec(backend="[mpi, gloo]"), "--out", str(out), "--quiet"]
    assert run(command).code == 0
    skipped = [m for m in load(out)[1] if m.status == "skipped"]
    assert {m.case.backend for m in skipped} == {"mpi"}
    assert all("mpirun" in m.why for m in skipped)


def test_singleton_worlds_are_refused(spec: Callable[..., str], out: Path) -> None:
    """What MPICH's mpiexec gives to an Open MPI mpi4py: processes that are each alone."""
    command = [sys.executable, *SWEEP, spec(), "--out", str(out)]
    ended = run(command, PMI_RANK="0", PMI_SIZE="2", MPI_LOCALRANKID="0")
    assert ended.code == 4
    assert "2 worlds of one rank" in ended.said[-1]
    assert "PMI_SIZE=2" in ended.said[-1]
    assert not out.exists()


def test_contradicting_launchers_stop_with_both_sources(spec: Callable[..., str], out: Path) -> None:
    stale = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}
    ended = run([*MPIRUN, sys.executable, *SWEEP, spec(), "--out", str(out)], **stale)
    assert ended.code == 4
    assert "WORLD_SIZE=4" in ended.err
    assert "OMPI_COMM_WORLD_SIZE=2" in ended.err
    assert "Traceback" not in ended.err


def test_one_rank_is_refused_unless_asked_for(spec: Callable[..., str], out: Path) -> None:
    refused = run([*COMMBENCH, "sweep", spec(), "-n", "1", "--out", str(out)])
    assert refused.code == 2
    assert "--allow-single" in refused.said[0]
    measured = run([*COMMBENCH, "sweep", spec(), "-n", "1", "--allow-single", "--out", str(out), "--json"])
    assert measured.code == 0
    assert [row["busbw_gbps"] for row in json.loads(measured.out)["rows"]] == [None, None]


def test_launches_inside_a_launch_are_refused(spec: Callable[..., str], out: Path) -> None:
    ended = run([*MPIRUN, sys.executable, *SWEEP, spec(launches="3"), "--out", str(out)])
    assert ended.code == 2
    assert "-n 2" in ended.said[0]


def test_nccl_without_a_gpu_says_what_it_found(spec: Callable[..., str], out: Path) -> None:
    if Path("/dev/nvidia0").exists():  # pragma: no cover
        pytest.skip("this machine has a GPU")
    ended = run([*COMMBENCH, "sweep", spec(backend="nccl"), "-n", "2", "--out", str(out)])
    assert ended.code == 2
    assert "torch 2." in ended.said[0]
    assert "backend=gloo" in ended.said[0]
    assert not out.exists()
