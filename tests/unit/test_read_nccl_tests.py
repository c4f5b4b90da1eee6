"""Readers of nccl-tests and rccl-tests: text, JSON, CSV."""

import contextlib
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import SAMPLES, read, read_text, survives
from real_data import real

from commbench.collectives import COLLECTIVES
from commbench.errors import ReadError
from commbench.readers import nccl_tests, nccl_tests_json, nccom, rccl
from commbench.readers.base import Found
from commbench.readers.nccl_names import TYPES, Printed, near, op_of, printed, version_of
from commbench.readers.nccl_rows import header, pieces
from commbench.readers.source import Problem
from commbench.records import Measurement

HERE = SAMPLES / "nccl_tests"
TEXT, REPORT, RCCL = nccl_tests.READER, nccl_tests_json.READER, rccl.READER
EMPTY = "size 0"


def us(row: Measurement) -> float:
    return round(row.seconds[0] * 1e6, 6)


def one(found: list[Found]) -> Found:
    assert len(found) == 1
    return found[0]


def reasons(problems: list[Problem]) -> dict[int, str]:
    return {problem.line: problem.reason for problem in problems}


# ---- real files: what the eye sees in them


class Golden(NamedTuple):
    """First and last row as (bytes, us out of place, us in place); None where there is no such figure."""

    file: str
    runs: int
    rows: int  # measurements
    op: str
    ranks: int
    hosts: int
    first: tuple[int, float, float | None]
    last: tuple[int, float, float | None]
    problems: int = 0


