"""Other tools' files into run folders, and out again."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from real_data import real

from commbench import store
from commbench.cli import group
from commbench.jobs.runs import load_runs, tabulate
from commbench.records import NcclLog, Workload

SAMPLES = Path(__file__).parent / "samples"
HEAD = """\
# nccl-tests version 2.17.6 nccl-headers=22803 nccl-library=22803
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 1024 maxBytes 1048576 step: 1024(factor) warmup iters: 1 iters: 20 agg iters: 1 validation: 1 graph: 0
#
# Using devices
#  Rank  0 Group  0 Pid   1000 on      {host} device  0 [0000:01:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   1001 on      {host} device  1 [0000:02:00] NVIDIA H100 80GB HBM3
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
        1024           256     float     sum      -1    10.00    0.10    0.10       0    10.00    0.10    0.10       0
     1048576        262144     float     sum      -1   {time}    {rate}    {rate}       0   {time}    {rate}    {rate}       0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 5.2
#
"""  # noqa: E501


def log(time: float = 100.0, host: str = "node-1") -> str:
    return HEAD.format(time=f"{time:.2f}", rate=f"{1048.576 / time:.2f}", host=host)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(one) for one in arguments])


def put(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.log").write_text(text)
    return folder


def test_one_file_becomes_the_run_folder(tmp_path: Path) -> None:
    source = put(tmp_path / "logs", old=log()) / "old.log"
    done = run("import", source, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "nccl-tests 2.17.6, 4 measurements of 2 ranks on 1 host" in done.output
    kept, measurements = store.load(tmp_path / "out")
    assert kept.origin is not None
    assert (kept.origin.path, kept.origin.tool, kept.origin.unread) == (str(source), "nccl-tests 2.17.6", 0)
    assert kept.origin.results == {"Out of bounds values": "0 OK", "Avg bus bandwidth": "5.2"}
    assert [(m.nbytes, m.case.in_place, m.seconds, m.kind, m.calls) for m in measurements][:2] == [
        (1024, False, (1e-5,), "mean", 20),
        (1024, True, (1e-5,), "mean", 20),
    ]
    again = run("import", source, "--out", tmp_path / "out")
    assert again.exit_code != 0
    assert len(store.load(tmp_path / "out")[1]) == 4


def test_several_files_become_folders_whatever_they_are_called(tmp_path: Path) -> None:
    source = put(tmp_path / "logs", a=log(), b=log(host="other"))
    (source / "below").mkdir()
    (source / "below" / "a.log").write_text(log(120.0))
    (source / "letter").write_text("Dear all\n")
    done = run("import", source, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert [Path(one["folder"]).name for one in told["runs"]] == ["a", "b", "a-2"]
    assert [one["ranks"] for one in told["runs"]] == [2, 2, 2]
    assert len(told["refused"]) == 1
    assert len(load_runs(tmp_path / "out")) == 3


def test_two_runs_of_one_world_in_a_file_are_launches(tmp_path: Path) -> None:
    source = put(tmp_path / "logs", twice=log(100.0) + log(110.0)) / "twice.log"
    (loaded,) = load_runs(source)
    (row,) = [row for row in tabulate(loaded.run, loaded.measurements) if row.nbytes == 2**20 and row.in_place]
    assert (row.launches, row.kind, row.median_us) == (2, "mean", 105.0)
    assert row.ci_low_us is not None
    other = put(tmp_path / "more", hosts=log(100.0) + log(110.0, host="other")) / "hosts.log"
    assert [one.run.machine.hosts[0].name for one in load_runs(other)] == ["node-1", "other"]


def test_what_could_not_be_read_is_kept_and_told(tmp_path: Path) -> None:
    source = put(tmp_path / "logs", torn=log().replace("    10.00    0.10", "    1o.00    0.10", 1)) / "torn.log"
    done = run("import", source, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert f"{source}:12: " in done.stderr
    assert f"{source}:12: " in (tmp_path / "out/unread.txt").read_text()
    assert "CB-UNREAD" in run("show", tmp_path / "out").output


def test_nothing_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear all\n")
    done = run("import", tmp_path / "letter", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "nothing was read" in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_command_takes_the_file_itself(tmp_path: Path) -> None:
    source = put(tmp_path / "logs", old=log(100.0), new=log(150.0))
    shown = run("show", source / "old.log", "--expect", "aws-p5")
    assert shown.exit_code == 0, shown.output
    assert "imported clock" in shown.output
    assert "orientation" in shown.output or "no published figure" in shown.output
    assert run("plot", source / "old.log", source / "new.log", "-o", tmp_path / "p.svg").exit_code == 0
    asked = run("query", source, "SELECT count(*) AS n, max(busbw_gbps) AS best FROM rows", "--json")
    assert json.loads(asked.output) == [{"n": 8, "best": pytest.approx(10.48576)}]
    compared = run("compare", source / "old.log", source / "new.log")
    assert compared.exit_code == 3
    assert "one launch on each side" in " ".join(compared.output.split()).lower()


def exported(tmp_path: Path, source: Path, ending: str) -> Path:
    done = run("export", source, "-o", tmp_path / f"out{ending}")
    assert done.exit_code == 0, done.output
    return tmp_path / f"out{ending}"


@pytest.mark.parametrize("ending", [".txt", ".json"])
def test_what_is_exported_in_nccl_tests_format_is_read_again(tmp_path: Path, ending: str) -> None:
    source = put(tmp_path / "logs", old=log()) / "old.log"
    (before,) = load_runs(source)
    (after,) = load_runs(exported(tmp_path, source, ending))

    def figures(loaded: Any) -> list[tuple[Any, ...]]:
        return [
            (m.case.op, m.nbytes, m.case.dtype, m.case.in_place, m.ranks, m.wrong, pytest.approx(m.seconds[0]))
            for m in loaded.measurements
        ]

    assert figures(after) == figures(before)


def test_parquet_and_csv_hold_the_rows(tmp_path: Path) -> None:
    import duckdb

    source = put(tmp_path / "logs", old=log(host="=cmd()")) / "old.log"
    parquet = exported(tmp_path, source, ".parquet")
    assert duckdb.sql(f"SELECT count(*), max(nbytes) FROM '{parquet}'").fetchall() == [(4, 2**20)]
    lines = exported(tmp_path, source, ".csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("run,created,op,backend,nbytes")


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "logs", old=log()) / "old.log"
    assert "unknown ending" in str(run("export", source, "-o", tmp_path / "x.xlsx").exception)


def test_traces_of_one_folder_are_one_job(tmp_path: Path) -> None:
    (loaded,) = load_runs(real("trace/dlrm-v100-8ranks"))
    (job,) = loaded.parts
    assert isinstance(job, Workload)
    assert [rank.rank for rank in job.ranks] == list(range(8))
    assert loaded.run.name == "dlrm-v100-8ranks"


def test_a_log_of_nccl_around_a_table_belongs_to_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("import", real("nccl-log/h100-g2-auto-tuning.log"), "--out", out).exit_code == 0
    (loaded,) = load_runs(out)
    assert len(loaded.measurements) == 12
    assert [type(part) for part in loaded.parts] == [NcclLog]
