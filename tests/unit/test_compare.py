"""Two sets of runs: what is compared with what, what is said of it, and how often that is wrong."""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import store
from commbench.cli.compare import command
from commbench.errors import CommbenchError, SpecError
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.report import comparison as report
from commbench.report.comparison_plot import plot
from commbench.stats.compare import Comparison, Difference, compare, verdicts
from commbench.stats.ratios import log_ratios, table_ratios

PAIRS = int(os.environ.get("COMMBENCH_PAIRS", "300"))
Side = list[tuple[Run, Sequence[Measurement]]]


def run(name: str = "sweep", hosts: Sequence[str] = ("a", "b"), **facts: str) -> Run:
    machine = Machine(
        hosts=tuple(Host(name=host) for host in hosts),
        host_of=tuple(range(len(hosts))),
        launcher="mpirun",
        facts=facts,
    )
    return Run(
        format=1,
        name=name,
        created="2026-03-01T08:00:00+00:00",
        commbench="1",
        seed=0,
        spec={"stop": {"confidence": 0.95}},
        machine=machine,
    )


def answers(
    time: float = 100e-6,
    *,
    sizes: Iterable[int] = (1024, 2048, 4096),
    launches: int = 5,
    seed: int = 0,
    sd: float = 0.005,
    case: dict[str, Any] | None = None,
    **fields: Any,
) -> list[Measurement]:
    """Launches of every size; each has 30 samples."""
    rng = np.random.default_rng(seed)
    return [
        Measurement(
            **{
                "case": Case(**{"op": "all_reduce", "backend": "gloo", "nbytes": nbytes} | (case or {})),
                "ranks": 2,
                "launch": launch,
                "nbytes": nbytes,
                "seconds": tuple((time * math.exp(rng.normal(0, sd)) * np.exp(rng.normal(0, sd, 30))).tolist()),
            }
            | fields
        )
        for nbytes in sizes
        for launch in range(launches)
    ]


def side(*each: list[Measurement], **facts: str) -> Side:
    return [(run(**facts), measurements) for measurements in each]


def words(found: Comparison) -> list[str]:
    return [row.verdict for row in found.rows]


def only(found: Comparison) -> Difference:
    (row,) = found.rows
    return row


# ---- verdicts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "word", "code"), [(1.0, "same", 0), (1.25, "slower", 1), (0.8, "faster", 0)])
def test_what_is_found_where_the_truth_is_plain(factor: float, word: str, code: int) -> None:
    found = compare(side(answers()), side(answers(factor * 100e-6, seed=1)))
    assert words(found) == [word] * 3
    assert found.code == code
    assert found.together is not None
    assert found.together.verdict == word
    for row in found.rows:
        assert row.ratio == pytest.approx(factor, rel=0.02)
        assert row.low is not None
        assert row.high is not None
        assert row.low < row.ratio < row.high


def test_a_change_below_the_minimum_effect_is_none() -> None:
    new = side(answers(102e-6, seed=1, launches=20))
    assert words(compare(side(answers(launches=20)), new)) == ["same"] * 3
    assert words(compare(side(answers(launches=20)), new, min_effect=0.001)) == ["slower"] * 3


def test_what_cannot_be_slower_by_the_minimum_effect_is_no_reason_to_doubt() -> None:
    found = compare(side(answers(sd=0.02)), side(answers(92e-6, seed=1, sd=0.02)), min_effect=0.08)
    assert "unsure" in words(found)
    assert all(row.high is not None and row.high < 1.08 for row in found.rows)
    assert found.code == 0


def test_one_launch_on_each_side_decides_nothing_however_large_the_ratio() -> None:
    found = compare(side(answers(launches=1)), side(answers(1e-3, launches=1)))
    assert words(found) == ["unsure"] * 3
    assert found.together is None
    assert found.code == 3
    assert all(row.ratio == pytest.approx(10, rel=0.1) and row.basis == "one launch" for row in found.rows)
    assert "One launch on each side in 3 rows" in " ".join(report.text(found, [run()], [run()]))


def test_an_assumed_spread_decides_and_says_so() -> None:
    found = compare(side(answers(launches=1)), side(answers(150e-6, launches=1)), spread=0.02)
    assert words(found) == ["slower"] * 3
    assert "# assumed, not measured: times vary by 2 % from launch to launch" in report.text(found, [run()], [run()])
    wide = compare(side(answers(launches=1)), side(answers(150e-6, launches=1)), spread=0.3)
    assert words(wide) == ["unsure"] * 3


def test_one_launch_against_several_is_decided_under_the_spread_of_these() -> None:
    found = compare(side(answers()), side(answers(150e-6, launches=1)))
    assert words(found) == ["slower"] * 3
    assert "NEW has one or two launches in 3 rows: it is taken to vary as BASE does" in found.notes