N = "nccl-tests/"
GOLDEN = [
    Golden(N + "h100-1n4-allreduce-v2.18.txt",
           1, 62, "all_reduce", 4, 1, (8, 22.72, 22.97), (2**33, 35168.9, 35182.8)),
    Golden(N + "a100-540n2160-allreduce-polaris.txt",
           1, 58, "all_reduce", 2160, 540, (4, 235.5, 216.8), (2**30, 114623, 114645)),
    Golden(N + "a100-16n128-allreduce-abci.txt",
           1, 48, "all_reduce", 128, 16, (4, 67.85, 61.84), (2**25, 2500.7, 2520.8)),
    Golden(N + "gh200-8n32-allreduce-alps.txt",
           1, 60, "all_reduce", 32, 8, (8, 42.57, 41.81), (2**32, 89983, 89978)),
    Golden(N + "a100-1n8-broadcast-old-layout.txt",
           1, 64, "broadcast", 8, 1, (4, 33.96, 33.80), (2**33, 36896, 36599), 1),
    Golden(N + "a100-1n8-allgather-old-layout.txt",
           1, 58, "all_gather", 8, 1, (32, 35.03, 34.15), (2**33, 33646, 32669), 1),
    Golden(N + "a100-1n5-alltoall-slow.txt",
           1, 52, "all_to_all", 5, 1, (80, 36.99, 37.12), (3221225460, 314864, 313967)),
    Golden(N + "mpi-4n-allreduce-multi-run.txt",
           25, 25, "all_reduce", 32, 4, (64, 55.57, None), (2**30, 515875, None)),
    Golden(N + "a100pcie-2n2-allreduce-gdr-on.txt",
           1, 106, "all_reduce", 2, 2, (524288000, 49462.0, 100617), (1069547520, 99745.9, 99223.5)),
    Golden(N + "p100-1n2-sendrecv-128rows.txt",
           1, 256, "send_recv", 2, 1, (8, 13.53, 13.54), (133169160, 16440, 16453)),
    Golden(N + "rtx2080ti-16n16-allreduce-100g-step2m.txt",
           1, 536, "all_reduce", 16, 16, (1048576, 3850.8, 871.0), (535048576, 189676, 230706)),
    Golden(N + "t4-2n2-allreduce-efa-debug.txt",
           1, 58, "all_reduce", 2, 2, (4, 65.70, 64.84), (2**30, 344981, 344454), 1),
    Golden(N + "h100-2n16-allreduce-p5-efa-debug.txt",
           1, 64, "all_reduce", 16, 2, (8, 85.70, 74.97), (2**34, 66023, 65990)),
    Golden(N + "h100-2n16-allreduce-p5-srun-prefix.txt",
           1, 64, "all_reduce", 16, 0, (8, 69.12, 72.43), (2**34, 66132, 66109), 1),
    Golden(N + "h100-nebius-allreduce-nohash.txt",
           1, 62, "all_reduce", 16, 0, (8, 45.72, 29.78), (2**33, 34448.4, 34381.0)),
    Golden(N + "gb200-2rack144-allreduce.txt",
           1, 12, "all_reduce", 128, 0, (2**29, 2156.8, 2093.7), (2**34, 42067, 41557)),
    Golden(N + "mi300x-2n16-allreduce-oci.txt",
           1, 10, "all_reduce", 16, 0, (2**30, 5753.0, 5754.5), (2**34, 89885, 89917)),
    Golden(N + "rtx5090-1n2-broadcast.txt",
           1, 26, "broadcast", 2, 1, (32768, 37.46, 133.79), (2**27, 29332.4, 29871.8)),
    Golden(N + "azure-ml-1n8-allreduce.txt",
           1, 62, "all_reduce", 8, 0, (8, 18.75, 17.60), (2**33, 64200, 64208)),
    Golden(N + "v100-2n2-allgather-truncated.txt",
           1, 50, "all_gather", 2, 2, (32, 378.7, 370.1), (2**29, 588784, 523820), 2),
    Golden(N + "topology-aware-fragment.txt",
           1, 6, "all_reduce", 128, 0, (8, 983.2, 166.1), (2**34, 92173, 92284)),
    Golden("nccl-log/h100-g2-auto-tuning.log",
           1, 12, "all_reduce", 2, 1, (2**28, 893.63, 896.61), (2**33, 24730.0, 24747.1)),
    Golden("nccl-log/a100pcie-2n2-alltoall-gdr-on.log",
           1, 106, "all_to_all", 2, 2, (524288000, 27952.3, 28006.2), (1069547520, 56198.5, 55106.4)),
    Golden("table/smartio-allreduce.csv",
           1, 56, "unknown", 0, 0, (8, 51.70, 50.30), (2**30, 1616686, 1615448), 0),
]  # fmt: skip


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.file)
def test_real_table(golden: Golden) -> None:
    found, problems = read(TEXT, real(golden.file))
    rows = [row for run in found for row in run.measurements]
    assert (len(found), len(rows)) == (golden.runs, golden.rows)
    assert {row.case.op for row in rows} == {golden.op}
    assert {row.ranks for row in rows} == {golden.ranks}
    assert {len(run.machine.hosts) for run in found} == {golden.hosts}
    assert {row.case.dtype for row in rows} == {"float32"}
    assert len(problems) == golden.problems, problems
    for (nbytes, out, inside), there in ((golden.first, rows[:2]), (golden.last, rows[-2:])):
        there = [row for row in there if row.nbytes == nbytes]
        assert {row.case.in_place: us(row) for row in there} == {
            k: v for k, v in ((False, out), (True, inside)) if v is not None
        }


def test_real_wrong_elements_fail_their_rows() -> None:
    found, problems = read(TEXT, real(N + "gh200-16n64-allreduce-wrong-ofi1.9.txt"))
    bad = [row for row in one(found).measurements if row.status != "ok"]
    assert [(row.nbytes, row.case.in_place, row.wrong, row.why) for row in bad] == [
        (67108864, False, 4224, "4224 wrong elements"),
        (67108864, True, 992, "992 wrong elements"),
    ]
    assert found[0].results["Out of bounds values"] == "3 FAILED"
    assert problems == []


def test_real_five_collectives_in_one_file() -> None:
    found, problems = read(TEXT, real(N + "h100-10n80-five-collectives.txt"))
    assert [run.measurements[0].case.op for run in found] == [
        "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv",
    ]  # fmt: skip
    assert {row.ranks for run in found for row in run.measurements} == {80}
    first, last = found[0].measurements[0], found[-1].measurements[-1]
    assert (first.case.dtype, first.nbytes, us(first), first.wrong) == ("float64", 33554432, 798.52, 0)
    assert (last.nbytes, us(last), last.wrong, last.calls, last.warmup) == (17179869184, 1128397, None, 20, 5)
    assert found[0].tool == "nccl-tests 2.17.8"
    assert found[0].machine.facts == {"nccl_headers": "2.29.2", "nccl": "2.29.2", "gpu": "NVIDIA H100 80GB HBM3"}
    assert problems == []


