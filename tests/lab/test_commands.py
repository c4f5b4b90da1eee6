"""`commbench lab` as its users meet it."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from machine import LAB, gone, said
from ranks import COMMBENCH, MPIRUN, run, start, wait_for

from commbench.lab.client import Lab, labs

SLEEP = ["sh", "-c", "echo up; exec sleep 60"]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("no-such-cmd", 127)])
def test_run_passes_the_exit_code(script: str, code: int, room: Path) -> None:
    ended = run([*LAB, "run", "star4", "--", "sh", "-c", script])
    assert ended.code == code, ended.err
    assert not list(room.iterdir())


def test_run_passes_the_streams_and_the_folder(tmp_path: Path) -> None:
    command = [*LAB, "run", "star4", "--host", "h3", "--", "sh", "-c", "cat; hostname; pwd; echo $MARK; echo bad >&2"]
    done = subprocess.run(
        command,
        input="given\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "MARK": "kept"},
    )
    assert done.stdout.splitlines() == ["given", "h3", str(tmp_path), "kept"]
    assert done.stderr == "bad\n"


def test_mpirun_finds_all_hosts_by_itself(net: Lab) -> None:
    """The command waits a little: PRRTE was seen to hang at the end of programs that end at once."""
    done = net.run([MPIRUN[0], "-n", "4", "sh", "-c", "sleep 1; hostname"], capture_output=True, timeout=60)
    assert sorted(done.stdout.split()) == ["h1", "h2", "h3", "h4"], done.stderr


def test_exec_ps_and_down_from_outside_and_inside(room: Path) -> None:
    assert run([*LAB, "ps"]).out == "no lab\n"
    nobody = run([*LAB, "exec", "h1", "--", "true"])
    assert (nobody.code, nobody.said) == (4, ["no lab runs here"])
    process = start([*LAB, "run", "star4", "--", *SLEEP])
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    (found,) = labs()
    assert run([*LAB, "exec", "h2", "--", "hostname"]).out == "h2\n"
    assert run([*LAB, "exec", "--lab", found.id, "h2", "--", "sh", "-c", "exit 9"]).code == 9
    inside = run([*LAB, "exec", "h2", "--", *LAB, "exec", "h4", "--", "hostname"])
    assert inside.out == "h4\n", inside.err
    listed = run([*LAB, "ps"]).out
    assert listed == f"{found.id}  pid {found.pid}; processes: h1 1\n"
    # From inside the number of the process means nothing, and still the lab is alive.
    assert f"{found.id}  pid " in run([*LAB, "exec", "h1", "--", *LAB, "ps"]).out
    assert run([*LAB, "fault", "slow", "h3", "50%"]).code == 0
    assert "fault: slow h3: h3-leaf1 at 50 % of the rate" in run([*LAB, "ps"]).out
    assert run([*LAB, "down", found.id[:8]]).out == f"{found.id} is gone\n"
    process.communicate(timeout=20)
    assert process.returncode == 4
    assert not gone(room)
    assert run([*LAB, "ps"]).out == "no lab\n"


def test_of_two_labs_one_must_be_chosen(room: Path) -> None:
    both = [start([*LAB, "run", "star4", "--", *SLEEP]) for _ in range(2)]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
    assert "choose with --lab" in run([*LAB, "exec", "h1", "--", "true"]).said[0]
    assert run([*LAB, "exec", "--lab", labs()[1].id, "h1", "--", "hostname"]).out == "h1\n"
    assert run([*LAB, "down", "star"]).code == 2
    assert len(run([*LAB, "down"]).out.splitlines()) == 2
    for process in both:
        process.communicate(timeout=20)
    assert not gone(room)


def test_what_was_run_ends_with_who_ran_it(net: Lab) -> None:
    process = net.launch(["sleep", "60"], "h2")
    wait_for(lambda: "sleep 60" in said(net, "ps -e -o args"))
    process.kill()
    process.wait()
    wait_for(lambda: "sleep 60" not in said(net, "ps -e -o args"), 5)
    at_once = [net.launch(["sleep", "61"], "h2") for _ in range(5)]
    for k, process in enumerate(at_once):
        time.sleep(0.01 * k)
        process.kill()
        process.wait()
    time.sleep(0.3)
    assert "sleep 61" not in said(net, "ps -e -o args")


# What was asked for, and what the one line must say.
MISTAKES = [
    (["run", "star5", "--", "true"], ["star5", "star4", "two-racks"]),
    (["run", "star4", "--host", "h9", "--", "true"], ["h9", "h1, h2, h3, h4"]),
    (["check", "nowhere"], ["nowhere", "star4"]),
    (["run", "star4"], ["Missing argument"]),
    (["down", "star4-nothing"], ["star4-nothing"]),
]
MISTAKES_INSIDE = [
    (["exec", "h9", "--", "true"], ["h9", "h1, h2, h3, h4"]),
    (["fault", "slow", "h9", "50%"], ["h9", "h1", "h3-leaf1"]),
    (["fault", "slow", "h3"], ["to what share"]),
    (["fault", "slow", "h3", "150%"], ["150%"]),
    (["fault", "melt", "h3"], ["melt", "starve", "slow"]),
    (["fault", "pause", "h3-leaf1"], ["h3-leaf1", "no host", "h1, h2, h3, h4"]),
    (["fault", "flap", "h3", "0s"], ["0s"]),
]


@pytest.mark.parametrize(("words", "parts"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_one_line(words: list[str], parts: list[str]) -> None:
    _is_refused([*LAB, *words], parts)


@pytest.mark.parametrize(("words", "parts"), MISTAKES_INSIDE, ids=[" ".join(words) for words, _ in MISTAKES_INSIDE])
def test_mistakes_in_a_lab_are_one_line(words: list[str], parts: list[str], net: Lab) -> None:
    _is_refused([*LAB, words[0], "--lab", net.id, *words[1:]], parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["-n", "4", "--launcher", "srun", "--lab", "star4"], ["srun", "mpirun or torchrun"]),
        (["-n", "3", "--launcher", "torchrun", "--lab", "rails"], ["-n 3", "try -n 8"]),
        (["-n", "4", "--lab", "star5"], ["star5", "star4"]),
    ],
)
def test_a_sweep_that_no_lab_can_start(words: list[str], parts: list[str], tmp_path: Path, room: Path) -> None:
    _is_refused([*COMMBENCH, "sweep", "quick", *words, "--quiet", "--out", str(tmp_path / "run")], parts)
    assert not gone(room)


def _is_refused(command: list[str], parts: list[str]) -> None:
    ended = run(command)
    assert ended.code == 2, ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert [part for part in parts if part not in ended.err] == [], ended.err
