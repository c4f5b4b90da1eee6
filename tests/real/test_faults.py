"""Faults for real: stopped and killed ranks, a raising rank, a flipped bit, a full disc, a killed launcher."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from ranks import COMMBENCH, MPIRUN, TORCHRUN, load, ranks_of, rows, run, start, wait_for

pytestmark = pytest.mark.real
SWEEP = ["-m", "commbench", "sweep"]
LONG = {"sizes": "8B..1MiB x2", "stop": "{max_time: 0.3s, ci: 0.1%, max_samples: 100000}", "deadline": "2s"}


@pytest.mark.parametrize(("backend", "victim"), [("mpi", 1), ("gloo", 1), ("gloo", 0)])
def test_a_stopped_rank_is_named(spec: Callable[..., str], out: Path, backend: str, victim: int) -> None:
    process = start([*MPIRUN, sys.executable, *SWEEP, spec(backend=backend, **LONG), "--out", str(out)])
    wait_for(lambda: rows(out) >= 2)
    before = rows(out)
    stopped = ranks_of(out)[victim]
    os.kill(stopped, signal.SIGSTOP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert f"rank {victim} (host " in err
    assert f"pid {stopped}" in err
    assert "all_reduce" in err
    measured = load(out)[1]
    assert sum(m.status == "ok" for m in measured) >= before
    if victim != 0:  # rank 0 is the one that writes
        assert [m.status for m in measured][-1] == "hung"
        assert f"rank {victim}" in measured[-1].why


def test_a_stopped_rank_under_our_own_launcher(spec: Callable[..., str], out: Path) -> None:
    command = [*COMMBENCH, "sweep", spec(backend="gloo", **LONG), "-n", "2", "--out", str(out)]
    process = start(command)
    wait_for(lambda: rows(out) >= 2)
    os.kill(ranks_of(out)[1], signal.SIGSTOP)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4
    assert "rank 1 (host " in err
    assert not ranks_of(out)


@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_a_raising_rank_ends_the_job(spec: Callable[..., str], out: Path, tmp_path: Path, launcher: str) -> None:
    """The third all_reduce of rank 1 raises; the others wait for it inside the collective."""
    _inject(
        tmp_path,
        """
        if rank == 1 and calls["all_reduce"] == 3:
            raise RuntimeError("cable fell out")
        """,
    )
    prefix = [*MPIRUN, sys.executable] if launcher == "mpirun" else TORCHRUN
    command = [*prefix, *SWEEP, spec(backend="gloo", **{**LONG, "deadline": "60s"}), "--out", str(out)]
    ended = run(command, PYTHONPATH=str(tmp_path))
    assert ended.code != 0
    assert ended.seconds < 30  # start-up included; the job itself is gone 5 s after the error
    assert "rank 1" in ended.err
    assert "cable fell out" in ended.err
    assert not ranks_of(out)


def test_a_flipped_bit_fails_the_row_gloo(spec: Callable[..., str], out: Path, tmp_path: Path) -> None:
    _inject(
        tmp_path,
        """
        result = real(tensor, *args, **kwargs)
        if rank == 1 and tensor.nbytes == 65536:
            tensor.view(torch.int32)[1234] ^= 1 << 20
        return result
        """,
    )
    command = [*MPIRUN, sys.executable, *SWEEP, spec(backend="gloo"), "--out", str(out), "--quiet"]
    assert run(command, PYTHONPATH=str(tmp_path)).code == 1
    _assert_flipped(out)


def test_a_flipped_bit_fails_the_row_mpi(spec: Callable[..., str], out: Path, tmp_path: Path) -> None:
    """A library between the program and MPI, found by the C loop as it would be by any C program."""
    source = tmp_path / "flip.c"
    source.write_text(
        textwrap.dedent("""
            #include <mpi.h>
            int MPI_Allreduce(const void *send, void *recv, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
            {
                int rc = PMPI_Allreduce(send, recv, n, type, op, comm), rank;
                PMPI_Comm_rank(comm, &rank);
                if (rank == 1 && n == 16384)
                    ((int *)recv)[1234] ^= 1 << 20;
                return rc;
            }
        """)
    )
    library = tmp_path / "flip.so"
    mpicc = str(Path(sys.executable).with_name("mpicc"))
    subprocess.run([mpicc, "-shared", "-fPIC", "-o", library, source], check=True)
    command = [*MPIRUN, "-x", f"LD_PRELOAD={library}", sys.executable, *SWEEP, spec(), "--out", str(out), "--quiet"]
    ended = run(command)
    assert ended.code == 1, ended.err
    _assert_flipped(out)


def _assert_flipped(out: Path) -> None:
    by_size = {m.case.nbytes: m for m in load(out)[1]}
    assert by_size[8].status == "ok"
    assert by_size[8].wrong == 0
    assert (by_size[65536].status, by_size[65536].wrong) == ("failed", 1)
    assert "rank 1 at index 1234" in by_size[65536].why


def _inject(folder: Path, body: str) -> None:
    """Puts `body` around torch.distributed.all_reduce of every rank, as a broken library would be."""
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import importlib.abc, importlib.util, os, sys
            rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK", "-1")))
            calls = {"all_reduce": 0}

            class Finder(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path, target=None):
                    if name != "commbench.backends.torchdist":
                        return None
                    sys.meta_path.remove(self)
                    import torch
                    import torch.distributed as dist
                    real = dist.all_reduce

                    def all_reduce(tensor, *args, **kwargs):
                        calls["all_reduce"] += 1
            BODY
                        return real(tensor, *args, **kwargs)

                    dist.all_reduce = all_reduce
                    return importlib.util.find_spec(name)

            sys.meta_path.insert(0, Finder())
        """).replace("BODY", textwrap.indent(textwrap.dedent(body), " " * 12))
    )