def test_real_run_that_died_is_told_and_the_next_one_is_read() -> None:
    found, problems = read(TEXT, real(N + "h100-2n8-alltoall-failed-then-sendrecv.txt"))
    assert [run.measurements[0].case.op for run in found] == ["send_recv"]
    assert us(found[0].measurements[-1]) == 1.7e7
    problem = problems[0]
    assert len(problems) == 1
    assert "cnode2-001: Test NCCL failure common.cu:401 'remote process exited" in problem.reason


def test_real_communicator_that_was_never_made() -> None:
    found, problems = read(TEXT, real(N + "a100-2n16-allreduce-sophia-init-failed.txt"))
    assert found == []
    assert "unhandled system error" in problems[0].reason


def test_real_one_rank_world() -> None:
    run = one(read(TEXT, real(N + "a100-1n1-allreduce-shifter.txt"))[0])
    assert {row.ranks for row in run.measurements} == {1}
    assert run.machine.facts["nccl"] == "2.21.5"


def test_real_rows_cut_by_logs_of_many_hosts() -> None:
    found, problems = read(TEXT, real("nccl-log/rtx-32gpu-algo-per-call-head.log"))
    assert [run.measurements[0].nbytes for run in found] == [64, 128, 256, 512, 1024, 4096]
    assert us(found[0].measurements[0]) == 413.6
    assert {run.measurements[0].case.op for run in found} == {"all_reduce"}  # NCCL's log names it
    assert len(problems) == 4  # runs whose rows were left out, and the row at the end of the excerpt


def test_real_rccl_tests_text() -> None:
    run = one(read(TEXT, real(N + "mi300x-1n8-allreduce-rccl.txt"))[0])
    assert run.tool == "rccl-tests develop:a7809b3"
    assert {row.case.backend for row in run.measurements} == {"rccl"}
    assert (len(run.measurements), us(run.measurements[-1])) == (62, 47584)
    assert run.machine.facts["gpu"] == "AMD Instinct MI300X"


def test_real_pairs() -> None:
    ops: Counter[str] = Counter()
    for path in sorted(real(N + "pairwise-h100-a").glob("n2g8*.txt")):
        found, problems = read(TEXT, path)
        ops.update(row.case.op for run in found for row in run.measurements)
        assert {row.ranks for run in found for row in run.measurements} <= {16}
        assert all("without a row" in problem.reason for problem in problems)
    assert ops == {"all_to_all": 520, "send_recv": 520}


def test_real_rccl_json_lines() -> None:
    found, problems = read(RCCL, real(N + "rccl-allreduce-1n8.jsonl"))
    rows = one(found).measurements
    assert (len(rows), problems) == (64, [])
    assert {(row.case.op, row.case.backend, row.case.dtype, row.ranks, row.wrong) for row in rows} == {
        ("all_reduce", "rccl", "int8", 8, 0)
    }
    assert (rows[0].nbytes, us(rows[0])) == (1, 206.98375)
    assert (rows[-1].nbytes, us(rows[-1]), rows[-1].case.in_place) == (2**31, 12092.294313, True)
    found, problems = read(RCCL, real(N + "rccl-alltoall-1n8.jsonl"))
    assert len(one(found).measurements) == 734
    assert len({row.case.dtype for row in found[0].measurements}) == 12
    assert [problem.reason[:6] for problem in problems] == [EMPTY]
    assert found[0].measurements[-1].wrong is None


