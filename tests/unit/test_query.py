"""SQL over runs: what the tables hold, and that nothing else can be reached."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from commbench import store
from commbench.cli.query import command
from commbench.errors import CommbenchError, FolderError, SpecError
from commbench.jobs import query
from commbench.records import Case, Host, Machine, Measurement, Run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "results/example-quick")
Keep = Callable[..., Path]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Writes a run folder."""

    def write(name: str, seconds: float = 1e-3, host: str = "h0") -> Path:
        machine = Machine(hosts=(Host(name=host),), host_of=(0, 0), launcher="x", facts={"os": host})
        run = Run(format=store.FORMAT, name=name, created="2026-01-02", commbench="0", seed=0, spec={}, machine=machine)
        journal = store.create(tmp_path / name, run)
        journal.append(
            [
                Measurement(
                    case=Case(op="all_reduce", backend="gloo", nbytes=nbytes),
                    ranks=2,
                    nbytes=nbytes,
                    seconds=(seconds, 2 * seconds, 3 * seconds),
                    skew=(1e-6, 2e-6, 3e-6),
                    slowest=(0, 1, 1),
                    wrong=0,
                )
                for nbytes in (1000, 1_000_000)
            ]
        )
        journal.close()
        return tmp_path / name

    return write


def ask(sql: str, *places: str | Path) -> list[tuple[object, ...]]:
    return query.query([str(place) for place in places or (EXAMPLE,)], sql).rows


def test_rows_are_those_of_show(keep: Keep) -> None:
    folder = keep("a")
    sql = "SELECT nbytes, median_us, busbw_gbps, p95_us, in_place, slowest, settings FROM rows ORDER BY nbytes"
    assert ask(sql, folder) == [
        (1000, 2000.0, 1000 / 2e-3 / 1e9, None, False, 1, "{}"),
        (1000000, 2000.0, 0.5, None, False, 1, "{}"),
    ]


def test_samples_are_all_there(keep: Keep) -> None:
    sql = "SELECT count(*), sum(seconds), max(skew_seconds), max(sample) FROM samples WHERE nbytes = 1000"
    ((count, seconds, skew, last),) = ask(sql, keep("a"))
    assert (count, skew, last) == (3, 3e-6, 2)
    assert seconds == pytest.approx(6e-3)


def test_runs_side_by_side(keep: Keep, tmp_path: Path) -> None:
    keep("a", 1e-3)
    keep("b", 2e-3)
    sql = "SELECT run, min(median_us) FROM rows GROUP BY run ORDER BY run"
    assert ask(sql, tmp_path) == [(f"{tmp_path}/a", 2000.0), (f"{tmp_path}/b", 4000.0)]
    assert ask("SELECT count(DISTINCT value) FROM facts WHERE name = 'os'", tmp_path) == [(1,)]
    assert ask("SELECT sum(measurements) FROM runs", tmp_path / "a", tmp_path / "b") == [(4,)]


def test_an_address_is_read_by_duckdb(keep: Keep, tmp_path: Path) -> None:
    keep("a")
    keep("b")
    assert ask("SELECT count(*) FROM rows", f"file://{tmp_path}") == [(4,)]
    with pytest.raises(FolderError, match="file:///gone"):
        ask("SELECT 1 FROM rows", "file:///gone")


@pytest.mark.parametrize(
    "sql",
    [
        "COPY rows TO '{0}/stolen.csv'",
        "INSERT INTO rows SELECT * FROM rows",
        "DROP TABLE rows",
        "ATTACH '{0}/x.db'",
        "SELECT 1; SELECT 2",
        "SET enable_external_access = true",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('{0}/a/run.json')",
        "SELECT * FROM rowz",
        "SELEC",
        "",
    ],
)
def test_nothing_but_reading(keep: Keep, tmp_path: Path, sql: str) -> None:
    folder = keep("a")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(SpecError, match="query: "):
        ask(sql.format(tmp_path), folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_three_forms(keep: Keep) -> None:
    folder = str(keep("=cmd|' /C calc'!A0\x1b[31m", host="@evil"))
    runner = CliRunner()
    sql = "SELECT name, ranks, NULL AS nothing, launcher FROM runs"
    text = runner.invoke(command, [folder, sql]).output
    assert "\x1b" not in text
    assert text.splitlines()[0].split() == ["name", "ranks", "nothing", "launcher"]
    assert text.splitlines()[1].split()[-3:] == ["2", "-", "x"]
    (title, line) = csv.reader(runner.invoke(command, [folder, sql, "--csv"]).output.splitlines())
    assert title == ["name", "ranks", "nothing", "launcher"]
    assert line[0].startswith("'=cmd")
    assert line[1:] == ["2", "", "x"]
    (told,) = json.loads(runner.invoke(command, [folder, sql, "--json"]).output)
    assert (told["ranks"], told["nothing"]) == (2, None)


def test_a_place_without_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear all\n")
    for place in (tmp_path, tmp_path / "gone", tmp_path / "letter.txt"):
        with pytest.raises(CommbenchError, match=str(place)):
            ask("SELECT 1 FROM rows", place)
