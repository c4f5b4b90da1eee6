"""What shows that settings have an effect: NCCL's own log (were they read, what ran), the threads of Gloo."""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from commbench.errors import ReadError, Unsupported
from commbench.readers.nccl_log import read
from commbench.readers.source import Problem, Source
from commbench.records.nccl import NcclChoice, NcclLog
from commbench.world.discover import discover

# What NCCL's lines about choices call the collectives.
_CALLED = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "broadcast": "Broadcast",
    "reduce": "Reduce",
}


def threads() -> dict[str, str]:
    """Threads of this process, by number: their names; none where Linux does not tell."""
    try:
        return {task.name: (task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    except OSError:
        return {}


def gloo_started(before: Collection[str], loops: int) -> tuple[int, int]:
    """(threads that run collectives, devices) that Gloo has started since `threads` was asked; `loops` are expected.

    A thread has its name a moment after it was started, so a second is waited for what is missing.
    """
    for _ in range(100):
        new = [name for number, name in threads().items() if number not in before]
        found = new.count("pt_gloo_runloop"), new.count("gloo_tcp_loop")
        if found[0] >= loops and found[1]:
            break
        time.sleep(0.01)
    return found


def interfaces() -> list[str]:
    """Those that Gloo is told to use."""
    return [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]


def rail(links: Sequence[str]) -> str:
    """The interface of this rank: the local ranks of a host share them out in order."""
    place = discover(os.environ)
    return links[(place.local_rank or 0 if place else 0) % len(links)]


def logged(folder: str) -> dict[str, str]:
    """What a rank sets before NCCL is loaded, so that NCCL says what it does: into a file of this process's own."""
    path = os.path.join(folder, f"commbench-nccl-{os.getpid()}.log")
    return {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,ENV,TUNING", "NCCL_DEBUG_FILE": path}


def nccl_says(path: str, settings: Mapping[str, str], op: str, first: bool) -> str:
    """The evidence in a log file; `first`: this process is rank 0, which alone tells NCCL's choices.

    Raises Unsupported where there is no log, where a setting was not read, or something else ran.
    """
    if not path or not Path(path).exists():
        raise Unsupported(f"{next(iter(settings))}: NCCL writes no log here, so nothing shows that it was read; start "
                          "the ranks with commbench tune SPEC -n N")  # fmt: skip
    try:
        parts = [part for found in read(Source(Path(path))) if not isinstance(found, Problem) for part in found.parts]
    except ReadError as error:
        raise Unsupported(f"NCCL's log cannot be read: {error}") from None
    logs = [part for part in parts if isinstance(part, NcclLog)]
    if not logs:
        raise Unsupported(f"{path}: NCCL says nothing there")
    return evidence(logs[-1], settings, op, first)


def evidence(log: NcclLog, settings: Mapping[str, str], op: str, first: bool = True) -> str:
    """What the log proves of the settings, for a collective that ran last. Raises Unsupported as `nccl_says`."""
    found = []
    read_ = {one.name: one.values[-1] for one in log.settings if one.source == "environment"}
    for name, text in settings.items():
        if name not in read_:
            raise Unsupported(f"{name}: NCCL's log does not say that it was read; is it misspelt, or gone?")
        if read_[name] != text:
            raise Unsupported(f"{name} is {read_[name]} for NCCL, not {text}")
        found.append(f"{name} set by environment to {text}")
    mine = [one for one in log.choices if one.op == _CALLED.get(op)]
    if first and mine and (ran := _ran(mine, settings)):
        found.append(ran)
    return "; ".join(found)


def _ran(choices: list[NcclChoice], settings: Mapping[str, str]) -> str:
    """Against the choice that the log tells last."""
    last = max(choices, key=lambda one: one.line)
    for name, ran in (("NCCL_ALGO", last.algorithm), ("NCCL_PROTO", last.protocol)):
        asked = settings.get(name, "").upper()
        if asked.isalnum() and asked != ran.upper().replace("_", ""):
            raise Unsupported(f"{name}={settings[name]} was read, but {last.op} of {last.nbytes} bytes ran as {ran}")
    return f"{last.op} of {last.nbytes} bytes ran as {last.algorithm} {last.protocol}"
