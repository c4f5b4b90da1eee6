"""The table, CSV and JSON: everything visible, nothing pretended, no line too wide."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import store
from commbench.cli import group
from commbench.collectives import moved
from commbench.layouts import expand
from commbench.model.wire import beyond, with_limits
from commbench.records import Case, Fabric, FabricHost, Host, Link, Machine, Measurement, Run
from commbench.report.table import WIDTH, as_json, csv_lines, table
from commbench.report.view import figure
from commbench.stats.rows import Row, rows
from commbench.stats.spread import spread

SPREADS_SHOWN = 20


def run_of(ranks: int = 2, hosts: int = 1, name: str = "quick", **spec: Any) -> Run:
    host_of = tuple(rank * hosts // ranks for rank in range(ranks))
    machine = Machine(hosts=tuple(Host(name=f"n{k}") for k in range(hosts)), host_of=host_of, launcher="mpirun")
    created = "2026-10-04T12:30:00+00:00"
    return Run(format=1, name=name, created=created, commbench="0.1.0", seed=1, spec=spec, machine=machine)


def case(**fields: Any) -> Case:
    return Case(**{"op": "all_reduce", "backend": "gloo", "nbytes": 1024, **fields})


def answer(question: Case, us: float = 100.0, noise: float = 0.01, **fields: Any) -> Measurement:
    """30 samples within +- noise, in an order without a pattern."""
    seconds = tuple(us * 1e-6 * (1 + noise * ((k * 17 % 30) / 14.5 - 1)) for k in range(30))
    known: dict[str, Any] = {
        "seconds": seconds,
        "ranks": 2,
        "nbytes": moved(question.op, question.nbytes, question.dtype, 2),
        "skew": tuple(s / 9 for s in seconds),
        "slowest": (1,) * 30,
        "wrong": 0,
        "stopped": "ci",
    }
    return Measurement(case=question, **(known | fields))


def lines_of(measurements: Iterable[Measurement], run: Run | None = None) -> list[str]:
    found = rows(measurements)
    return list(table(run or run_of(), found, spread(found)))


def body(lines: Sequence[str]) -> list[list[str]]:
    return [line.split() for line in lines if line and not line.startswith("#")]


def columns(lines: Sequence[str]) -> list[str]:
    (titles,) = (line for line in lines if "time_us" in line.split() and "=" not in line)
    return titles[1:].split()


def test_a_small_table() -> None:
    lines = lines_of([answer(case(nbytes=n), us) for n, us in ((8, 5), (2**20, 150))])
    assert lines == [
        "# quick · commbench 0.1.0 · 2026-10-04T12:30:00+00:00",
        "# 2 ranks on 1 host · launched by mpirun",
        "# all_reduce · gloo · float32 · sum · throughput mode · out of place · host clock · world",
        "# time_us = median over samples of the slowest rank; ±% = half of its 95 % interval",
        "# skew_us = from the fastest to the slowest rank; algbw, busbw in GB/s (1e9 bytes/s); n = samples",
        "#",
        "# size  time_us   ±%  skew_us    algbw    busbw  wrong   n  stopped",
        "    8B     5.00  0.4     0.56  0.00160  0.00160      0  30  ci",
        "  1MiB   150.0   0.4    17     6.991    6.991        0  30  ci",
        "#",
        "# 2 rows: 2 ok, 0 skipped, 0 failed, 0 hung",
    ]


def test_nothing_measured() -> None:
    assert lines_of([])[-1] == "# 0 rows: 0 ok, 0 skipped, 0 failed, 0 hung"


def test_what_differs_is_a_column_and_series_are_apart() -> None:
    asked = [
        case(op=op, backend=b, nbytes=n)
        for op in ("all_gather", "all_reduce")
        for b in ("gloo", "mpi")
        for n in (8, 16, 32)
    ]
    lines = lines_of(answer(one) for one in asked)
    assert columns(lines)[:3] == ["op", "backend", "size"]
    assert lines.count("") == 3
    assert {tuple(cells[:2]) for cells in body(lines)} == {(one.op, one.backend) for one in asked}


def test_settings_differ_from_no_settings() -> None:
    lines = lines_of([answer(case()), answer(case(settings=(("NCCL_ALGO", "Ring"),)))])
    at = columns(lines).index("settings")
    assert [cells[at] for cells in body(lines)] == ["none", "NCCL_ALGO=Ring"]


def test_what_has_no_room_is_a_title() -> None:
    long = tuple((f"NCCL_SETTING_{k}", "some_value") for k in range(4))
    lines = lines_of(answer(case(settings=s, nbytes=n)) for s in ((), long) for n in (8, 16))
    assert "settings" not in columns(lines)
    assert sum(line.startswith("# NCCL_SETTING_0=some_value ") for line in lines) == 1
    assert "# no settings" in lines
    assert max(len(line) for line in lines if not line.startswith("#")) <= WIDTH


def test_the_simulated_clock_is_named_in_the_title() -> None:
    assert "SIMULATED" in lines_of([answer(case(), clock="simulated")])[0]
    assert "SIMULATED" not in lines_of([answer(case())])[0]


def test_the_confidence_is_that_of_the_spec() -> None:
    assert any("99 % interval" in line for line in lines_of([answer(case())], run_of(stop={"confidence": 0.99})))


def test_every_reason_is_told_once_and_every_row_is_there() -> None:
    skipped = [answer(case(nbytes=n, dtype="float16"), seconds=(), status="skipped", why="no float16") for n in (8, 16)]
    wrong = answer(case(nbytes=64), status="failed", why="3 wrong elements\nfirst at \x1b[31m17", wrong=3)
    hung = answer(case(nbytes=32), seconds=(), status="hung", why="deadline")
    lines = lines_of([*skipped, wrong, hung, answer(case())])
    assert len(body(lines)) == 5
    assert [line for line in lines if line.startswith("# [")] == [
        "# [1] skipped, 2 rows: no float16",
        "# [2] hung, 1 row: deadline",
        "# [3] failed, 1 row: 3 wrong elements first at  [31m17",
    ]
    assert [cells[-2:] for cells in body(lines)[:4]] == [["skipped", "[1]"]] * 2 + [["HUNG", "[2]"], ["FAILED", "[3]"]]
    assert lines[-1] == "# 5 rows: 1 ok, 2 skipped, 1 failed, 1 hung"


def test_rounded_sizes_are_told() -> None:
    lines = lines_of([answer(case(nbytes=10)), answer(case(nbytes=10, op="all_gather")), answer(case(nbytes=16))])
    assert "# rounded to whole elements on every rank: asked 10B measured 8B (2 rows)" in lines


def test_no_interval_is_a_question_mark() -> None:
    lines = lines_of([answer(case(), seconds=(1e-5,) * 5)])
    assert body(lines)[0][1:3] == ["10", "?"]
    assert "# ±% is ? where independent samples are too few for an interval (1 row)" in lines


def test_a_barrier_has_no_size_and_no_bandwidth() -> None:
    assert body(lines_of([answer(case(op="barrier"))]))[0] == ["-", "100.0", "0.4", "11", "-", "-", "0", "30", "ci"]


def grouped(symbols: Sequence[str], run: Run, **fields: Any) -> list[Measurement]:
    return [
        answer(case(groups=symbol, **fields), 100 + 50 * group[0], group=k, ranks=len(group))
        for symbol in symbols
        for k, group in enumerate(expand(symbol, run.machine.host_of))
    ]


def test_groups_have_their_ranks_and_their_spread() -> None:
    run = run_of(8, 2)
    lines = lines_of(grouped(["node", "rail"], run), run)
    assert [cells[:2] for cells in body(lines)][:3] == [["node[0]", "0-3"], ["node[1]", "4-7"], ["rail[0]", "0,4"]]
    at = lines.index("# spread between the groups of a case (time_us):")
    assert lines[at + 2].split() == ["#", "node", "1KiB", "2", "100.0", "0-3", "200", "300", "4-7", "3.00"]
    assert lines[at + 3].split() == ["#", "rail", "1KiB", "4", "100.0", "0,4", "175.0", "250.0", "3,7", "2.50"]


def test_only_the_widest_spreads_are_shown() -> None:
    run = run_of(4, 2)
    lines = lines_of([m for n in range(1, 31) for m in grouped(["node"], run, nbytes=4 * n)], run)
    at = lines.index("# spread between the groups of a case (time_us; the 20 widest of 30):")
    assert lines[at + 2 + SPREADS_SHOWN] == "#"


def test_a_layout_that_nobody_knows_is_still_shown() -> None:
    found = [answer(case(groups="mine"), group=k) for k in (0, 1)]
    assert [cells[0] for cells in body(lines_of(found))] == ["mine[0]", "mine[1]"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(0.01, 1e6), st.floats(0, 0.9)), max_size=12))
def test_no_line_is_too_wide_and_no_digit_too_many(drawn: list[tuple[int, int, float, float]]) -> None:
    layouts = ("world", "node", "mesh(pp=2,dp=4)/dp", "pairs/3", "every:4")
    long = (("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "LL128"), ("NCCL_MIN_NCHANNELS", "16"))
    measured = [
        answer(
            case(groups=layouts[g], settings=long[:s], mode=("latency", "throughput")[s % 2], nbytes=2**s), us, noise
        )
        for g, s, us, noise in drawn
    ]
    found = rows(measured)
    lines = list(table(run_of(8, 2), found, spread(found)))
    assert max(len(line) for line in lines if "[" not in line[:4]) <= WIDTH
    assert len(body(lines)) == len(found)
    at = columns(lines).index("time_us")
    for cells, row in zip(body(lines), found, strict=True):
        assert row.median_us is not None
        assert float(cells[at]) == pytest.approx(row.median_us, rel=0.5)
        last = 10.0 ** -len(cells[at].partition(".")[2])
        assert last >= 1 or last > ((row.ci_high_us or 0) - (row.ci_low_us or 0)) / 20 or row.half_width == 0


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [(None, 3, "-"), (0, 3, "0"), (12.3456, 3, "12.3"), (1234.5, 2, "1200"), (1234.5, 4, "1234"), (0.0123, 1, "0.01")],
)
def test_figures(value: float | None, known: int, expected: str) -> None:
    assert figure(value, known) == expected


# ---- the wire ---------------------------------------------------------------------------------------------


def star(run: Run) -> Run:
    """The run's hosts on one switch with 1 Gbit/s each."""
    names = [host.name for host in run.machine.hosts]
    fabric = Fabric(
        name="star",
        hosts=tuple(FabricHost(name=name) for name in names),
        switches=("s",),
        links=tuple(Link(name=f"{name}-s", ends=(name, "s"), rate=125e6) for name in names),
    )
    return msgspec.structs.replace(run, machine=msgspec.structs.replace(run.machine, fabric=fabric))