def test_runs_of_a_side_are_pooled_as_further_launches() -> None:
    runs = [answers(launches=1, seed=k) for k in range(4)]
    found = compare(side(*runs), side(answers(150e-6)))
    assert {(row.base_launches, row.new_launches) for row in found.rows} == {(4, 5)}
    assert words(found) == ["slower"] * 3


def test_of_several_answers_the_last_counts_and_control_does_not() -> None:
    twice = [*answers(9.0, sizes=[8]), *answers(sizes=[8]), *answers(9.0, sizes=[8], control=True)]
    assert only(compare(side(twice), side(answers(sizes=[8])))).verdict == "same"


# ---- what is compared with what ---------------------------------------------------------------------------


def test_modes_are_never_compared() -> None:
    found = compare(side(answers(case={"mode": "latency"})), side(answers()))
    assert found.rows == ()
    assert found.code == 3
    assert found.matched.near == {("mode",): 3}
    assert "latency and throughput are never compared" in " ".join(report.text(found, [run()], [run()]))


def test_rows_of_one_side_are_listed() -> None:
    found = compare(side(answers(sizes=[8, 16])), side(answers(sizes=[16, 32, 64])))
    text = list(report.text(found, [run()], [run()]))
    assert "# only in BASE: 1 row (all_reduce 8B)" in text
    assert "# only in NEW: 2 rows (all_reduce 32B to 64B)" in text
    assert len(found.rows) == 1


def test_a_setting_that_each_side_has_one_value_of_is_what_is_compared() -> None:
    both = [{"settings": (("algo", algo), ("chunk", "1"))} for algo in ("ring", "tree")]
    found = compare(side(answers(case=both[0])), side(answers(150e-6, case=both[1])))
    assert words(found) == ["slower"] * 3
    assert found.matched.differing == {"algo": ("ring", "tree")}
    swept = [*answers(case=both[0]), *answers(case=both[1])]
    found = compare(side(swept), side(answers(case=both[1])))
    assert words(found) == ["same"] * 3
    assert len(found.matched.only[0]) == 3


def test_rows_with_and_without_settings_stand_in_one_table() -> None:
    """As the trials of a search do."""
    found = compare(*([(run(), [*answers(), *answers(case={"settings": (("threads", k),)})])] for k in ("2", "2")))
    assert len(found.rows) == 6
    assert {row.question.settings for row in found.rows} == {(), (("threads", "2"),)}


def test_other_hosts_or_ranks_are_other_questions_unless_ignored() -> None:
    four = [(run(hosts=("a", "b", "c", "d")), answers(ranks=4))]
    found = compare(side(answers()), four)
    assert found.rows == ()
    assert found.matched.near == {("ranks", "hosts", "world"): 3}
    assert words(compare(side(answers()), four, ignore=["ranks", "hosts", "world"])) == ["same"] * 3


def test_what_becomes_ambiguous_without_a_field_is_not_compared() -> None:
    both = [*answers(), *answers(case={"dtype": "float16"})]
    found = compare(side(both), side(answers()), ignore=["dtype"])
    assert {row.why for row in found.rows} == {"BASE has 2 answers (dtype float32, float16)"}
    assert found.code == 3


def test_a_mean_is_compared_with_the_mean_of_samples_and_nothing_else() -> None:
    mean = answers(kind="mean", seconds=(100e-6,))
    found = compare(side(mean), side(answers()))
    assert {row.statistic for row in found.rows} == {"mean"}
    assert words(found) == ["same"] * 3
    least = answers(kind="min", seconds=(100e-6,))
    found = compare(side(mean), side(least))
    assert {row.why for row in found.rows} == {"BASE tells mean, NEW min: nothing that can be compared"}
    assert found.code == 3
    told = answers(kind="min", seconds=(90e-6,), told={"mean": 100e-6})
    assert {row.statistic for row in compare(side(mean), side(told)).rows} == {"mean"}


def test_a_model_is_never_compared_with_a_network() -> None:
    found = compare(side(answers(clock="simulated")), side(answers()))
    assert found.rows == ()
    assert ("simulated",) in found.matched.near


def test_another_clock_is_said() -> None:
    found = compare(side(answers(clock="device")), side(answers(clock="host")))
    assert any("timed by device clock, NEW by host" in note for note in found.notes)


