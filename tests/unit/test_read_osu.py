"""OSU Micro-Benchmarks: every table of the real files, each kind of column, and what damaged files do."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import SAMPLES, read, read_text, survives
from real_data import ROOT, real

from commbench.readers.osu import READER

OSU = SAMPLES / "osu"


CUDA, LINE = (("buffers", "cuda"),), (("pattern", "one way"),)
# name: runs, rows, lines that are no row; of the first run: op, ranks, dtype, settings, (bytes, us) first and last
REAL = {
    "osu-allgather-polaris-8n32.txt":
        (1, 23, 0, "all_gather", 32, "int8", (), (4 * 32, 10.27), (16777216 * 32, 109982.75)),
    "osu-allreduce-16cpu-100g-step1k.txt":
        (1, 256, 0, "all_reduce", 0, "float32", (), (4000, 22.10), (1024000, 1623.71)),
    "osu-allreduce-aks-cpu-128n.txt":
        (1, 19, 0, "all_reduce", 12288, "float32", (), (4, 10253.64), (1048576, 91193.26)),
    "osu-allreduce-cuda-a100-16n.txt":
        (1, 24, 0, "all_reduce", 0, "float32", CUDA, (4, 39.20), (33554432, 51207.10)),
    "osu-allreduce-gke-gpu-16.txt":
        (1, 19, 0, "all_reduce", 128, "float32", CUDA, (4, 407.04), (1048576, 4068.20)),
    "osu-alltoall-cscs-dd-good.txt":
        (1, 21, 0, "all_to_all", 8, "int8", CUDA, (8, 22.26), (8 << 20, 486.89)),
    "osu-bw-cscs-nocxi.txt":
        (1, 23, 0, "send_recv", 2, "int8", LINE, (1, 1 / 0.22), (4194304, 4194304 / 1279.54)),
    "osu-getlatency-openmpi-2013.txt":
        (1, 24, 0, "osu.get_latency", 2, "int8", (), (0, 1.98), (4194304, 1107.65)),
    "osu-usernetes-4n.txt":
        (1, 19, 0, "all_reduce", 384, "float32", (), (4, 12.45), (1048576, 2159.77)),
    "osu74-barrier-full.txt":
        (1, 1, 0, "barrier", 0, "int8", (), (0, 0.34), (0, 0.34)),
    "osu74-iallreduce-overlap.txt":
        (1, 15, 0, "osu.iallreduce", 0, "int8", (), (4, 3.27), (65536, 52.06)),
    "osu74-mbw-mr.txt":
        (1, 13, 0, "osu.mbw_mr", 2, "int8", (("pairs", "1"), ("window", "64")),
         (1, 1e6 / 8947970.35), (4096, 1e6 / 681524.18)),
    "osu-lassen-16n-20runs.txt":
        (60, 1320, 0, "osu.mbw_mr", 16, "int8", (("pairs", "8"), ("window", "64")),
         (1, 8e6 / 27816638.37), (4194304, 8e6 / 26419.69)),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_tables(name: str) -> None:
    runs, rows, unread, op, ranks, dtype, marks, first, last = REAL[name]
    found, problems = read(READER, real("mpi-bench") / name)
    assert (len(found), sum(len(one.measurements) for one in found), len(problems)) == (runs, rows, unread)
    one = found[0].measurements
    assert {(m.case.op, m.ranks, m.case.dtype, m.case.settings) for m in one} == {(op, ranks, dtype, marks)}
    for (nbytes, time_us), m in ((first, one[0]), (last, one[-1])):
        assert (m.nbytes, m.seconds[0] * 1e6) == (nbytes, pytest.approx(time_us))
    assert {m.kind for m in one} == {"mean"}


def test_no_row_of_a_real_file_is_lost() -> None:
    """Lines that begin at the left with a size and a number: as many as rows and problems together."""
    for path in sorted(real("mpi-bench").glob("osu*")):
        if b"# OSU " not in path.read_bytes():
            continue
        wide = {"osu74-barrier-full.txt": 1, "osu-gke-size-64.log": 3}.get(path.name, 0)  # barriers, init: no size
        lines = path.read_text().splitlines()
        rows = [line for line in lines if line[:1].isdigit() and len(line.split()) > 1 and "." in line.split()[1]]
        found, problems = read(READER, path)
        empty = sum(problem.reason.startswith("no row") for problem in problems)
        assert sum(len(one.measurements) for one in found) + len(problems) - empty == len(rows) + wide, path.name


def test_repetitions_are_launches_and_other_worlds_are_not() -> None:
    found, _ = read(READER, real("mpi-bench/osu-lassen-16n-20runs.txt"))
    small = [m for one in found for m in one.measurements if m.case.op == "all_reduce" and m.nbytes == 4]
    assert [m.launch for m in small] == list(range(20))
    pairs, _ = read(READER, real("mpi-bench/osu-rocm-mi-series-sdma0.txt"))
    assert [one.measurements[0].launch for one in pairs] == [0] * 7  # of seven pairs of devices
    assert [one.machine.environment["HIP_VISIBLE_DEVICES"] for one in pairs] == [f"0,{k}" for k in range(1, 8)]


def test_hosts_and_time_from_the_lines_around() -> None:
    (placed,), _ = read(READER, real("mpi-bench/osu-allreduce-polaris-16n64.txt"))
    assert len(placed.machine.hosts) == 16
    assert placed.machine.size == 64
    (flux,), _ = read(READER, real("mpi-bench/osu-allreduce-aks-cpu-128n.txt"))
    assert flux.created == "2024-08-29T02:10:42+00:00"


def test_every_column() -> None:
    (one,), problems = read(READER, OSU / "full.txt")
    assert not problems
    assert one.tool == "OSU 7.4"
    assert one.machine.environment == {"UCX_TLS": "rc,sm"}
    assert one.machine.launcher == "mpirun"
    assert one.options == {"test": "MPI Allgather Latency", "command": "osu_allgather -f -c -z"}  # no secrets
    first, _, failed, other = one.measurements
    assert (first.nbytes, first.ranks, first.case.dtype, first.calls, first.wrong) == (32, 8, "int32", 1000, 0)
    assert first.told == pytest.approx({"fastest_rank": 2e-6, "slowest_rank": 3e-6, "p50": 2.4e-6, "p99": 9.9e-6})
    assert (failed.status, failed.wrong, failed.seconds) == ("failed", None, pytest.approx((3e-6,)))
    assert (other.case.dtype, other.launch) == ("float32", 0)


def test_overall_time_of_a_non_blocking_call_is_not_the_blocking_ones() -> None:
    (bcast, barrier), problems = read(READER, OSU / "overlap.txt")
    assert not problems
    assert bcast.measurements[0].case.op == "osu.ibcast"
    assert bcast.measurements[0].seconds == pytest.approx((20e-6,))
    told = {"compute": 10, "init": 1, "test": 0, "wait": 9, "pure": 10.5, "pure_fastest_rank": 10}
    told = {name: value * 1e-6 for name, value in (told | {"pure_slowest_rank": 11}).items()}
    assert bcast.measurements[0].told == pytest.approx(told)
    assert (barrier.measurements[0].case.op, barrier.measurements[0].nbytes) == ("osu.ibarrier", 0)


def test_rates_become_times_of_a_message() -> None:
    (fixed, varied, both, start), problems = read(READER, OSU / "pairs.txt")
    assert not problems
    assert fixed.measurements[0].seconds == pytest.approx((1e-6,))
    assert fixed.measurements[0].ranks == 4
    assert [(m.nbytes, dict(m.case.settings)["window"]) for m in varied.measurements] == [
        (4, "8"), (4, "16"), (4, "32"), (8, "8"), (8, "16"), (8, "32")
    ]  # fmt: skip
    assert [m.seconds[0] for m in varied.measurements[:3]] == pytest.approx([2e-6, 1e-6, 0.5e-6])
    bibw = both.measurements[0]
    assert (bibw.case.op, bibw.seconds, bibw.told) == ("osu.bibw", pytest.approx((10e-6,)), {})
    assert ("buffers", "cuda to host") in bibw.case.settings
    assert (start.measurements[0].seconds, start.measurements[0].ranks) == ((1.479,), 64)


def test_other_families_and_a_launchers_prefix() -> None:
    (nccl, python), problems = read(READER, OSU / "nccl.txt")
    assert not problems
    assert (nccl.measurements[0].case.backend, nccl.measurements[0].case.dtype) == ("nccl", "float32")
    case = python.measurements[0].case
    assert (python.tool, case.mode) == ("OMB-Py", "throughput")  # it has no barrier between the calls
    assert case.settings == (("size", "per rank"),)
    assert "ranks unknown" in python.options["size"]


def test_what_is_no_row_is_told_with_its_line() -> None:
    (one,), problems = read(READER, OSU / "damaged.txt")
    assert [m.nbytes for m in one.measurements] == [0, 32]
    assert [(problem.line, problem.reason.split(":")[0]) for problem in problems] == [
        (1, "a table of OSU without its title"),
        (7, "not a number of avglatency(us)"),
        (8, "not a number of avglatency(us)"),
        (9, "a time or rate of 0 (avglatency(us))"),
        (11, "not a size"),
        (12, "3 fields, where the table's header has 5"),
        (16, "no row follows the title of the MPI Reduce Latency test"),
    ]


@pytest.mark.parametrize(
    ("command", "ranks"),
    [
        ("mpirun -n 2 ./osu_bcast", 2), ("mpiexec -np 16 -ppn 4 osu_bcast -i 5", 16), ("srun -n2 -N1 ./osu_bcast", 2),
        ("srun -N2 --ntasks-per-node=4 ./osu_bcast", 8), ("time jsrun -n 16 -a 2 ./osu_bcast", 32),
        ("flux run -N4 --tasks-per-node=96 x /a/osu_bcast", 384), ("srun --ntasks 6 osu_bcast", 6),
        ("mpirun -hostfile h -perhost 1 ./osu_bcast", 0), ("mpirun ./osu_bcast -n 9", 0),
        ("srun -N 2-4 ./osu_bcast", 0),
        ("mpirun -np $N ./osu_bcast", 0), ("echo osu_bcast -np 4", 0), ("./osu_bcast mpirun -np 3", 0),
    ],
)  # fmt: skip
def test_ranks_of_a_command_line(command: str, ranks: int, tmp_path: Path) -> None:
    table = f"{command}\n# OSU MPI Broadcast Latency Test v7.4\n# Size       Avg Latency(us)\n4          1.00\n"
    (one,), _ = read_text(READER, table, tmp_path)
    assert one.measurements[0].ranks == ranks


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 2**40), st.floats(0.01, 1e9), st.integers(1, 10**6)), min_size=1, max_size=20
    ),
    noise=st.sampled_from(["", "Warning: nothing", "# HOST/X: 5", "[vm:12] 3 4.0", "x 4 4.0"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list, noise: str) -> None:
    text = "# OSU MPI Reduce_scatter Latency Test v7.4\n# Datatype: MPI_DOUBLE.\n"
    text += "# Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations\n"
    for nbytes, mean, calls in rows:
        text += f"{noise}\n{nbytes:<10d}{mean:20.2f}{mean / 2:20.2f}{mean * 2:20.2f}{calls:12d}\n"
    (one,), problems = read_text(READER, text, tmp_path_factory.mktemp("osu"))
    assert not problems
    assert [(m.nbytes, m.calls) for m in one.measurements] == [(n, c) for n, _, c in rows]
    assert [m.seconds[0] * 1e6 for m in one.measurements] == pytest.approx([m for _, m, _ in rows], abs=0.0051)
    assert all(m.case.op == "reduce_scatter" and m.case.dtype == "float64" for m in one.measurements)


def test_damaged_copies(tmp_path: Path) -> None:
    files = [*OSU.iterdir(), *sorted(ROOT.glob("mpi-bench/osu*"))]
    survives(READER, files, tmp_path)