def test_a_known_fabric_has_its_column() -> None:
    run = star(run_of(4, 4))
    asked = [case(nbytes=16 * 2**20), case(nbytes=1024), case(op="barrier")]
    measured = [answer(one, 251_658, ranks=4, nbytes=one.nbytes) for one in asked]
    found = with_limits(rows(measured), run.machine)
    lines = list(table(run, found, spread(found), beyond(found, run.machine)))
    assert "# wire% = least time that the links allow, by time_us; above 100: more than its share of a link" in lines
    at = columns(lines).index("wire%")
    assert columns(lines)[at - 1] == "busbw"
    assert [cells[at] for cells in body(lines)] == ["0.0", "80", "-"]
    assert "# the limit is set by n0-s (2 rows)" in lines
    assert not any("exceeds" in line for line in lines)


def test_without_a_limit_there_is_no_column() -> None:
    run = star(run_of(4, 1))  # one host: nothing crosses a link
    plain = lines_of([answer(case(), ranks=4)])
    found = with_limits(rows([answer(case(), ranks=4)]), run.machine)
    assert not any("wire" in line for line in [*plain, *table(run, found, [])])


def test_a_figure_beyond_the_wire_is_a_note() -> None:
    run = star(run_of(4, 4))
    found = with_limits(rows([answer(case(nbytes=2**24), 1e5, ranks=4, nbytes=2**24)]), run.machine)
    (note,) = (line for line in table(run, found, [], beyond(found, run.machine)) if line.startswith("# note: "))
    assert "figure exceeds the wire: 1 row, e.g. all_reduce world 16MiB at 2 times the limit of its links" in note


