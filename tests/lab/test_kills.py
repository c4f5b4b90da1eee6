"""Whatever is killed at whatever moment: nothing of the lab stays but a folder, which `lab down` clears away."""

import os
import random
import signal
import time
from pathlib import Path

from machine import LAB, gone, held, inhabitants, networks, surroundings
from ranks import run, start, wait_for

from commbench.lab.client import labs

SLEEP = ["sh", "-c", "echo up; sleep 100 & exec sleep 100"]
WAYS = ("tool", "keeper", "first", "tool while it builds", "interrupt", "terminate", "hang up", "terminate building")


def test_killed_at_any_moment(kill_seed: int, room: Path) -> None:
    """`pytest -k killed --kills 50` does it 50 times."""
    dice, way = random.Random(kill_seed), WAYS[kill_seed % len(WAYS)]
    before = surroundings()
    process = start([*LAB, "run", "star4", "--", *SLEEP])
    building = way.endswith(("builds", "building"))
    if building:
        wait_for(lambda: room.is_dir() and list(room.iterdir()))
        time.sleep(dice.uniform(0.0, 0.5))
    else:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        time.sleep(dice.uniform(0.0, 0.3))
    spaces = networks(inhabitants(room))
    assert building or len(spaces) == 6
    if way.startswith("tool"):
        process.kill()
    elif way == "keeper":
        os.kill(labs()[0].pid, signal.SIGKILL)
    elif way == "first":
        (child,) = Path(f"/proc/{labs()[0].pid}/task/{labs()[0].pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
    else:
        kinds = {"interrupt": signal.SIGINT, "hang up": signal.SIGHUP}
        process.send_signal(kinds.get(way, signal.SIGTERM))
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    assert not gone(room), way
    assert not held(spaces), way
    assert surroundings() == before
    _folders_are_cleared(room, process.returncode, way)


def _folders_are_cleared(room: Path, code: int, way: str) -> None:
    left = [folder.name for folder in room.iterdir()]
    if way.startswith("tool"):
        assert code == -signal.SIGKILL
        (dead,) = left
        assert run([*LAB, "ps"]).out == f"{dead}  dead: `commbench lab down` clears it\n"
        assert run([*LAB, "down"]).out == f"{dead} is gone\n"
        assert not list(room.iterdir())
    else:
        assert not left, way
        expected = {"interrupt": 130, "hang up": 129, "keeper": 4, "first": 4}
        assert code == expected.get(way, 143), way
    assert run([*LAB, "ps"]).out == "no lab\n"
