"""The picture: what it shows is tested as numbers (lines), that it is drawn as a file (plots)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from commbench.collectives import COLLECTIVES, moved
from commbench.errors import CommbenchError, SpecError
from commbench.layouts import expand
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.report.lines import MOST_BARS, MOST_FACETS, MOST_LINES, Picture, picture
from commbench.report.plots import plot
from commbench.stats.rows import Row, rows

SIZES = tuple(8 << k for k in range(12))
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


def run_of(ranks: int = 2, hosts: int = 1, name: str = "quick", created: str = "2026-10-04T12:30:00+00:00") -> Run:
    host_of = tuple(rank * hosts // ranks for rank in range(ranks))
    machine = Machine(hosts=tuple(Host(name=f"n{k}") for k in range(hosts)), host_of=host_of, launcher="mpirun")
    return Run(format=1, name=name, created=created, commbench="0.1.0", seed=1, spec={}, machine=machine)


def answers(run: Run, sizes: Sequence[int] = SIZES, count: int = 30, **fields: Any) -> list[Measurement]:
    """Every group answers every size; group k is k times slower than group 0."""
    out = []
    clock = fields.pop("clock", "host")
    for nbytes in sizes:
        case = Case(**{"op": "all_reduce", "backend": "gloo", "nbytes": nbytes, **fields})
        for k, group in enumerate(expand(case.groups, run.machine.host_of)):
            wire = moved(case.op, nbytes, case.dtype, len(group))
            seconds = tuple((k + 1) * (5e-6 + wire / 1e9) * (1 + n * 17 % 30 / 1000) for n in range(count))
            out.append(
                Measurement(case=case, group=k, ranks=len(group), nbytes=wire, seconds=seconds, clock=clock, wrong=0)
            )
    return out


def shown(*runs: tuple[Run, list[Measurement]]) -> Picture:
    drawn = picture([(run, rows(measured)) for run, measured in runs])
    assert drawn is not None
    return drawn


def labels(drawn: Picture) -> list[list[str]]:
    return [[line.label for line in facet.lines] for facet in drawn.facets]


# ---- what is shown ----------------------------------------------------------------------------------------


def test_one_series() -> None:
    run = run_of()
    found = rows(answers(run))
    drawn = picture([(run, found)])
    assert drawn is not None
    assert drawn.title == "quick"
    assert drawn.subtitle == (
        "2 ranks on 1 host · all_reduce · gloo · float32 · sum · throughput mode · out of place · world"
        " · 2026-10-04 12:30"
    )
    assert drawn.caption == "band: 95 % interval of the median"
    assert labels(drawn) == [["all_reduce · gloo"]]
    points = drawn.facets[0].lines[0].points
    assert [(p.nbytes, p.time, p.time_band, p.rate) for p in points] == [
        (row.nbytes, row.median_us, (row.ci_low_us, row.ci_high_us), row.busbw_gbps) for row in found
    ]
    for point in points:
        assert point.rate is not None
        assert point.rate_band is not None
        assert point.rate_band[0] <= point.rate <= point.rate_band[1]


def test_only_what_differs_is_in_the_legend() -> None:
    run = run_of()
    ring = (("NCCL_ALGO", "Ring"),)
    drawn = shown((run, answers(run) + answers(run, settings=ring)))
    assert labels(drawn) == [["no settings", "NCCL_ALGO=Ring"]]
    drawn = shown((run, answers(run) + answers(run, op="all_gather", backend="mpi")))
    assert labels(drawn) == [["all_reduce · gloo", "all_gather · mpi"]]


def test_modes_are_never_in_one_panel() -> None:
    run = run_of()
    drawn = shown((run, answers(run) + answers(run, mode="latency")))
    assert [facet.title for facet in drawn.facets] == ["latency mode", "throughput mode"]


def test_many_series_are_split_by_collective_and_then_by_number() -> None:
    run = run_of()
    many = [m for op in COLLECTIVES for backend in ("gloo", "mpi") for m in answers(run, op=op, backend=backend)]
    drawn = shown((run, many))
    assert [facet.title for facet in drawn.facets] == sorted(COLLECTIVES)
    assert all(names == ["gloo", "mpi"] for names in labels(drawn))
    many = [m for k in range(30) for m in answers(run, SIZES[:2], settings=(("A", f"{k:02}"),))]
    assert [len(facet.lines) for facet in shown((run, many)).facets] == [10, 10, 10]


def test_what_is_left_out_is_told() -> None:
    run = run_of()
    count = MOST_LINES * MOST_FACETS + 3
    drawn = shown((run, [m for k in range(count) for m in answers(run, SIZES[:2], settings=(("A", str(k)),))]))
    drawn_lines = sum(len(facet.lines) for facet in drawn.facets)
    assert f"{count - drawn_lines} more series are not drawn" in drawn.caption


def test_several_groups_are_a_line_with_a_band() -> None:
    run = run_of(8, 4)
    drawn = shown((run, answers(run, groups="node")))
    (line,) = drawn.facets[0].lines
    point = line.points[0]
    assert point.time_band == pytest.approx((point.time / 2.5, point.time / 2.5 * 4))
    assert "from the fastest to the slowest" in drawn.caption


def test_one_size_is_bars_one_a_group() -> None:
    run = run_of(4, 2)
    measured = [m for k in range(3) for m in answers(run, [1024], op="send_recv", groups=f"pairs/{k}")]
    drawn = shown((run, measured))
    assert drawn.facets[0].as_bars
    assert sorted(labels(drawn)[0]) == ["pairs 0,1", "pairs 0,2", "pairs 0,3", "pairs 1,2", "pairs 1,3", "pairs 2,3"]


def test_too_many_bars_become_one() -> None:
    run = run_of(2 * MOST_BARS + 2, 2)
    drawn = shown((run, answers(run, [1024], op="send_recv", groups="pairs/0")))
    assert labels(drawn) == [["send_recv · gloo"]]


def test_simulated_runs_say_so_and_runs_of_one_name_differ() -> None:
    first, second = run_of(), run_of(created="2026-10-05T12:30:00+00:00")
    drawn = shown((first, answers(first, clock="simulated")), (second, answers(second)))
    assert drawn.title == "quick 2026-10-04 12:30, quick 2026-10-05 12:30: SIMULATED, no network was measured"
    assert len(set(labels(drawn)[0])) == 2


def test_sizes_that_were_rounded_to_the_same_are_one_point() -> None:
    run = run_of()
    drawn = shown((run, answers(run, [1000, 1001, 1024])))
    assert [point.nbytes for point in drawn.facets[0].lines[0].points] == [1000, 1024]


# ---- the file ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick() -> list[tuple[Run, list[Row]]]:
    run = run_of()
    return [(run, rows(answers(run) + answers(run, op="barrier")))]


@pytest.mark.parametrize("form", MAGIC)
def test_the_format_follows_from_the_suffix(tmp_path: Path, quick: list[tuple[Run, list[Row]]], form: str) -> None:
    first, second = tmp_path / f"a.{form}", tmp_path / f"b.{form.upper()}"
    plot(quick, first)
    plot(quick, second)
    assert first.read_bytes().startswith(MAGIC[form])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(os.listdir(tmp_path)) == [first.name, second.name]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.pngg", ".png"])
def test_other_formats_are_refused(tmp_path: Path, quick: list[tuple[Run, list[Row]]], name: str) -> None:
    with pytest.raises(SpecError, match="known: pdf, png, svg"):
        plot(quick, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    skipped = Measurement(case=Case(op="all_reduce", backend="nccl", nbytes=8), status="skipped", why="no GPU")
    for found in ([], rows([skipped])):
        with pytest.raises(CommbenchError, match="not one row of quick is ok"):
            plot([(run_of(), found)], tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, quick: list[tuple[Run, list[Row]]]) -> None:
    with pytest.raises(CommbenchError, match="cannot be written: No such file"):
        plot(quick, tmp_path / "missing" / "a.png")


def test_an_old_picture_stays_where_the_new_one_fails(tmp_path: Path, quick: list[tuple[Run, list[Row]]]) -> None:
    path = tmp_path / "a.png"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(CommbenchError, match="cannot be written"):
        plot(quick, path)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "barrier"},
        {"sizes": [1024]},
        {"sizes": [1000, 1024]},
        {"sizes": [8, 2**33]},
        {"count": 3},
        {"groups": "node"},
        {"groups": "node", "sizes": [1024]},
        {"settings": (("A$B", "$x_{" * 60),)},
    ],
    ids=str,
)
def test_whatever_was_measured_is_drawn(tmp_path: Path, fields: dict[str, Any]) -> None:
    for ranks in (1, 4):
        run = run_of(ranks, min(ranks, 2), name="a $b$ " * 30)
        found = rows(answers(run, **fields) + answers(run, **{**fields, "backend": "mpi"}))
        plot([(run, found)], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 5000