def test_a_full_disc_keeps_the_rows(spec: Callable[..., str], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    disc = tmp_path / "disc"
    disc.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disc], check=True)
    try:
        out = disc / "run"
        command = [*MPIRUN, sys.executable, *SWEEP, spec(**{**LONG, "dtype": "[float32, float64]"}), "--out", str(out)]
        ended = run(command)
        assert ended.code == 4
        assert "No space left" in ended.err
        assert "Traceback" not in ended.err
        kept = load(out)[1]
        assert kept
        assert {m.status for m in kept} == {"ok"}
    finally:
        subprocess.run(["umount", disc], check=True)


def test_a_read_only_results_folder(spec: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in ("/proc/commbench", str(tmp_path / "file" / "run")):
        ended = run([*MPIRUN, sys.executable, *SWEEP, spec(), "--out", folder])
        assert ended.code == 4
        assert folder in ended.err
        assert "--out" in ended.err
        assert "Traceback" not in ended.err


def test_killed_at_any_moment_and_resumed(spec: Callable[..., str], out: Path, kill_seed: int) -> None:
    """SIGKILL of rank 0 or of the launcher at a random moment; `pytest -k killed --kills 200` does it 100 times."""
    dice = random.Random(kill_seed)
    path = spec(sizes="8B..16KiB x2", stop="{max_time: 0.1s, ci: 0.1%, max_samples: 100000}", warmup="{max_time: 10ms}")
    launched = [*COMMBENCH, "sweep", path, "-n", "2"], [*MPIRUN, sys.executable, *SWEEP, path]
    command = [*launched[kill_seed % 2], "--out", str(out), "--quiet"]
    process = start(command)
    moment = dice.uniform(0.1, 4.0)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.kill(ranks_of(out).get(0, process.pid) if dice.random() < 0.5 else process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    if (out / "run.json").exists():
        load(out)  # whatever happened, it loads
    ended = run([*command, "--resume"])
    assert ended.code == 0, f"killed after {moment:.2f} s: {ended.err}"
    count = Counter(m.case.key for m in load(out)[1] if not m.control)
    assert (len(count), set(count.values())) == (12, {1})


def test_resume_refuses_another_spec(spec: Callable[..., str], out: Path) -> None:
    command = [*COMMBENCH, "sweep", spec(), "-n", "2", "--out", str(out), "--quiet"]
    assert run(command).code == 0
    again = run(command)
    assert again.code == 2
    assert "--resume" in again.said[-1]
    other = run([*command, "--resume", "--set", "stop.ci=5%"])
    assert other.code == 2
    assert "stop.ci" in other.said[-1]