# ---- what is not ok ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "new", "word", "code"),
    [
        ("ok", "failed", "broken", 1),
        ("ok", "hung", "broken", 1),
        ("ok", "skipped", "unsure", 3),
        ("failed", "ok", "mended", 0),
        ("failed", "failed", "unsure", 3),
    ],
)
def test_what_failed_is_never_passed_over(base: str, new: str, word: str, code: int) -> None:
    def made(status: str) -> Side:
        fine = {"seconds": (1e-4,) * 9} if status == "ok" else {"seconds": (), "nbytes": 0, "why": "no luck"}
        return side(answers(sizes=[1000], status=status, **fine))

    found = compare(made(base), made(new))
    assert only(found).verdict == word
    assert found.code == code
    assert "no luck" in (only(found).why or "")


def test_one_failed_launch_of_five_is_broken() -> None:
    new = answers(sizes=[8])
    new[3] = Measurement(case=new[3].case, ranks=2, launch=3, nbytes=8, status="failed", why="3 wrong")
    row = only(compare(side(answers(sizes=[8])), side(new)))
    assert row.verdict == "broken"
    assert (row.new_launches, row.why) == (4, "NEW failed: 3 wrong")


@pytest.mark.parametrize("seconds", [(0.0,) * 9, (-1.0,) * 9, (math.nan,) * 9, (math.inf,) * 9])
def test_a_time_that_is_none_gives_no_ratio(seconds: tuple[float, ...]) -> None:
    found = compare(side(answers(sizes=[8], seconds=seconds)), side(answers(sizes=[8])))
    assert (only(found).ratio, only(found).verdict) == (None, "unsure")
    assert found.code == 3


def test_nothing_at_all() -> None:
    found = compare(side([]), side([]))
    assert found.code == 3
    assert next(iter(report.text(found, [run()], [run()]))).startswith("Nothing can be compared")


# ---- how often it is wrong --------------------------------------------------------------------------------


def study() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "comparison.py"
    spec = importlib.util.spec_from_file_location("comparison_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["launch sd 1 %", "launch sd 3 %", "sd 2 %, 3 launches"])
def test_tables_of_equal_sides_are_rarely_called_different(name: str) -> None:
    """As many as 5 % and chance allow; without a minimum effect, so that the intervals alone must hold."""
    module = study()
    out = module.study(module.SETTINGS[name], PAIRS, shift=0.05, min_effect=1e-9, seed=1)
    low, _ = module.binomial_interval(out.alarms, PAIRS)
    assert low < 0.05
    assert out.alarms < 0.075


def test_a_shift_of_five_percent_is_found() -> None:
    module = study()
    out = module.study(module.SETTINGS["launch sd 1 %"], PAIRS, shift=0.05, min_effect=0.03, seed=1)
    assert out.rows >= 0.9
    assert out.tables >= 0.99
    assert out.alarms <= 0.05


def test_rows_that_move_together_are_no_further_evidence() -> None:
    """Fifty copies of a row know no more than the row."""
    rng = np.random.default_rng(3)
    base, new = rng.normal(0, 0.02, (1, 5)), rng.normal(0, 0.02, (1, 5))
    _, alone = log_ratios(base, new, tests=50)
    _, copies = log_ratios(np.repeat(base, 50, axis=0), np.repeat(new, 50, axis=0))
    assert (copies >= alone).all()


def test_rows_that_differ_help_each_other() -> None:
    rng = np.random.default_rng(3)
    base, new = rng.normal(0, 0.02, (20, 5)), rng.normal(0, 0.02, (20, 5))
    _, half = log_ratios(base, new)
    alone = [log_ratios(base[k : k + 1], new[k : k + 1], tests=20)[1][0] for k in range(20)]
    assert np.median(half) < 0.9 * np.median(alone)


floats = st.floats(-12, -2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32), floats)
def test_either_way_round_and_in_any_unit(rows: int, base: int, new: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(0, 0.1, (rows, base)), rng.normal(0.1, 0.1, (rows, new))
    ratio, half, together = table_ratios(one, other)
    swapped = table_ratios(other, one)
    np.testing.assert_allclose(swapped[0], -ratio, atol=1e-9)
    np.testing.assert_allclose(swapped[1], half, rtol=1e-6)
    np.testing.assert_allclose(swapped[2], together * [-1, 1], rtol=1e-6, atol=1e-9)
    moved = table_ratios(one + scale, other + scale)
    np.testing.assert_allclose(moved[0], ratio, atol=1e-9)
    np.testing.assert_allclose(moved[1], half, rtol=1e-6)
    assert np.isnan(half).all() == (base == new == 1)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1, 1), st.floats(0, 1) | st.just(math.nan), st.floats(0.001, 0.5))
def test_a_verdict_follows_from_the_interval_that_is_shown(ratio: float, half: float, least: float) -> None:
    (word,) = verdicts(np.array([ratio]), np.array([half]), least)
    bound = math.log1p(least)
    if word == "same":
        assert -bound <= ratio - half
        assert ratio + half <= bound
    elif word == "slower":
        assert ratio - half > 0
        assert ratio > bound
    elif word == "faster":
        assert ratio + half < 0
        assert ratio < -bound
    if math.isnan(half):
        assert word == "unsure"


