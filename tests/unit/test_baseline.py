"""Baselines: kept from a run that passed, compared with later runs of the same machine. And judging again, by hand."""

import json
from pathlib import Path

import msgspec
import pytest
from accepted import Made, made, slow_host, stored
from click.testing import CliRunner, Result

from commbench.accept import baseline as records
from commbench.accept.evidence import gather
from commbench.accept.judge import judge
from commbench.cli import group
from commbench.errors import CommbenchError, FolderError, SpecError
from commbench.jobs import baseline as job
from commbench.jobs.verdict import digest, judged, keep, named
from commbench.records import Case
from commbench.records.verdict import NAME, read
from commbench.spec.accept import Criterion

ASKED = (Criterion(kind="baseline", name="own", path="baseline.json", source="accepted", slowdown=0.05),)


def slower(share: float) -> Made:
    """The full scale takes this much longer."""

    def seconds(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 1 + share if case.groups == "world" else 1.0

    return made(seconds=seconds, seed=1)


def baseline_of(one: Made) -> records.Baseline:
    return records.make(one.run, gather(one.run.machine, one.rows), one.verdict.word, "0" * 64)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


@pytest.fixture(name="accepted")
def _accepted(tmp_path: Path) -> Path:
    return stored(made(), tmp_path / "accepted")


# ---- the file ---------------------------------------------------------------------------------------------


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path) -> None:
    base = baseline_of(made())
    path = tmp_path / "baseline.json"
    job.write(path, base)
    assert records.read(path) == base
    assert path.stat().st_size < 100_000
    assert {(one.op, one.where) for one in base.series} == {
        ("all_reduce", "all"),
        ("all_gather", "all"),
        ("send_recv", "in racks"),
    }
    assert base.machine["hosts"] == "8"


def test_a_long_run_makes_a_small_baseline() -> None:
    base = baseline_of(made(windows=60))
    assert max(len(one.rounds) for one in base.series) == 24
    assert max(len(samples) for one in base.series for samples in one.rounds) <= 40
    assert all(list(samples) == sorted(samples) for one in base.series for samples in one.rounds)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "is no baseline"),
        ("\0", "is no baseline"),
        ('{"format": 99}', "a newer commbench wrote it"),
    ],
)
def test_a_damaged_baseline_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(FolderError, match=says):
        records.read(path)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0], [1e400]])
def test_times_that_are_no_times_are_refused(samples: list[float], tmp_path: Path) -> None:
    plain = json.loads(records.encode(baseline_of(made())))
    plain["series"][0]["rounds"][0] = samples
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(FolderError):
        records.read(path)


# ---- comparing --------------------------------------------------------------------------------------------


def test_the_same_machine_on_another_day_is_as_fast() -> None:
    base, now = (records.series(gather(one.run.machine, one.rows)) for one in (made(), made(seed=5)))
    found = records.compare(base, now, 0.05)
    assert (found.code, found.slower, found.missing) == (0, (), ())
    assert all(0.9 < (change.effect.ratio or 0) < 1.1 for change in found.changes)


def test_what_became_slower_is_told() -> None:
    base, now = (records.series(gather(one.run.machine, one.rows)) for one in (made(), slower(0.3)))
    found = records.compare(base, now, 0.05)
    assert found.code == 1
    assert {change.series.where for change in found.slower} == {"all"}
    assert all(change.effect.ratio == pytest.approx(1.3, rel=0.05) for change in found.slower)
    assert records.compare(now, base, 0.05).code == 0  # faster is fine


def test_what_is_missing_or_hardly_measured_is_not_known() -> None:
    base = records.series(gather(made().run.machine, made().rows))
    assert records.compare(base, base[:1], 0.05).code == 3
    assert records.compare(base, (), 0.05).code == 3
    assert records.compare((), base, 0.05).code == 3
    once = tuple(msgspec.structs.replace(one, rounds=one.rounds[:1]) for one in base)
    assert records.compare(once, once, 0.05).code == 3


# ---- the criterion ----------------------------------------------------------------------------------------


def with_baseline(one: Made, base: records.Baseline | str) -> tuple[str, str, str]:
    """(word, word of the criterion, its sentence)."""
    spec = msgspec.structs.replace(one.spec, criteria=ASKED)
    verdict = judge(one.run, one.rows, one.happened, spec, {"baseline.json": base})
    return verdict.word, verdict.criteria[-1].word, verdict.criteria[-1].sentence