def test_no_other_real_file_is_taken_for_a_table() -> None:
    for name in (
        "table/h100-pairwise-cluster01-summary.csv",
        "table/polaris-a100-allreduce-scaling.csv",
        "mpi-bench/deepspeed-comms-summary.txt",
        "mpi-bench/ml-engineering-all-reduce-bench-h200.txt",
        N + "pairwise-h100-a/summary.csv",
        N + "neuron-nccom-allreduce-table.txt",
    ):
        for reader in (TEXT, REPORT, RCCL):
            assert read(reader, real(name)) == ([], []), name


# ---- dialects that no collected file has


def test_times_of_single_calls_groups_repetitions_and_a_crash() -> None:
    found, problems = read(TEXT, HERE / "per_call.txt")
    run = one(found)
    assert [(row.nbytes, row.case.in_place, row.launch, us(row)) for row in run.measurements] == [
        (1024, False, 0, 10.0), (1024, True, 0, 10.5), (2048, False, 0, 11.0), (2048, True, 0, 11.1),
        (1024, False, 1, 10.0), (1024, True, 1, 10.5),
    ]  # fmt: skip
    first, wrong = run.measurements[0], run.measurements[2]
    assert first.told == pytest.approx({"min": 9e-6, "max": 12e-6, "p99": 12e-6})
    assert (first.kind, first.case.mode, first.ranks) == ("mean", "latency", 2)
    assert (wrong.status, wrong.wrong, run.measurements[3].wrong) == ("failed", 3, None)
    assert run.options["groups"] == "2 (NCCL_TESTS_SPLIT)"
    assert run.machine.host_of == (0, 0, 1, 1)
    assert run.machine.hosts[1].differs == {"gpu": "NVIDIA H100 80GB HBM3, NVIDIA H100 PCIe"}
    assert reasons(problems) == {
        18: "the same row as line 17",
        20: "the run broke off: ant01: Test NCCL failure common.cu:401 'unhandled system error / '",
    }


def test_first_release_printed_milliseconds() -> None:
    found, problems = read(TEXT, HERE / "first_release.txt")
    rows = one(found).measurements
    assert [us(row) for row in rows] == [628, 640, 750, 750]
    assert [row.wrong for row in rows] == [0, None, 0, 0]  # a deviation of 1e-07 is no number of wrong elements
    assert {row.case.dtype for row in rows} == {"int8"}
    assert problems == []


def test_one_placement() -> None:
    found, problems = read(TEXT, HERE / "one_placement.txt")
    run = one(found)
    assert [(row.nbytes, row.case.in_place, row.case.dtype, row.launch) for row in run.measurements] == [
        (1048576, True, "bfloat16", 0), (2097152, True, "f8e4m3", 0), (1048576, True, "bfloat16", 1),
    ]  # fmt: skip
    assert (run.tool, run.measurements[0].ranks, problems) == ("rccl-tests develop:ae3e635", 2, [])


def test_one_placement_is_not_guessed(tmp_path: Path) -> None:
    text = (HERE / "one_placement.txt").read_text().replace(" in-place ", "")
    found, problems = read_text(TEXT, text, tmp_path)
    assert found == []
    assert {p.reason for p in problems} >= {"one placement, and no line that tells which"}


def test_rows_in_pieces() -> None:
    found, problems = read(TEXT, HERE / "split_rows.txt")
    run = one(found)
    assert [(row.nbytes, us(row), row.wrong) for row in run.measurements] == [
        (1024, 20, 0), (1024, 10, None), (2048, 20, 0), (2048, 10, None),
    ]  # fmt: skip
    assert run.machine.facts["nccl"] == "2.22.3"
    assert sorted(reasons(problems)) == [17, 18]  # NCCL's line begins where no known host does: not joined


def test_every_process_ran_alone() -> None:
    found, problems = read(TEXT, HERE / "lonely_worlds.txt")
    assert [(us(run.measurements[0]), run.measurements[0].ranks) for run in found] == [(4, 1), (5, 1)]
    assert {row.case.op for run in found for row in run.measurements} == {"all_reduce"}  # from the command
    assert problems == []


