"""Every backend carries out every collective, with the right data, in both loops and under both MPIs."""

import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ranks import COMMBENCH, MPIRUN, ROOT, load, run

from commbench.collectives import COLLECTIVES

EVERYTHING = {
    "op": f"[{', '.join(COLLECTIVES)}]",
    "sizes": "[1000, 64KiB]",
    "dtype": "[float16, bfloat16, float32, float64, int8, int32, int64]",
    "redop": "[sum, prod, min, max]",
    "in_place": "[true, false]",
    "stop": "{max_time: 1ms, min_samples: 2, max_samples: 2}",
    "warmup": "{max_time: 1ms}",
}
MPICH = Path(os.environ.get("COMMBENCH_MPICH_PYTHON", ROOT / ".venv-mpich/bin/python"))
pytestmark = pytest.mark.real


def _check(folder: Path, least: int) -> None:
    """All rows are ok with checked data, or skipped with a sentence; every collective has at least one ok row."""
    _, rows = load(folder)
    assert {m.status for m in rows} <= {"ok", "skipped"}
    assert all(m.why for m in rows if m.status == "skipped")
    measured = [m for m in rows if m.status == "ok"]
    assert len(measured) >= least
    assert {m.case.op for m in measured} == set(COLLECTIVES)
    assert all(m.wrong == 0 for m in measured if m.case.op != "barrier")


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_mpi_has_everything_but_what_it_says(spec: Callable[..., str], out: Path, ranks: str) -> None:
    command = [*COMMBENCH, "sweep", spec(**EVERYTHING), "-n", ranks, "--out", str(out), "--quiet"]
    assert run(command, 300).code == 0
    _check(out, 350)
    run_, rows = load(out)
    assert run_.machine.facts["mpi_loop"] == "C"
    missing = {(m.case.op, m.case.dtype, m.why) for m in rows if m.status == "skipped"}
    for op, dtype, why in missing:
        assert (dtype in ("float16", "bfloat16") and COLLECTIVES[op].reduces) or "send_recv" in why, (op, dtype, why)


def test_gloo_has_everything_but_what_it_says(spec: Callable[..., str], out: Path) -> None:
    fields = {**EVERYTHING, "backend": "gloo", "sizes": "1000"}
    command = [*COMMBENCH, "sweep", spec(**fields), "-n", "2", "--out", str(out), "--quiet"]
    ended = run(command, 300)
    assert ended.code == 0, ended.err
    _check(out, 100)


def test_mpich_wheel_and_no_torch(spec: Callable[..., str], out: Path) -> None:
    if not MPICH.exists():
        pytest.skip("no second environment with MPICH: `make test` makes .venv-mpich")
    fields = {**EVERYTHING, "sizes": "1000", "backend": "[mpi, gloo]"}
    command = [str(MPICH.with_name("mpiexec")), "-n", "2", str(MPICH), "-m", "commbench", "sweep", spec(**fields)]
    ended = run([*command, "--out", str(out), "--quiet"], 300)
    assert ended.code == 0, ended.err
    run_, rows = load(out)
    assert "MPICH" in run_.machine.facts["mpi"]
    assert run_.machine.launcher == "mpich"
    assert run_.machine.facts["mpi_loop"] == "C"
    mpi = [m for m in rows if m.case.backend == "mpi" and m.status == "ok"]
    assert len(mpi) >= 150
    assert all(m.wrong == 0 for m in mpi if m.case.op != "barrier")
    assert all(m.status == "skipped" and "torch" in m.why for m in rows if m.case.backend == "gloo")


def test_the_python_loop_serves_where_nothing_was_compiled(spec: Callable[..., str], out: Path) -> None:
    without = "import sys; sys.modules['commbench.backends._cloop'] = None; from commbench.cli import main; main()"
    command = [*MPIRUN, sys.executable, "-c", without, "sweep", spec(**{**EVERYTHING, "sizes": "1000"})]
    ended = run([*command, "--out", str(out), "--quiet"], 300)
    assert ended.code == 0, ended.err
    _check(out, 150)
    assert "Python" in load(out)[0].machine.facts["mpi_loop"]


@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_groups_of_four_ranks(spec: Callable[..., str], out: Path, launcher: str) -> None:
    backends = ("mpi", "gloo") if launcher == "mpirun" else ("gloo",)
    groups = "[world, node, rail, pairs, {every: 2}, {mesh: {dp: 2, tp: 2}}, {mesh: {dp: 2, tp: 2}, alone: true}]"
    fields = {
        "backend": f"[{', '.join(backends)}]",
        "groups": groups,
        "sizes": "4KiB",
        "op": "[all_reduce, all_gather]",
    }
    stop = "{max_time: 10ms, max_samples: 10}"
    command = [*COMMBENCH, "sweep", spec(**fields, stop=stop), "-n", "4", "--launcher", launcher]
    ended = run([*command, "--out", str(out), "--quiet"], 300)
    assert ended.code == 0, ended.err
    run_, rows = load(out)
    assert run_.machine.host_of == (0, 0, 0, 0)
    for backend, op in itertools.product(backends, ("all_reduce", "all_gather")):
        mine = [m for m in rows if (m.case.backend, m.case.op) == (backend, op)]
        groups_of = {(m.case.groups, m.group) for m in mine if m.status == "ok"}
        assert {g for name, g in groups_of if name == "pairs/0"} == {0, 1}
        assert {name for name, _ in groups_of if name.startswith("pairs")} == {"pairs/0", "pairs/1", "pairs/2"}
        assert ("mesh(dp=2,tp=2)/dp", 1) in groups_of
        assert ("mesh(dp=2,tp=2)/tp#1", 0) in groups_of
        # rail groups have one rank each here, because all ranks share one host
        assert all(m.status == "skipped" and "one rank" in m.why for m in mine if m.case.groups == "rail")
        pair = next(m for m in mine if m.case.groups == "pairs/0" and m.group == 0)
        assert set(pair.slowest) <= {0, 3}


@pytest.mark.gpu
def test_nccl(spec: Callable[..., str], out: Path) -> None:
    if not shutil.which("nvidia-smi"):
        pytest.skip("no NVIDIA GPU here")
    command = [*COMMBENCH, "sweep", spec(backend="nccl"), "-n", "1", "--allow-single", "--out", str(out), "--quiet"]
    assert run(command, 300).code == 0
    assert all(m.status == "ok" and m.clock == "device" for m in load(out)[1])