def test_launches_that_some_rows_lack() -> None:
    base = np.log(np.array([[1.0, 1.01, 0.99, 1.0], [1.0, np.nan, 0.99, 1.01], [1.0, np.nan, np.nan, np.nan]]))
    new = base + math.log(1.2)
    ratio, half, together = table_ratios(base, new)
    np.testing.assert_allclose(ratio, math.log(1.2))
    assert np.isnan(half).tolist() == [False, False, True]
    assert np.isnan(together).all()


# ---- what is printed --------------------------------------------------------------------------------------


def test_the_first_line_says_it_all() -> None:
    new = [*answers(sizes=[1024, 2048], seed=1), *answers(130e-6, sizes=[4096, 8192], seed=2)]
    found = compare(side(answers(sizes=[1024, 2048, 4096, 8192])), side(new))
    said = report.summary(found)
    assert said.startswith("NEW is slower in 2 of 4 rows (all_reduce 4KiB to 8KiB, 1.3")
    assert "the same in 2" in said


def test_what_differs_is_told_and_harmless() -> None:
    evil = "\x1b[31m<script>\n"
    base, new = [run(nccl="2.18.3", note="x")], [run(nccl="2.19.3", note=evil, hosts=(evil, "b"))]
    found = compare([(base[0], answers())], [(new[0], answers())])
    lines = list(report.text(found, base, new))
    assert "# differs: nccl 2.18.3 -> 2.19.3" in lines
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= 119 for line in lines)
    assert json.loads(report.as_json(found, base, new))["differs"][0]["name"] == "nccl"


def test_json_holds_everything() -> None:
    found = compare(side(answers(sizes=[8, 16])), side(answers(150e-6, sizes=[16, 32])))
    told = json.loads(report.as_json(found, [run()], [run()]))
    assert (told["schema"], told["exit_code"]) == (1, 1)
    assert told["counts"]["slower"] == 1
    (row,) = told["rows"]
    assert (row["nbytes"], row["verdict"], row["base_launches"]) == (16, "slower", 5)
    assert row["low"] < row["ratio"] < row["high"]
    assert [row["nbytes"] for row in told["only_base"]] == [8]


def test_picture(tmp_path: Path) -> None:
    new = [*answers(150e-6), *answers(case={"op": "barrier"}, launches=1)]
    found = compare(side([*answers(), *answers(case={"op": "barrier"}, launches=1)]), side(new))
    plot(found, tmp_path / "a.svg")
    plot(found, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(SpecError, match="known: pdf, png, svg"):
        plot(found, tmp_path / "a.bmp")
    with pytest.raises(CommbenchError, match="nothing to draw"):
        plot(compare(side([]), side([])), tmp_path / "a.png")


# ---- the command ------------------------------------------------------------------------------------------


def folder(path: Path, measurements: Sequence[Measurement], name: str = "sweep") -> str:
    journal = store.create(path, run(name))
    journal.append(measurements)
    journal.close()
    return str(path)


def test_command(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", answers())
    for k in range(3):
        folder(tmp_path / "new" / f"{k}", answers(150e-6, launches=2, seed=k))
    done = CliRunner().invoke(command, [base, str(tmp_path / "new"), "--out", str(tmp_path / "p.png")])
    assert done.exit_code == 1, done.output
    assert done.output.startswith("NEW is slower in 3 of 3 rows")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(command, [base, base, "--json"])
    assert (done.exit_code, json.loads(done.output)["counts"]["same"]) == (0, 3)
    done = CliRunner().invoke(command, [base, base, "--min-effect", "0.01%", "--confidence", "99%"])
    assert done.exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BASE"], "two paths"),
        (["BASE", "BASE", "BASE"], "two paths"),
        (["BASE", "BASE", "--ignore", "mode"], "cannot be left out"),
        (["BASE", "BASE", "--ignore", "dtyp"], "did you mean 'dtype'"),
        (["BASE", "BASE", "--min-effect", "3"], "must lie between"),
        (["BASE", "/nowhere"], "/nowhere"),
        (["BASE", "BASE", "-o", "x.bmp"], "known: pdf, png, svg"),
        (["BASE", "--history", "-o", "x.png"], "--history takes"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: list[str], said: str) -> None:
    base = folder(tmp_path / "base", answers())
    done = CliRunner().invoke(command, [base if word == "BASE" else word for word in arguments])
    error = done.exception
    code = error.exit_code if isinstance(error, CommbenchError) else done.exit_code
    assert code == 2
    assert said in f"{error} {done.output}"