def test_every_process_ran_alone_without_tags(tmp_path: Path) -> None:
    lines = [line.replace("[1,0]<stdout>:", "") for line in (HERE / "lonely_worlds.txt").read_text().splitlines()]
    lines = [line for line in lines if not line.startswith("[1,1]")]
    lines.insert(4, lines[3].replace("ant01", "ant02"))
    run = one(read_text(TEXT, "\n".join(lines), tmp_path)[0])
    assert (run.measurements[0].ranks, run.machine.hosts) == (1, ())
    assert "each ran alone" in run.machine.warnings[0]


def test_damaged_rows_are_told_and_left_out() -> None:
    found, problems = read(TEXT, HERE / "damaged.txt")
    told = reasons(problems)
    assert sorted(told) == [8, *range(10, 20)]
    assert told[10] == "algbw 9.49 GB/s does not fit 1048576 B in 100 us"
    assert told[11] == "1048576 B are not 262145 elements of float from any number of ranks"
    assert told[13] == "out of place: a time of nan us is none"
    assert told[17] == "6 figures where the header has 8"
    assert told[19] == "busbw does not fit algbw and 2 ranks"
    rows = one(found).measurements
    assert Counter((row.nbytes, row.case.in_place) for row in rows if row.case.root == 0) == Counter(
        {(size, place): 1 for size in (2**20, 2**21, 2**22) for place in (False, True)}
    )
    assert {(row.case.root, row.case.in_place) for row in rows if row.case.root} == {(k, True) for k in (3, 4, 5, 6)}


def test_a_list_of_ranks_that_was_cut_is_not_believed(tmp_path: Path) -> None:
    lines = (HERE / "damaged.txt").read_text().splitlines(keepends=True)
    found, problems = read_text(
        TEXT, "".join(lines[:2] + lines[2:3] + lines[4:9]).replace("nGpus 2", "nGpus 1"), tmp_path
    )
    assert one(found).measurements[0].ranks == 1  # reduce: busbw is algbw for any number of ranks
    text = "".join(lines[:3] + lines[4:9]).replace("reduce_perf", "all_reduce_perf").replace("nGpus 2", "nGpus 1")
    found, problems = read_text(TEXT, text, tmp_path)
    run = one(found)
    assert (run.measurements[0].ranks, run.machine.hosts) == (2, ())  # of which busbw / algbw tells
    assert any("do not fit 1 ranks" in problem.reason for problem in problems)


def test_the_same_table_twice_is_a_copy_and_another_one_a_launch(tmp_path: Path) -> None:
    table = "".join(
        line
        for line in (HERE / "damaged.txt").read_text().splitlines(keepends=True)
        if "sum       0 " in line or "#" in line
    )
    found, problems = read_text(TEXT, table + table, tmp_path)
    assert len(found) == 1
    assert any("a copy" in problem.reason for problem in problems)
    found, _ = read_text(TEXT, table + table.replace(" 100.0 ", " 99.97 "), tmp_path)
    assert [run.measurements[0].launch for run in found] == [0, 1]
    assert [us(run.measurements[0]) for run in found] == [100, 99.97]


@pytest.mark.parametrize(
    ("line", "head", "words"),
    [
        ("12:1024 256 float sum -1 1 2 3 0 1 2 3 0", (1024, 256, "float", "sum", -1), 8),
        ("2026-01-01T00:00:00Z pod-7 1024 256 half 9.5 0 0 N/A 9.5 0 0 N/A", (1024, 256, "half", "", -1), 8),
        ("| 1024 256 float sum -1", (1024, 256, "float", "sum", -1), 0),
        ("8x 256 float sum -1 1 2 3 0", None, 0),
        ("8 256 float sum -1 1 2 three 0", None, 0),
    ],
)
def test_line(line: str, head: tuple[object, ...] | None, words: int) -> None:
    found = pieces(line, None)
    assert (found and found.head) == head
    assert len(found.words if found else ()) == words


def test_headers_of_other_tools_are_none() -> None:
    assert header("size(B)  count(elems)  type  time:avg(us)  algbw(GB/s)  busbw(GB/s)", None) is None
    assert header("nodes,gpus,size_bytes,oop_time_us,oop_algbw,oop_busbw", None) is None
    found = header(
        "#  size  count  type  redop  root  time  algbw  busbw  copybw  #wrong  time  algbw  busbw copybw #wrong", None
    )
    assert found
    assert found.figures == ("time", "algbw", "busbw", "copybw", "wrong")


