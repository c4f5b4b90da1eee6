"""PARAM: its three kinds of rows, of real runs and written here, and what damaged files do."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import SAMPLES, read, read_text, survives
from real_data import ROOT, real

from commbench.readers.param import READER

PARAM = SAMPLES / "param"


@pytest.mark.parametrize(
    ("name", "op", "first_us", "last_us", "fastest_us", "slowest_us"),
    [
        ("all_reduce", "all_reduce", 317.1, 442.8, 308.6, 325.5),
        ("all_to_all", "all_to_all", 477.9, 195.4, 476.5, 479.4),
        ("reduce_scatter", "reduce_scatter", 623.3, 2852.2, 610.2, 636.4),
    ],
)
def test_real_collectives(
    name: str, op: str, first_us: float, last_us: float, fastest_us: float, slowest_us: float
) -> None:
    (one,), problems = read(READER, real(f"mpi-bench/param-gloo-{name}.txt"))
    assert not problems
    assert [m.nbytes for m in one.measurements] == [8, 64, 512, 4096, 32768]
    first, last = one.measurements[0], one.measurements[-1]
    assert (first.case.op, first.case.backend, first.case.mode, first.ranks) == (op, "gloo", "latency", 2)
    assert (first.kind, first.seconds[0], last.seconds[0]) == (
        "mean", pytest.approx(first_us * 1e-6), pytest.approx(last_us * 1e-6)
    )  # fmt: skip
    told = (first.told["fastest_rank"], first.told["slowest_rank"])
    assert told == (pytest.approx(fastest_us * 1e-6), pytest.approx(slowest_us * 1e-6))
    assert [host.name for host in one.machine.hosts] == ["vm"]


def test_real_point_to_point() -> None:
    (one,), problems = read(READER, real("mpi-bench/param-gloo-pt2pt.txt"))
    assert not problems
    last = [(m.case.op, m.nbytes, round(m.seconds[0] * 1e6, 1)) for m in one.measurements[-2:]]
    assert last == [("param.ping", 32768, 123.9), ("param.ping_pong", 32768, 575.5)]


def test_every_kind_of_row() -> None:
    found, problems = read(READER, PARAM / "kinds.txt")
    assert not problems
    base, quantised, pair, ping, pong = [m for one in found for m in one.measurements]
    assert (base.case.op, base.case.dtype, base.case.mode, base.ranks) == ("all_gather", "bfloat16", "throughput", 2)
    assert base.case.settings == (("tag", "mytag"), ("groups", "2"), ("call", "all_gather_base"))
    assert found[0].machine.host_of == (0, 0, 1, 1)
    assert found[0].machine.facts == {"device": "cuda"}
    assert (quantised.case.op, quantised.seconds) == ("param.quantised.all_reduce", (100e-6,))
    assert quantised.told == pytest.approx({"quantise": 10e-6, "restore": 20e-6})  # a negative rest is nothing
    assert (pair.case.op, pair.seconds, pair.told["slowest_rank"]) == ("param.pair.all_to_all", (60e-6,), 63e-6)
    assert (ping.case.op, ping.seconds, pong.case.op, pong.seconds) == (
        "param.ping", (10e-6,), "param.ping_pong", (20e-6,)
    )  # fmt: skip


def test_what_is_no_row_is_told_with_its_line() -> None:
    (one,), problems = read(READER, PARAM / "damaged.txt")
    assert [(m.case.op, m.case.backend, m.ranks, m.nbytes) for m in one.measurements] == [
        ("all_reduce", "unknown", 0, 8), ("param.incast", "unknown", 0, 64)
    ]  # fmt: skip
    assert [(problem.line, problem.reason.split(":")[0][:20]) for problem in problems] == [
        (3, "a time of 0.0"),
        (4, "size 0"),
        (5, "not a number"),
        (6, "3 numbers after the "),
        (7, "not a label of a col"),
    ]


@given(
    rows=st.lists(st.tuples(st.integers(1, 2**40), st.floats(0.1, 1e8)), min_size=1, max_size=20),
    op=st.sampled_from(["all_gather", "broadcast", "reduce_scatter", "all_to_all"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list, op: str) -> None:
    text = "\n\tCOMMS-RES                          total-size (B)  nElementsPerRank      Time(us):p50\n"
    for nbytes, p50 in rows:
        figures = [f"{p50:.1f}", f"{p50 * 1.1:.1f}", f"{p50 * 1.2:.1f}", f"{p50 / 2:.1f}", f"{p50 * 2:.1f}"]
        cells = "".join(f"{cell:>12}" for cell in [*figures, "0.000", "0.000", "0.0"])
        text += f"\tCOMMS-RES-{op}-int32{nbytes!s:>18}{nbytes // 4!s:>18} {cells}\n"
    (one,), problems = read_text(READER, text, tmp_path_factory.mktemp("param"))
    assert not problems
    assert [m.nbytes for m in one.measurements] == [nbytes for nbytes, _ in rows]
    assert [m.seconds[0] * 1e6 for m in one.measurements] == pytest.approx([p for _, p in rows], abs=0.051)
    assert {(m.case.op, m.case.dtype) for m in one.measurements} == {(op, "int32")}


def test_damaged_copies(tmp_path: Path) -> None:
    survives(READER, [*PARAM.iterdir(), *sorted(ROOT.glob("mpi-bench/param*"))], tmp_path)