def test_a_run_is_judged_by_its_own_past() -> None:
    base = baseline_of(made())
    assert with_baseline(made(seed=5), base)[:2] == ("PASS", "PASS")
    word, own, said = with_baseline(slower(0.3), base)
    assert (word, own) == ("FAIL", "FAIL")
    assert "times as long as in made" in said
    word, own, said = with_baseline(made(seed=5), "baseline.json: no such file")
    assert (word, own) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "no such file" in said


def test_a_baseline_that_nobody_could_miss_proves_nothing() -> None:
    base = baseline_of(made())
    forced = msgspec.structs.replace(base, forced=True, word="FAIL")
    word, own, said = with_baseline(made(seed=5), forced)
    assert (word, own) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "ended FAIL and was kept in spite of that" in said
    assert with_baseline(slower(0.3), forced)[1] == "FAIL"  # slower than even that
    halved = tuple(
        msgspec.structs.replace(one, rounds=tuple(tuple(3 * t for t in own) for own in one.rounds))
        for one in base.series
    )
    word, own, said = with_baseline(made(seed=5), msgspec.structs.replace(base, series=halved))
    assert (word, own) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "a machine with half of this rate would pass" in said


def test_a_baseline_of_another_machine_says_nothing() -> None:
    base = baseline_of(made())
    other = msgspec.structs.replace(base, machine=base.machine | {"cpu": "EPYC"})
    word, own, said = with_baseline(made(seed=5), other)
    assert (word, own) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert "cpu: measured with EPYC, here Xeon" in said


# ---- commands ---------------------------------------------------------------------------------------------


