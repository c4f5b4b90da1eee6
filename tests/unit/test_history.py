"""Many runs over time: what differs between them, and when their times changed."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from commbench import store
from commbench.cli.compare import command
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.report import comparison as report
from commbench.stats.history import differences, history

TRIES = int(os.environ.get("COMMBENCH_TRIES", "60"))
SIZES = tuple(2**k for k in range(10, 30))


def run(day: int = 1, hosts: tuple[Host, ...] = (Host(name="a"),), **facts: str) -> Run:
    machine = Machine(hosts=hosts, host_of=(0,), launcher="mpirun", facts=facts, environment={"NCCL_ALGO": "Ring"})
    return Run(
        format=1,
        name=f"day{day}",
        created=f"2026-03-{day:02}T08:00:00+00:00",
        commbench="1",
        seed=day,
        spec={"name": f"day{day}", "stop": {"ci": 0.05}},
        machine=machine,
    )


def runs(logs: np.ndarray, upgrade: int = 99) -> list[tuple[Run, list[Measurement]]]:
    """A run a day; rows x runs of log times."""
    return [
        (
            run(day, nccl="2.18.3" if day <= upgrade else "2.19.3"),
            [
                Measurement(
                    case=Case(op="all_reduce", backend="nccl", nbytes=nbytes),
                    ranks=8,
                    nbytes=nbytes,
                    seconds=(1e-4 * float(np.exp(log)),),
                    kind="mean",
                )
                for nbytes, log in zip(SIZES, column, strict=False)
                if not np.isnan(log)
            ],
        )
        for day, column in enumerate(logs.T, 1)
    ]


def noise(rng: np.random.Generator, rows: int = 20, days: int = 20, sd: float = 0.02) -> np.ndarray:
    """Half of it is that of the day."""
    return sd * np.sqrt(0.5) * (rng.normal(size=(rows, days)) + rng.normal(size=(1, days)))


# ---- what differs -----------------------------------------------------------------------------------------


def test_differences_are_named_with_both_values() -> None:
    base, new = run(1, driver="535", nccl="2.18.3"), run(2, driver="535", nccl="2.19.3", kernel="6.1")
    assert [tuple(one) for one in differences([base], [new])] == [
        ("nccl", "2.18.3", "2.19.3"),
        ("kernel", "unset", "6.1"),
    ]


def test_what_is_incidental_is_no_difference() -> None:
    assert differences([run(1)], [run(2)]) == []


def test_differences_of_settings_specs_hosts_and_versions() -> None:
    base = run(1)
    machine = msgspec.structs.replace(
        base.machine, environment={}, hidden=("NCCL_SECRET",), hosts=(Host(name="b", differs={"gpu": "H200"}),)
    )
    new = msgspec.structs.replace(base, machine=machine, commbench="2", spec={"stop": {"ci": 0.1}})
    found = {one.name: (one.base, one.new) for one in differences([base], [new])}
    assert found == {
        "NCCL_ALGO": ("Ring", "unset"),
        "NCCL_SECRET": ("unset", "set, hidden"),
        "b: gpu": ("unset", "H200"),
        "hosts": ("a", "b"),
        "commbench": ("1", "2"),
        "spec stop.ci": ("0.05", "0.1"),
    }


def test_several_runs_a_side() -> None:
    base = [run(1, nccl="1"), run(2, nccl="2")]
    assert differences(base, [run(3, nccl="2"), run(4, nccl="1")]) == []
    (one,) = differences(base, [run(3, nccl="2")])
    assert tuple(one) == ("nccl", "1 | 2", "2")


# ---- when it changed --------------------------------------------------------------------------------------


def test_noise_is_rarely_called_a_change() -> None:
    """5 % of histories, and what chance adds; without a minimum effect."""
    rng = np.random.default_rng(5)
    found = sum(bool(history(runs(noise(rng, rows=8, days=12)), min_effect=1e-9, seed=k).changes) for k in range(TRIES))
    assert found <= 0.05 * TRIES + 3 * np.sqrt(0.05 * 0.95 * TRIES)


@pytest.mark.parametrize("at", [3, 10, 17])
def test_a_step_of_ten_percent_is_found_at_its_date(at: int) -> None:
    rng = np.random.default_rng(at)
    logs = noise(rng, sd=0.01)
    logs[:14, at:] += np.log(1.1)
    found = history(runs(logs, upgrade=at))
    (change,) = found.changes
    assert change.after == at
    assert {step.question.nbytes for step in change.steps} == set(SIZES[:14])
    assert np.median([step.ratio for step in change.steps]) == pytest.approx(1.1, abs=0.02)
    assert [tuple(one) for one in change.unlike] == [("nccl", "2.18.3", "2.19.3")]
    assert found.code == 1
    text = "\n".join(report.history_text(found))
    assert text.startswith("Slower since the last change: 14 of 20 rows")
    assert f"Between 2026-03-{at:02} 08:00 (day{at}) and 2026-03-{at + 1:02}" in text
    assert "# differs: nccl 2.18.3 -> 2.19.3" in text


def test_slower_then_mended_is_two_changes_and_no_complaint() -> None:
    logs = noise(np.random.default_rng(1), days=30, sd=0.005)
    logs[:, 10:20] += np.log(1.2)
    found = history(runs(logs))
    assert [change.after for change in found.changes] == [10, 20]
    assert [change.steps[0].ratio > 1 for change in found.changes] == [True, False]
    assert found.code == 0


def test_a_change_below_the_minimum_effect_is_none() -> None:
    logs = noise(np.random.default_rng(1), sd=0.001)
    logs[:, 10:] += np.log(1.02)
    assert history(runs(logs)).changes == ()
    assert len(history(runs(logs), min_effect=0.01).changes) == 1


def test_one_slow_run_is_no_change() -> None:
    logs = noise(np.random.default_rng(1), sd=0.005)
    logs[:, 10] += np.log(1.5)
    assert history(runs(logs)).changes == ()


def test_too_few_runs() -> None:
    found = history(runs(noise(np.random.default_rng(1), days=8)))
    assert (found.code, found.rows, found.short) == (3, (), 20)
    assert next(iter(report.history_text(found))).startswith("Too few runs")
    assert history([]).code == 3


@pytest.mark.parametrize(("days", "at"), [(9, 4), (9, 5), (60, 57)])
def test_the_shortest_history_and_the_latest_change(days: int, at: int) -> None:
    logs = noise(np.random.default_rng(days), rows=5, days=days, sd=0.005)
    logs[:, at:] += np.log(1.2)
    assert [change.after for change in history(runs(logs)).changes] == [at]


def test_rows_that_some_runs_lack() -> None:
    logs = noise(np.random.default_rng(1), sd=0.005)
    logs[:, 12:] += np.log(1.2)
    logs[3, ::3] = np.nan
    logs[4, :15] = np.nan
    found = history(runs(logs))
    assert (found.short, len(found.rows)) == (1, 19)
    assert [change.after for change in found.changes] == [12]


def test_command(tmp_path: Path) -> None:
    logs = noise(np.random.default_rng(1), rows=3, sd=0.005)
    logs[:, 12:] += np.log(1.2)
    for k, (one, measurements) in enumerate(reversed(runs(logs))):  # their dates count, and not their names
        journal = store.create(tmp_path / "runs" / f"{k:02}", one)
        journal.append(measurements)
        journal.close()
    done = CliRunner().invoke(command, ["--history", str(tmp_path / "runs"), "--json"])
    assert done.exit_code == 1, done.output
    told = json.loads(done.output)
    (change,) = told["changes"]
    assert (change["before"]["name"], change["after"]["name"]) == ("day12", "day13")
    assert len(change["rows"]) == 3
