"""Intel MPI Benchmarks: the real files, each kind of table, and what damaged files do."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import SAMPLES, read, read_text, survives
from real_data import ROOT, real

from commbench.readers.imb import READER
from commbench.records import Measurement

IMB = SAMPLES / "imb"
HEADER = ("#bytes", "#repetitions", "t_min[usec]", "t_max[usec]", "t_avg[usec]")
LINE = (("pattern", "one way"),)

# Of IMB-MPI1 on two ranks: op, mode, settings, (bytes, us) of the first and of the last row.
SUITE = {
    "PingPong": ("send_recv", "latency", LINE, (1, 3.76), (4194304, 2967.49)),
    "PingPing": ("imb.pingping", "latency", (), (1, 4.16), (4194304, 5918.69)),
    "Sendrecv": ("send_recv", "throughput", (), (1, 3.65), (4194304, 5815.95)),
    "Allreduce": ("all_reduce", "latency", (), (4, 4.71), (4194304, 16045.48)),
    "Reduce_scatter": ("reduce_scatter", "latency", (), (4, 2.66), (4194304, 13177.94)),
    "Allgather": ("all_gather", "latency", (), (2, 4.23), (8388608, 8847.15)),
    "Alltoallv": ("all_to_all_v", "latency", (), (2, 4.41), (8388608, 11763.62)),
    "Bcast": ("broadcast", "latency", (), (1, 3.50), (4194304, 3187.93)),
    "Barrier": ("barrier", "latency", (), (0, 3.06), (0, 3.06)),
}


def _not_empty(measurements: Sequence[Measurement]) -> Sequence[Measurement]:
    """Without the rows of empty messages, which most tables begin with."""
    return [m for m in measurements if m.nbytes] or measurements


@pytest.mark.parametrize("name", SUITE)
def test_the_whole_suite(name: str) -> None:
    found, problems = read(READER, real("mpi-bench/imb-mpi1-all-2016.txt"))
    assert len(found) == 17
    assert sum(len(one.measurements) for one in found) == 379
    assert not problems
    one = next(one for one in found if one.options["benchmark"] == name)
    op, mode, marks, first, last = SUITE[name]
    assert one.tool == "IMB 4.1"
    assert one.options["Machine"] == "aarch64"
    assert {(m.case.op, m.case.mode, m.case.settings, m.ranks) for m in one.measurements} == {(op, mode, marks, 2)}
    ends = [(m.nbytes, round(m.seconds[0] * 1e6, 2)) for m in _not_empty(one.measurements)]
    assert [ends[0], ends[-1]] == [first, last]


def test_one_sided_tables_differ_by_their_mode() -> None:
    found, _ = read(READER, real("mpi-bench/imb-ext-2016.txt"))
    assert len(found) == 11
    assert sum(len(one.measurements) for one in found) == 242
    assert [one.measurements[0].case.settings for one in found[:3]] == [
        (), (("mode", "aggregate"),), (("mode", "non-aggregate"),)
    ]  # fmt: skip
    assert found[1].measurements[0].case.op == "imb.unidir_get"
    assert _not_empty(found[1].measurements)[0].seconds == pytest.approx((5.61e-6,))


def test_snippets_of_documentation() -> None:
    (one,), _ = read(READER, real("mpi-bench/imb-allreduce-azure-hb.txt"))
    row = _not_empty(one.measurements)[0]
    assert (one.tool, row.ranks, row.nbytes, row.calls, row.seconds) == ("IMB", 1408, 8, 10000, (27.94e-6,))
    assert row.told == pytest.approx({"fastest_rank": 24.06e-6, "slowest_rank": 30.77e-6})
    (one,), _ = read(READER, real("mpi-bench/imb-pingpong-azure-slurm.txt"))
    assert (one.tool, one.line, len(one.measurements)) == ("IMB 2018", 40, 24)
    assert one.measurements[-1].seconds == pytest.approx((1156.95e-6,))


def test_non_blocking_is_not_blocking() -> None:
    (iallreduce, ibarrier), problems = read(READER, IMB / "nbc.txt")
    row = iallreduce.measurements[0]
    assert not problems
    assert iallreduce.tool == "IMB 2021.7"
    assert (row.case.op, row.case.dtype, row.seconds) == ("imb.iallreduce", "float64", (5e-6,))
    assert row.told == pytest.approx({"pure": 3e-6, "compute": 2.5e-6})
    assert (ibarrier.measurements[0].case.op, ibarrier.measurements[0].seconds) == ("imb.ibarrier", (6e-6,))


def test_groups_failures_and_rates() -> None:
    (gather, scatter, uniband, biband), problems = read(READER, IMB / "multi.txt")
    assert not problems
    assert [(m.group, m.ranks, m.nbytes) for m in gather.measurements] == [(0, 2, 8), (1, 2, 8), (0, 2, 8388608)]
    assert gather.measurements[0].case.settings == (("groups", "2 at once"),)
    failed = gather.measurements[2]
    assert (failed.status, failed.seconds) == ("skipped", ())
    assert "out-of-mem" in failed.why
    assert [(m.nbytes, m.wrong, m.status) for m in scatter.measurements] == [
        (32, 0, "ok"), (64, None, "failed"), (4194304, None, "skipped")
    ]  # fmt: skip
    assert uniband.measurements[0].seconds == pytest.approx((0.5e-6,))  # two pairs
    assert biband.measurements[0].seconds == pytest.approx((1e-6,))


@pytest.mark.parametrize(
    ("version", "nbytes", "marks"),
    [
        ("4.1", 16, ()), ("2018", 16, ()), ("2019", 16, ()), ("2019 Update 1", 32, ()), ("2021.11", 32, ()),
        (None, 16, (("size", "as printed"),)),
    ],
)  # fmt: skip
def test_reduce_scatter_counts_by_version(
    version: str | None, nbytes: int, marks: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    title = f"#    Intel(R) MPI Benchmarks {version}, MPI-1 part\n" if version else ""
    table = (
        "# Benchmarking Reduce_scatter\n# #processes = 2\n #bytes #repetitions t_min[usec] t_max[usec] t_avg[usec]\n"
    )
    (one,), _ = read_text(READER, f"{title}{table}  16 1000 1.00 3.00 2.00\n", tmp_path)
    assert (one.measurements[0].nbytes, one.measurements[0].case.settings) == (nbytes, marks)


def test_what_is_no_row_is_told_with_its_line() -> None:
    (pingpong, scatter), problems = read(READER, IMB / "damaged.txt")
    assert [m.nbytes for m in pingpong.measurements] == [0, 4]
    assert scatter.measurements[0].case.settings == (("size", "as printed"),)
    assert [(problem.line, problem.reason.split(":")[0]) for problem in problems] == [
        (1, "a table of IMB without its `# Benchmarking` line"),
        (7, "not a number of t[usec]"),
        (8, "not a number of t[usec]"),
        (10, "3 fields, where the table's header has 4"),
        (16, "no row of the benchmark Bcast could be read"),
    ]


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 2**31), st.floats(0.01, 1e8), st.integers(1, 10**6)), min_size=1, max_size=20
    ),
    ranks=st.integers(1, 4096),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list, ranks: int) -> None:
    text = f"\n#------\n# Benchmarking Alltoall \n# #processes = {ranks} \n#------\n"
    text += "".join(f"{name:>13}" for name in HEADER) + "\n"
    for nbytes, mean, calls in rows:
        text += f"{nbytes:13d}{calls:13d}{mean / 2:13.2f}{mean * 2:13.2f}{mean:13.2f}\n"
    (one,), problems = read_text(READER, text, tmp_path_factory.mktemp("imb"))
    assert not problems
    assert [(m.nbytes, m.calls) for m in one.measurements] == [(n * ranks, c) for n, _, c in rows]
    assert [m.seconds[0] * 1e6 for m in one.measurements] == pytest.approx([m for _, m, _ in rows], abs=0.0051)


def test_damaged_copies(tmp_path: Path) -> None:
    survives(READER, [*IMB.iterdir(), *sorted(ROOT.glob("mpi-bench/imb*"))], tmp_path)
