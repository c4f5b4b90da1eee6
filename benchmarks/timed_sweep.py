"""One rank of a sweep whose steps are timed. overhead.py starts it: FILE, then commbench's own arguments.

Rank 0 writes {step: [calls, seconds]} to FILE. A step's seconds are its own, without the steps inside it.
"""

import atexit
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commbench import store
from commbench.backends import torchdist
from commbench.cli import main
from commbench.measure import loop, worker
from commbench.world.torch import TorchWorld

WHOLE = "the rest"
spent: dict[str, list[float]] = {}
inside: list[float] = []  # for each step under way: seconds of the steps in it


def timed(where: Any, name: str, step: str) -> None:
    """Replaces the function `name` of a class or module by one that keeps the time."""
    function: Callable[..., Any] = getattr(where, name)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not inside and step != WHOLE:
            return function(*args, **kwargs)  # before the first case or after the last
        inside.append(0.0)
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.perf_counter() - start
            entry = spent.setdefault(step, [0, 0.0])
            entry[0] += 1
            entry[1] += took - inside.pop()
            if inside:
                inside[-1] += took

    setattr(where, name, wrapper)


def start() -> None:
    timed(torchdist.TorchOp, "run", "barrier and calls")
    timed(torchdist.TorchBackend, "prepare", "buffers and groups")
    timed(torchdist.TorchOp, "check", "data check")
    timed(loop, "slowest", "agreement")
    timed(TorchWorld, "share", "agreement")
    timed(TorchWorld, "gather", "agreement")
    timed(loop._Judge, "hear", "statistics")
    timed(store.Journal, "append", "journal")
    timed(worker.Worker, "run", WHOLE)
    path = Path(sys.argv.pop(1))
    if os.environ.get("RANK") == "0":
        atexit.register(lambda: path.write_text(json.dumps(spent), encoding="utf-8"))
    main()


if __name__ == "__main__":
    start()