def test_lines_that_matter_are_looked_into() -> None:
    """`_worth` spells out what `_STAGES` and TYPES need."""
    letters = "abcdefghijklmnopqrstuvwxyz" * 4
    for word, _, _ in nccl_tests._STAGES:
        assert nccl_tests._worth(f"{letters} {word} {letters}".encode()), word
    for name in TYPES:
        assert nccl_tests._worth(f"{letters} 8 2 {name} sum".encode()), name
    assert not nccl_tests._worth(f"{letters} 8".encode())


def test_names() -> None:
    assert op_of("/opt/nccl-tests/build/alltoall_perf_mpi") == "all_to_all"
    assert [op_of(name) for name in ("AllReduce", "SendRecv", "alltoallv_perf")] == [
        "all_reduce",
        "send_recv",
        "all_to_all_v",
    ]
    assert op_of("all_reduce_bias_perf") == "all_reduce_bias"
    assert [version_of(code) for code in (22902, 2804, 23007)] == ["2.29.2", "2.8.4", "2.30.7"]
    assert printed("1.2e+07") == Printed(1.2e7, 0.5e6)
    assert printed("12_0") is None
    assert near(9.985, 9.985, Printed(9.98, 0.005))
    assert not near(9.99, 9.99, Printed(9.98, 0.005))


# ---- JSON and CSV


def test_json_report() -> None:
    found, problems = read(REPORT, HERE / "report.json")
    run = one(found)
    first, wrong, last = run.measurements
    assert first.kind == "samples"
    assert first.seconds == pytest.approx((9e-6, 10e-6, 11e-6))  # the first call is skipped, as in the report
    assert first.told["p50"] == pytest.approx(9e-6)
    assert (first.calls, first.warmup, first.ranks, first.case.op) == (1, 1, 4, "all_reduce")
    assert (wrong.wrong, wrong.status, wrong.case.in_place) == (2, "failed", True)
    assert (last.kind, us(last), last.calls, last.wrong) == ("mean", 10, 4, None)
    assert reasons(problems) == {0: "result 1: in place: a time of nan us is none"}
    assert [host.name for host in run.machine.hosts] == ["ant01", "ant02"]
    assert run.machine.host_of == (0, 0, 1, 1)
    assert run.machine.environment == {"NCCL_DEBUG": "WARN"}
    assert run.machine.hidden == ("NCCL_SECRET_TOKEN",)
    assert "hunter2" not in repr(run)
    assert run.machine.facts["nccl"] == "2.30.7"


def test_json_report_that_was_cut_keeps_its_rows(tmp_path: Path) -> None:
    text = (HERE / "report.json").read_text()
    found, problems = read_text(REPORT, text[: text.index('"size":2048') + 30], tmp_path)
    assert len(one(found).measurements) == 2
    assert any("1 rows before the damage" in problem.reason for problem in problems)
    with pytest.raises(ReadError, match="before its results"):
        read_text(REPORT, text[: text.index('"results"') - 20], tmp_path)


def test_json_bare_inf_is_no_damage(tmp_path: Path) -> None:
    text = (HERE / "report.json").read_text().replace('"bus_bw":"nan"', '"bus_bw":inf')
    found, _ = read_text(REPORT, text, tmp_path)
    assert len(one(found).measurements) == 3


def test_json_nested_too_deeply_or_something_else(tmp_path: Path) -> None:
    deep = '{"out_of_place":' + "[" * 200_000
    with pytest.raises(ReadError, match="nested"):
        read_text(REPORT, deep, tmp_path)
    assert read_text(REPORT, '{"out_of_place": 1}', tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "aggregated", "mode"),
    [("-z 1", 1, "latency"), ("-z 2", 1, "throughput"), ("--blocking=3", 1, "latency"), ("-z3", 2, "throughput")],
)
def test_json_blocking(arguments: str, aggregated: int, mode: str, tmp_path: Path) -> None:
    report = json.loads((HERE / "report.json").read_text())
    report["args"] += arguments.split()
    report["config"] |= {"blocking_collectives": "true", "aggregated_iterations": aggregated}
    found, _ = read_text(REPORT, json.dumps(report), tmp_path)
    assert found[0].measurements[0].case.mode == mode