def test_create_show_and_compare(accepted: Path, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    made_it = run("baseline", "create", accepted, "-o", path)
    assert (made_it.exit_code, "PASS" in made_it.output) == (0, True), made_it.output
    shown = run("baseline", "show", path)
    assert shown.exit_code == 0
    assert "all_reduce 16MiB" in shown.output
    assert run("baseline", "compare", path, accepted).exit_code == 0
    slow = stored(slower(0.3), tmp_path / "slow")
    found = run("baseline", "compare", path, slow)
    assert found.exit_code == 1
    assert "Slower than the baseline" in found.output
    plain = json.loads(run("baseline", "compare", path, slow, "--json").output)
    assert plain["code"] == 1


def test_a_baseline_of_another_machine_is_refused_with_the_fact(accepted: Path, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    base = job.create(accepted)
    job.write(path, msgspec.structs.replace(base, machine=base.machine | {"cpu": "EPYC"}))
    with pytest.raises(SpecError, match="cpu: EPYC in the baseline, Xeon in the run") as caught:
        job.compare(path, accepted, 0.1, 0.99)
    assert caught.value.exit_code == 2
    assert job.compare(path, accepted, 0.1, 0.99, force=True).comparison.code == 0


def test_only_a_run_that_passed_makes_a_baseline(tmp_path: Path) -> None:
    failed = stored(made(seconds=slow_host(2, 0.5)), tmp_path / "failed")
    with pytest.raises(FolderError, match="the verdict is FAIL"):
        job.create(failed)
    forced = job.create(failed, force=True)
    assert (forced.forced, forced.word) == (True, "FAIL")
    path = tmp_path / "forced.json"
    job.write(path, forced)
    assert "did not pass" in run("baseline", "show", path).output


def test_verdict_writes_the_same_bytes_again(accepted: Path) -> None:
    first = run("verdict", accepted)
    assert first.exit_code == 0, first.output
    assert "PASS" in first.output
    told = (accepted / NAME).read_bytes()
    (accepted / NAME).unlink()
    assert run("verdict", accepted, "--quiet").exit_code == 0
    assert (accepted / NAME).read_bytes() == told
    verdict = read(accepted)
    assert verdict.journal_sha256 == digest(accepted)
    assert json.loads(run("verdict", accepted, "--json").output)["word"] == "PASS"


def test_a_torn_last_line_is_no_evidence_and_changes_no_digest(accepted: Path) -> None:
    whole = digest(accepted)
    journal = accepted / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"crc":"0000')
    assert digest(accepted) == whole
    assert judged(accepted).word == "PASS"
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) // 2])
    assert judged(accepted).word == "INCONCLUSIVE"
    journal.unlink()
    assert judged(accepted).word == "INCONCLUSIVE"


def test_the_same_run_is_judged_by_other_criteria(accepted: Path, tmp_path: Path) -> None:
    spec = tmp_path / "stricter.yaml"
    spec.write_text(
        "backend: gloo\nexpect: {hosts: 8, ranks_per_host: 1}\n"
        "criteria: [{kind: threshold, name: much, op: all_reduce, size: 16MiB, busbw: 5GB/s, source: contract}]\n"
    )
    found = run("verdict", accepted, "--criteria", spec)
    assert found.exit_code == 1
    assert read(accepted).criteria[-1].criterion == "much"
    assert run("verdict", accepted, "--criteria", spec, "--set", "criteria[0].busbw=900MB/s").exit_code == 0
    fewer = run("verdict", accepted, "--criteria", spec, "--set", "expect.hosts=9", "--set", "criteria[0].busbw=1KB/s")
    assert fewer.exit_code == 3


@pytest.mark.parametrize(
    ("one", "code"),
    [(made(), 0), (made(seconds=slow_host(2, 0.5)), 2), (made().told(ended="budget"), 3)],
)
def test_exit_codes_of_nagios(one: Made, code: int, tmp_path: Path) -> None:
    assert run("verdict", stored(one, tmp_path / "run"), "--exit-style", "nagios", "--quiet").exit_code == code


def test_in_nagios_no_answer_is_no_alarm_and_no_peace(tmp_path: Path) -> None:
    assert run("verdict", tmp_path, "--exit-style", "nagios").exit_code == 3
    assert run("verdict", tmp_path).exit_code == 2
    spec = tmp_path / "bad.yaml"
    spec.write_text("backend: gloo\nexpct: {hosts: 8}\n")
    for command in (
        "accept no-such-spec",
        f"accept {spec}",
        f"verdict {tmp_path} --set a=b",
        "accept",
        "verdict --odd",
    ):
        for style, code in ((("--exit-style", "commbench"), 2), (("--exit-style=nagios",), 3)):
            ended = run(*command.split(), *style)
            assert ended.exit_code == code, (command, ended.output)
            assert len(ended.output.strip().splitlines()) == 1 or code == 2
    with pytest.raises(FolderError):
        judged(tmp_path)


def test_a_machine_that_does_not_stay_so_is_a_warning_in_nagios(tmp_path: Path) -> None:
    shaky = made().asking(criteria=(Criterion(kind="stability", name="s", p99=1.001, source="x"),))
    folder = stored(shaky, tmp_path / "run")
    assert run("verdict", folder, "--quiet").exit_code == 1
    assert run("verdict", folder, "--exit-style", "nagios", "--quiet").exit_code == 1


@pytest.mark.parametrize("name", ["run.json", "spec.json", "accept.json"])
@pytest.mark.parametrize("text", [None, b"", b"{", b"[1, 2]", b'{"odd": 1}', b'{"ended": "\xff\xfe"}', b"\xff" * 9])
def test_a_folder_that_is_no_acceptance_run_gives_no_verdict(name: str, text: bytes | None, accepted: Path) -> None:
    (accepted / name).unlink()
    if text is not None:
        (accepted / name).write_bytes(text)
    with pytest.raises(CommbenchError) as caught:
        judged(accepted)
    assert caught.value.exit_code == 2
    assert not (accepted / NAME).exists()


def test_a_verdict_that_is_no_text_is_refused(accepted: Path) -> None:
    assert run("verdict", accepted, "--quiet").exit_code == 0
    for data in (b"\xff\xfe", (accepted / NAME).read_bytes().replace(b'"name": "made"', b'"name": "\xff"')):
        (accepted / NAME).write_bytes(data)
        with pytest.raises(FolderError, match="is no verdict"):
            read(accepted)


def test_a_run_keeps_the_baselines_that_it_is_judged_by(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    base = baseline_of(made())
    job.write(path, base)
    asked = made(seed=5).asking(criteria=(msgspec.structs.replace(ASKED[0], path=str(path)),))
    folder = stored(asked, tmp_path / "run")
    keep(folder, asked.spec, named(asked.spec, asked.run.machine))
    path.unlink()
    with pytest.raises(FolderError, match=r"commbench baseline create"):
        named(asked.spec)
    assert judged(folder).word == "PASS"
    other = msgspec.structs.replace(base, machine=base.machine | {"cpu": "EPYC"})
    job.write(path, other)
    with pytest.raises(SpecError, match="of another machine: cpu"):
        named(asked.spec, asked.run.machine)