@pytest.mark.parametrize("form", ["", "--json", "--csv"])
def test_show_knows_the_limits(tmp_path: Path, form: str) -> None:
    run = star(run_of(4, 4, stop={"confidence": 0.95}))
    journal = store.create(tmp_path / "run", run)
    journal.append([answer(case(nbytes=2**24), 1e5, ranks=4, nbytes=2**24)])
    journal.close()
    said = CliRunner().invoke(group, ["show", str(tmp_path / "run"), *([form] if form else [])])
    assert said.exit_code == 0, said.output
    words = {
        "": ["wire%", "exceeds the wire"],
        "--json": ['"wire_link":"n0-s"'],
        "--csv": ["wire_us,wire_link", "n0-s"],
    }
    assert [word for word in words[form] if word not in said.output] == []


# ---- CSV and JSON -----------------------------------------------------------------------------------------


def test_csv_is_read_back() -> None:
    found = rows([answer(case(settings=(("A", "1"), ("B", "2")))), answer(case(op="barrier"))])
    read = list(csv.DictReader(io.StringIO("\n".join(csv_lines(found)))))
    assert list(read[0]) == list(Row.__struct_fields__)
    assert (read[0]["settings"], read[0]["in_place"], read[0]["between_us"]) == ("A=1 B=2", "false", "")
    assert float(read[0]["median_us"]) == found[0].median_us
    assert read[1]["busbw_gbps"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@sum", "\t=1", " =1", "=\n1"])
def test_text_in_csv_is_never_a_formula_and_a_row_is_a_line(text: str) -> None:
    lines = list(csv_lines(rows([answer(case(), status="failed", why=text)])))
    assert len(lines) == 2
    (read,) = csv.DictReader(io.StringIO("\n".join(lines)))
    assert read["why"].startswith("'")


def test_numbers_in_csv_stay_numbers() -> None:
    (read,) = csv.DictReader(io.StringIO("\n".join(csv_lines(rows([answer(case(), slowest=(-1,) * 30)])))))
    assert read["slowest"] == "-1"


def test_json() -> None:
    run = run_of()
    found = rows([answer(case(settings=(("A", "1"),))), Measurement(case=case(nbytes=8), status="hung", why="x")])
    document = json.loads(as_json(run, found))
    assert list(document) == ["schema", "run", "rows"]
    assert document["schema"] == 1
    assert document["run"]["name"] == "quick"
    assert list(document["rows"][0]) == list(Row.__struct_fields__)
    assert document["rows"][0]["median_us"] is None
    assert document["rows"][1]["settings"] == {"A": "1"}