def test_rccl_csv_and_json_say_the_same() -> None:
    table, problems = read(RCCL, HERE / "rccl.csv")
    array, more = read(RCCL, HERE / "rccl.json")
    assert one(table).measurements == one(array).measurements
    assert (problems, more) == ([], [])
    rows = table[0].measurements
    assert [(row.nbytes, row.case.in_place, row.launch) for row in rows[:5]] == [
        (1024, False, 0), (1024, True, 0), (2048, False, 0), (2048, True, 0), (1024, False, 1),
    ]  # fmt: skip
    assert (rows[0].case.dtype, rows[0].ranks, us(rows[0]), rows[0].wrong, rows[1].wrong) == (
        "float16",
        8,
        11.024,
        None,
        0,
    )
    assert table[0].options["nodes"] == "2"


def test_rccl_bad_lines(tmp_path: Path) -> None:
    lines = (HERE / "rccl.csv").read_text().splitlines()
    lines += [lines[1], lines[2].replace("12.024", "-12.024"), lines[3] + ",7", lines[4].replace(",0.", ",9.")]
    found, problems = read_text(RCCL, "\n".join(lines), tmp_path)
    assert len(one(found).measurements) == 8
    assert [problem.line for problem in problems] == [12, 10, 11, 13]


# ---- anything


def line_of(size: int, dtype: str, times: tuple[float, float], ranks: int, wide: bool) -> tuple[str, list[float]]:
    """A row as the program prints it (its getFloatStr), and the microseconds that can be read back."""

    def number(value: float, width: int) -> str:
        shapes = (f"{value:{width}.2f}", f"{value:{width}.1f}", f"{value:{width}.0f}", f"{value:{width}.1e}")
        return next((shape for shape in shapes if len(shape) <= width), shapes[-1])

    text = f"{size:12d}  {size // TYPES[dtype][1]:12d}  {dtype:>8}  {'sum':>6}  {-1:6d}"
    back = []
    for time in times:
        rate = size / time / 1e3
        factor = COLLECTIVES["all_reduce"].factor
        assert factor
        text += f"  {number(time, 7)}  {number(rate, 6)}  {number(rate * factor(ranks), 6)}  " + (
            "     0" if wide else "    0"
        )
        back.append(float(number(time, 7)))
    return text, back


TIMES = st.floats(0.01, 5e7)


