"""Eleven ways in which other tools take missing evidence for health: here none is a PASS, and no exit code is 0.

Each is a whole run folder, judged as `commbench verdict` judges it; tests/real/test_accept.py has real ones.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from accepted import RATE, Made, codes, machine, made, sentences, star, stored
from click.testing import CliRunner

from commbench.cli.verdict import command
from commbench.records import Measurement
from commbench.records import verdict as records
from commbench.records.acceptance import Loss
from commbench.records.verdict import CODES
from commbench.spec.accept import Criterion

HEALTHY = made()


def failing(status: str, why: str, *rounds: int, world: bool = False) -> Made:
    """The healthy run with rows that went wrong: those of some rounds, or those of everybody together, or all."""

    def change(row: Measurement) -> Measurement:
        this = row.launch in rounds or (world and row.case.groups == "world") or not (rounds or world)
        return msgspec.structs.replace(row, status=status, why=why, seconds=(), wrong=None) if this else row

    return HEALTHY.rewritten(change)


def asking(**more: object) -> Made:
    usual: dict[str, object] = {"kind": "threshold", "name": "t", "op": "all_reduce", "nbytes": 2**24, "source": "x"}
    return HEALTHY.asking(criteria=(msgspec.convert(usual | more, type=Criterion),))


def unlaunched(sentence: str) -> Made:
    nobody = HEALTHY.but(run=msgspec.structs.replace(HEALTHY.run, machine=machine(0)), rows=[])
    return nobody.told(losses=(Loss(fault="launch", hosts=(), sentence=sentence),), stages={}, ended="open")


CASES: dict[str, tuple[Made, str]] = {
    "below the threshold is a warning": (asking(busbw=2 * RATE), "CB-THRESHOLD"),
    "a time-out passes": (failing("hung", "60 s", 5), "CB-UNDECIDED"),
    "the checker itself failed": (failing("failed", "RuntimeError: no device", 0), "CB-COVERAGE"),
    "the platform is not supported": (failing("skipped", "no NCCL on this machine"), "CB-COVERAGE"),
    "the program failed before a figure came out": (unlaunched("mpirun ended with 1"), "CB-LAUNCH"),
    "the program is missing": (failing("skipped", "torch is not installed", world=True), "CB-COVERAGE"),
    "an exception in a measurement": (failing("failed", "ValueError: x", 2, 3), "CB-COVERAGE"),
    "no reference": (asking(kind="baseline", op="", nbytes=None, path="/nowhere/baseline.json"), "CB-BASELINE"),
    "a host without figures": (
        HEALTHY.rewritten(lambda row: msgspec.structs.replace(row, seconds=()) if row.group == 1 else row),
        "CB-COVERAGE",
    ),
    "rows of a host are missing": (HEALTHY.rewritten(lambda row: None if row.group == 3 else row), "CB-COVERAGE"),
    "rounds are missing": (HEALTHY.rewritten(lambda row: None if row.launch == 4 else row), "CB-COVERAGE"),
    "a threshold of next to nothing": (asking(busbw=1.0), "CB-CRITERION"),
    "a threshold of no time": (asking(time=3600.0), "CB-CRITERION"),
    "a threshold for what was not measured": (asking(busbw=RATE / 2, ranks=512), "CB-CRITERION"),
    "it ran on one host": (made(hosts=1, ranks=8).expecting(hosts=8), "CB-COVERAGE"),
    "nothing is measured": (HEALTHY.but(rows=[]).asking(stages=("preflight",)).told(stages={}), "CB-COVERAGE"),
    "a share of the wire of next to nothing": (
        made(fabric=star(8)).asking(criteria=(Criterion(kind="wire", name="w", least=0.01),)),
        "CB-CRITERION",
    ),
    "a tail that no machine has": (
        HEALTHY.asking(criteria=(Criterion(kind="stability", name="s", p99=1000.0),)),
        "CB-CRITERION",
    ),
    "worlds of one rank": (made(hosts=1, ranks=1).expecting(hosts=None), "CB-COVERAGE"),
    "a world of one rank where one host is right": (made(hosts=1, ranks=1).expecting(hosts=1), "CB-COVERAGE"),
    "TCP where InfiniBand is asked for": (
        HEALTHY.expecting(transport="ib").told(transport={f"h{k + 1}": "tcp eth0 99 %" for k in range(8)}),
        "CB-TRANSPORT",
    ),
    "nobody saw which way it took": (HEALTHY.expecting(transport="ib"), "CB-COVERAGE"),
}


def verdict(folder: Path, *more: str) -> int:
    return CliRunner().invoke(command, [str(folder), "--quiet", *more]).exit_code


@pytest.mark.parametrize("name", CASES)
def test_what_others_take_for_healthy_is_not(name: str, tmp_path: Path) -> None:
    one, code = CASES[name]
    folder = stored(one, tmp_path / "run")
    try:
        exit_code = verdict(folder)
    except Exception as error:  # a mistake is an error with an exit code of its own, and no verdict
        pytest.fail(str(error))
    found = records.read(folder)
    assert code in codes(found), sentences(found)
    word = "FAIL" if CODES[code] == "FAIL" else "INCONCLUSIVE"
    assert (found.word, exit_code) == (word, {"FAIL": 1, "INCONCLUSIVE": 3}[word]), sentences(found)
    assert verdict(folder, "--exit-style", "nagios") in (2, 3)
    _nobody_is_told_that_all_is_well(folder)


def _nobody_is_told_that_all_is_well(folder: Path) -> None:
    """Nor is a machine that reads what lies beside the verdict."""
    suites = ET.fromstring((folder / "junit.xml").read_bytes())
    assert [one for one in suites.iter() if one.tag in ("failure", "error")]
    found = records.read(folder)
    assert all(reason.next and reason.sentence for reason in found.reasons)


LOST = Loss(fault="launch", hosts=(), sentence="mpirun ended with 1", certain=False)
ENDS: Sequence[tuple[str, tuple[Loss, ...], str, str]] = (
    ("budget", (), "the budget of 60 s is used up", "CB-BUDGET"),
    ("signal", (), "SIGTERM asked to stop", "CB-COVERAGE"),
    ("open", (), "not told", "CB-COVERAGE"),
    ("open", (LOST,), "not reached", "CB-LAUNCH"),
)


@pytest.mark.parametrize(("ended", "losses", "why", "code"), ENDS)
def test_what_explains_all_that_is_missing_is_said_once(
    ended: str, losses: tuple[Loss, ...], why: str, code: str
) -> None:
    stages = {**HEALTHY.happened.stages, **dict.fromkeys(("full", "stability"), why)}
    one = HEALTHY.rewritten(lambda row: None if row.case.groups == "world" else row)
    asked = (Criterion(kind="wire", name="w", least=0.8, source="x"), Criterion(kind="stability", name="s", p99=2.0))
    found = one.told(ended=ended, losses=losses, stages=stages).asking(criteria=asked[1:]).verdict
    (reason,) = found.reasons
    assert (found.word, reason.code) == ("INCONCLUSIVE", code)
    assert "left out: full, stability" in reason.sentence
    assert any("all_gather of 1MiB" in sentence for sentence in found.coverage.missing)  # in detail
    assert [judged.word for judged in found.criteria] == ["PASS", "INCONCLUSIVE"]
    # What the end does not explain has reasons of its own.
    more = one.told(ended=ended, losses=losses, stages=stages).asking(criteria=asked[:1]).expecting(hosts=9).verdict
    assert {"CB-COVERAGE", "CB-CRITERION", code} <= codes(more)


def test_a_launch_that_failed_before_all_was_measured_is_told() -> None:
    found = HEALTHY.told(losses=(LOST,), launches=2).verdict
    assert found.word == "PASS"
    assert "a launch failed, and a later one measured what was left: mpirun ended with 1" in found.notes


@pytest.mark.parametrize("ended", ["done", "budget", "signal"])
def test_a_launch_that_failed_after_all_others_is_told(ended: str) -> None:
    late = HEALTHY.told(ended=ended, losses=(msgspec.structs.replace(LOST, after=1),), launches=1).verdict
    assert late.word == ("PASS" if ended == "done" else "INCONCLUSIVE")
    assert "a launch failed: mpirun ended with 1" in late.notes
    assert not any("later" in note for note in late.notes)


def test_a_crash_is_said_once() -> None:
    loss = Loss(fault="crash", hosts=("h3",), sentence="rank 2 died", round=3)
    found = HEALTHY.told(losses=(loss,), excluded={"h3": "crash: rank 2 died"}).verdict
    assert (found.word, codes(found)) == ("FAIL", {"CB-CRASH"}), sentences(found)
    assert "h3: left out (crash: rank 2 died)" in found.coverage.missing
