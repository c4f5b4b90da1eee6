"""Acceptance on real traffic: the fault that was put in is named, and without one the same command passes."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from ranks import COMMBENCH, ranks_of, rows, start, wait_for

SHORT = [
    "--set",
    "trial.max_time=0.2s",
    "--set",
    "windows=2",
    "--set",
    "full.collectives=all_reduce",
    "--set",
    "budget=5m",
]


def command(spec: str, topology: str, out: Path, *more: str) -> list[str]:
    return [*COMMBENCH, "accept", spec, "--lab", topology, "--out", str(out), *SHORT, *more]


def accept(spec: str, topology: str, out: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, verdict.json, what was printed) of one acceptance test in a lab."""
    ended = subprocess.run(
        command(spec, topology, out, *more), capture_output=True, text=True, timeout=400, check=False
    )
    return ended.returncode, json.loads((out / "verdict.json").read_text()), ended.stdout + ended.stderr


def first(verdict: dict[str, Any]) -> tuple[str, set[str]]:
    """(code, component and its ties) of the reason that comes first."""
    reason = verdict["reasons"][0]
    return reason["code"], {reason["component"]["id"], *(tie["id"] for tie in reason.get("ties", ()))}


def test_a_healthy_lab_passes_and_is_judged_again_byte_for_byte(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, verdict, printed = accept("lab", "two-racks", out)
    assert (code, verdict["word"]) == (0, "PASS"), printed
    before = (out / "verdict.json").read_bytes()
    assert subprocess.run([*COMMBENCH, "verdict", str(out), "--quiet"], check=False).returncode == 0
    assert (out / "verdict.json").read_bytes() == before
    page = out.with_suffix(".html")
    subprocess.run([*COMMBENCH, "report", str(out), "-o", str(page)], check=True, capture_output=True)
    assert "PASS" in page.read_text()


def test_a_slow_uplink_is_named_and_marked_in_the_report(tmp_path: Path) -> None:
    """Between two racks every path goes over both uplinks: no measurement of hosts parts them, and it says so."""
    out = tmp_path / "run"
    code, verdict, printed = accept("lab", "two-racks", out, "--fault", "slow uplink1 40%")
    assert (code, verdict["word"]) == (1, "FAIL"), printed
    assert first(verdict) == ("CB-SLOW-UPLINK", {"leaf1", "leaf2"}), printed
    assert "uplink leaf1 is slow" in printed
    page = out.with_suffix(".html")
    subprocess.run([*COMMBENCH, "report", str(out), "-o", str(page)], check=True, capture_output=True)
    assert "CB-SLOW-UPLINK" in page.read_text()


def test_a_lost_rank_costs_its_host_and_not_the_test(tmp_path: Path) -> None:
    """The launch ends, the next one goes on with the hosts that are left, and the others are cleared."""
    out = tmp_path / "run"
    process = start(command("lab", "star4", out, "--set", "expect.hosts=4", "--set", "deadline=4s"))
    wait_for(lambda: rows(out) > 4)
    os.kill(ranks_of(out)[2], signal.SIGKILL)  # the one rank of h3
    printed = "".join(process.communicate(timeout=300))
    verdict = json.loads((out / "verdict.json").read_text())
    assert (process.returncode, verdict["word"]) == (1, "FAIL"), printed
    assert first(verdict) == ("CB-CRASH", {"h3"}), printed
    assert set(verdict["cleared"]) == {"h1", "h2", "h4"}, printed