@given(
    rows=st.lists(st.tuples(st.integers(0, 36), TIMES, TIMES), min_size=1, max_size=12, unique_by=lambda row: row[0]),
    ranks=st.integers(2, 40),
    dtype=st.sampled_from(sorted(TYPES)),
    wide=st.booleans(),
    tag=st.sampled_from(("", "0: ", "  12: ", "[1,0]<stdout>:", "[0] ", "2026-01-01T10:00:00.123Z ")),
)
@settings(max_examples=60, deadline=None)
def test_round_trip(
    rows: list[tuple[int, float, float]],
    ranks: int,
    dtype: str,
    wide: bool,
    tag: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What was printed is read back, every row of it, whatever its figures look like."""
    lines = [
        "# Collective test starting: all_reduce_perf",
        f"# nThread 1 nGpus {ranks} minBytes 8 maxBytes 8 iters: 20",
    ]
    lines += [f"#  Rank {k:2d} Group  0 Pid 7 on h{k % 3} device {k:2d} [0x0f] NVIDIA X" for k in range(ranks)]
    lines += ["#  size  count  type  redop  root  time  algbw  busbw  #wrong  time  algbw  busbw  #wrong"]
    expected = []
    for power, *times in sorted(rows):
        size = TYPES[dtype][1] * 2**power
        text, back = line_of(size, dtype, (times[0], times[1]), ranks, wide)
        lines.append(text)
        expected += [(size, value) for value in back]
    lines += ["# Out of bounds values : 0 OK"]
    found, problems = read_text(TEXT, "\n".join(tag + line for line in lines), tmp_path_factory.mktemp("round"))
    got = one(found).measurements
    assert problems == []
    assert [(row.nbytes, us(row)) for row in got] == [(size, round(value, 6)) for size, value in expected]
    assert {(row.ranks, row.wrong, row.calls) for row in got} == {(ranks, 0, 20)}


REAL = ("h100-1n4-allreduce-v2.18.txt", "h100-2n8-alltoall-failed-then-sendrecv.txt",
        "h100-nebius-allreduce-nohash.txt",
        "gh200-16n64-allreduce-wrong-ofi1.9.txt", "a100-1n8-broadcast-old-layout.txt", "mi300x-1n8-allreduce-rccl.txt",
        "a100pcie-1n8-allreduce-multi-run.txt", "h100-allreduce-eks-p5-tagged.txt")  # fmt: skip


def test_damaged_samples(tmp_path: Path) -> None:
    survives(TEXT, sorted(HERE.glob("*.txt")), tmp_path)
    survives(REPORT, [HERE / "report.json"], tmp_path)
    survives(RCCL, [HERE / "rccl.csv", HERE / "rccl.json"], tmp_path)


def test_damaged_real_tables(tmp_path: Path) -> None:
    survives(TEXT, [real(N + name) for name in REAL], tmp_path, seed=11)


@given(
    noise=st.binary(max_size=300),
    name=st.sampled_from(["per_call.txt", "split_rows.txt", "report.json", "rccl.csv"]),
    at=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_any_bytes(noise: bytes, name: str, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (HERE / name).read_bytes()
    at %= len(text)
    for reader in (TEXT, REPORT, RCCL):
        with contextlib.suppress(ReadError):
            read_text(reader, text[:at] + noise + text[at:], tmp_path_factory.mktemp("any"))


def test_a_reader_leaves_the_others_files_alone() -> None:
    assert read(TEXT, HERE / "rccl.csv") == ([], [])
    assert read(TEXT, HERE / "rccl.json") == ([], [])
    assert read(RCCL, HERE / "per_call.txt") == ([], [])
    assert read(RCCL, HERE / "report.json") == ([], [])


def test_hostile_lines_take_no_time(tmp_path: Path) -> None:
    """Patterns stay linear: a quadratic one would need minutes here."""
    rng = random.Random(3)
    parts = (
        " ",
        "1 ",
        "[",
        "[1,1]<std",
        "x:1:1 [0] NCCL INFO ",
        "8 2 float sum -1",
        "Rank 1 ",
        "nThread nGpus ",
        "_perf",
        "1e999 ",
        "-",
        "nranks ",
    )
    for part in parts:
        line = (part * 5000)[: rng.choice((4000, 4096, 5000))]
        found, _ = read_text(TEXT, f"# nThread 1 nGpus 1\n{line}\n" * 40, tmp_path)
        assert found == []
    assert math.isinf(printed("inf").value)  # type: ignore[union-attr]


# ---- nccom-test, which prints nearly the same


def test_real_nccom_tables(tmp_path: Path) -> None:
    found, problems = read(nccom.READER, real(N + "neuron-nccom-allreduce-table.txt"))
    rows = one(found).measurements
    assert (len(rows), problems) == (17, [])
    assert [(row.nbytes, us(row)) for row in (rows[0], rows[-1])] == [(8, 63.52), (524288, 343.84)]
    assert (rows[0].case.dtype, rows[0].case.op, rows[0].ranks, rows[0].wrong) == ("float32", "unknown", 0, None)
    path = real("mpi-bench/neuron-nccom-percentiles.txt")
    found, problems = read(nccom.READER, path)
    rows = one(found).measurements
    assert [(row.nbytes, us(row)) for row in rows] == [(1024, 10.0), (8192, 10.22), (65536, 11.31), (524288, 14.83)]
    assert rows[-1].told == pytest.approx({"p50": 15e-6, "p99": 17e-6})
    survives(nccom.READER, [path], tmp_path)
