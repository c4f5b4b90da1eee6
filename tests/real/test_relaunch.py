"""Settings that real libraries read at the start, raced by launches; and those of Gloo, proved by its threads."""

import json
from pathlib import Path

import pytest
from ranks import COMMBENCH, MPIRUN, load, run

pytestmark = pytest.mark.real

SPEC = """
backend: mpi
collectives: all_reduce
sizes: [1KiB]
catalogue: false
trial: {max_time: 20ms, warmup: 5ms}
rounds: 4
budget: 10m
candidates:
  - {OMPI_MCA_btl: "sm,self"}
  - {OMPI_MCA_btl: "nonesuch,self"}
"""


def test_shared_memory_beats_a_default_of_tcp_and_a_crashing_candidate_is_void(tmp_path: Path) -> None:
    spec, folder = tmp_path / "btl.yaml", tmp_path / "run"
    spec.write_text(SPEC)
    ended = run([*COMMBENCH, "tune", str(spec), "-n", "2", "--out", str(folder)], 300, OMPI_MCA_btl="tcp,self")
    assert ended.code == 0, ended.err
    found = json.loads((folder / "recommendation.json").read_bytes())
    assert [rule["settings"] for rule in found["rules"]] == [[["OMPI_MCA_btl", "sm,self"]]]
    assert found["rules"][0]["gain_low"] > 0.2
    assert found["notes"][0] == "OMPI_MCA_btl=sm,self holds for a whole process, at all sizes"
    _, rows = load(folder)
    proofs = {row.proof for row in rows if row.case.settings == (("OMPI_MCA_btl", "sm,self"),)}
    assert proofs == {"OMPI_MCA_btl=sm,self in force since start"}
    void = [row for row in rows if row.case.settings == (("OMPI_MCA_btl", "nonesuch,self"),)]
    assert [row.status for row in void] == ["failed"]
    assert "ended early" in void[0].why
    assert not (folder / "trial.json").exists()


def test_inside_a_launch_it_is_refused_and_what_is_not_in_force_is_no_setting(tmp_path: Path) -> None:
    spec = tmp_path / "btl.yaml"
    spec.write_text(SPEC)
    ended = run([*MPIRUN, *COMMBENCH, "tune", str(spec), "--out", str(tmp_path / "run")])
    assert ended.code == 2
    assert "leave the launching to commbench, as in commbench tune" in ended.said[0]
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("{backend: mpi, op: all_reduce, sizes: 1KiB, settings: {OMPI_MCA_btl_tcp_sndbuf: [0, 4096]}}")
    ended = run([*COMMBENCH, "sweep", str(sweep), "-n", "2", "--out", str(tmp_path / "swept"), "--quiet"])
    _, rows = load(tmp_path / "swept")
    told = {dict(row.case.settings)["OMPI_MCA_btl_tcp_sndbuf"]: (row.status, row.proof or row.why) for row in rows}
    assert told["0"] == ("ok", "OMPI_MCA_btl_tcp_sndbuf=0 in force since start")
    assert told["4096"][0] == "skipped"
    assert "here it is 0" in told["4096"][1]


def test_gloos_threads_and_groups_are_what_was_asked_for(tmp_path: Path) -> None:
    spec = tmp_path / "gloo.yaml"
    spec.write_text(
        """
stop: {max_time: 20ms, max_samples: 5}
warmup: {max_time: 5ms}
cases:
  - backend: gloo
    op: [all_reduce, reduce, broadcast]
    in_place: true
    sizes: [4, 1MiB]
    settings: {threads: 8, groups: 3}
  - {backend: gloo, op: all_gather, sizes: 64KiB, settings: {threads: [1, 4]}}
  - {backend: gloo, op: all_gather, sizes: 64KiB, settings: {groups: 2}}
"""
    )
    run([*COMMBENCH, "sweep", str(spec), "-n", "2", "--out", str(tmp_path / "run"), "--quiet"])
    _, rows = load(tmp_path / "run")
    split = [row for row in rows if len(row.case.settings) == 2]
    assert [(row.status, row.wrong) for row in split] == [("ok", 0)] * 6
    assert {row.proof for row in split} == {"groups=3 threads=8: Gloo started 30 threads on 6 devices"}
    others = {row.case.settings[0]: (row.status, row.proof or row.why) for row in rows if len(row.case.settings) == 1}
    assert others["threads", "4"] == ("ok", "threads=4: Gloo started 6 threads on 2 devices")
    assert others["groups", "2"][0] == "skipped"
