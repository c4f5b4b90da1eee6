"""Faults, put in while something runs, and written down with the time at which they took effect.

slow, down, up, flap and loss act on links (of a host: on all of its links), pause, resume and starve on the
processes of a host. Processes are stopped and continued by signals: that needs no privilege, no control group
is left behind, and a starved host really runs only its share of the time, in slices of 20 ms.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from commbench.lab import wiring
from commbench.lab.addresses import Plan
from commbench.records import Fabric, Link
from commbench.spec.topology import ScriptedFault

_SLICE = 0.02  # seconds in which a starved host runs its share
_LOOK_AGAIN = 0.2  # seconds between looking for new processes of a starved or paused host


class Unavailable(ValueError):
    """This machine cannot put in that fault; the text says why."""


class Hands(NamedTuple):
    """What process 1 of the lab lends."""

    run_in: Callable[[str, str, Iterable[str]], None]  # node, program, its lines
    pids_of: Callable[[str], list[int]]  # the processes of a host
    after: Callable[[float, Callable[[], None]], None]
    now: Callable[[], float]  # seconds since the epoch


class Faults:
    """The faults of one lab, inside its process 1."""

    def __init__(
        self,
        fabric: Fabric,
        scripted: Sequence[ScriptedFault],
        plan: Plan,
        hands: Hands,
        events: Path,
    ) -> None:
        self._fabric, self._scripted = fabric, scripted
        self._plan, self._events = plan, events
        self._run_in, self._pids_of, self._after, self._now = hands
        self._links = {link.name: link for link in self._fabric.links}
        self._ends = wiring.ends(plan)
        self._shares: dict[str, float] = {}  # host -> the share of time its processes run; 0: paused
        self._rounds: dict[str, int] = {}  # target -> which of its flaps or starvations is the present one
        self.active: dict[str, str] = {}  # "kind target" -> in words
        for host in self._fabric.hosts:
            if host.cpu is not None:
                self.inject(ScriptedFault(at=0.0, kind="starve", target=host.name, share=host.cpu))

    def script(self) -> None:
        """The clock of the scripted faults starts now."""
        for fault in self._scripted:
            self._after(fault.at, partial(self._attempt, fault))

    def _attempt(self, fault: ScriptedFault) -> None:
        try:
            self.inject(fault)
        except Exception as error:  # the lab goes on, and the log says that this fault never was
            self._log(fault, f"failed: {error}")

    def inject(self, fault: ScriptedFault) -> None:
        """Raises Unavailable."""
        how = _KINDS[fault.kind](self, fault)
        if fault.kind in _ENDS:
            self.active.pop(f"{_ENDS[fault.kind]} {fault.target}", None)
        else:
            self.active[f"{fault.kind} {fault.target}"] = how
        self._log(fault, how)
        if fault.duration is not None and fault.kind in _UNDONE:
            self._after(fault.duration, partial(self._undo, fault))

    def born(self, host: str, pid: int) -> None:
        """A process that starts in a paused host waits like the others."""
        if self._shares.get(host) == 0:
            os.kill(pid, signal.SIGSTOP)

    def _undo(self, fault: ScriptedFault) -> None:
        kind, share = _UNDONE[fault.kind]
        _KINDS[kind](self, ScriptedFault(at=0.0, kind=kind, target=fault.target, share=share))
        self.active.pop(f"{fault.kind} {fault.target}", None)
        self._log(fault, "over")

    def _log(self, fault: ScriptedFault, how: str) -> None:
        event = {"time": round(self._now(), 3), "kind": fault.kind, "target": fault.target, "share": fault.share}
        with self._events.open("a") as file:
            file.write(json.dumps({**event, "how": how}) + "\n")

    def _of(self, target: str) -> list[Link]:
        return [self._links[target]] if target in self._links else list(self._fabric.links_of[target])

    # -- links

    def _slow(self, fault: ScriptedFault) -> str:
        share = 1.0 if fault.share is None else fault.share
        for link in self._of(fault.target):
            for end in self._ends[link.name]:
                self._run_in(end.node, "tc", [wiring.shaping(link, end, share)])
        return f"{', '.join(link.name for link in self._of(fault.target))} at {100 * share:g} % of the rate"

    def _down(self, fault: ScriptedFault) -> str:
        self._rounds[fault.target] = self._rounds.get(fault.target, 0) + 1  # ends a flap
        return self._set(fault.target, "down")

    def _up(self, fault: ScriptedFault) -> str:
        self._rounds[fault.target] = self._rounds.get(fault.target, 0) + 1
        return self._set(fault.target, "up")

    def _set(self, target: str, state: str) -> str:
        for link in self._of(target):
            # The switch's end: the host keeps its addresses, and sees no carrier.
            end = min(self._ends[link.name], key=lambda end: end.node not in self._fabric.switches)
            self._run_in(end.node, "ip", [f"link set {end.name} {state}"])
            if state == "up":
                self._run_in(end.node, "ip", wiring.routes(self._plan, end.node, end.name))
        return f"{', '.join(link.name for link in self._of(target))} {state}"

    def _flap(self, fault: ScriptedFault) -> str:
        own = self._rounds[fault.target] = self._rounds.get(fault.target, 0) + 1
        assert fault.period is not None
        half = fault.period / 2

        def turn(state: str) -> None:
            if self._rounds[fault.target] == own:
                self._set(fault.target, state)
                self._after(half, lambda: turn("up" if state == "down" else "down"))

        turn("down")
        return f"down and up every {fault.period:g} s"

    def _loss(self, fault: ScriptedFault) -> str:
        share = fault.share or 0.0
        if not shutil.which("nft"):
            raise Unavailable("loss needs nftables: apt install nftables")
        for link in self._of(fault.target):
            for end in self._ends[link.name]:
                table = f"commbench_{end.name}"
                rules = [f"add table netdev {table}", f"delete table netdev {table}"]
                if share > 0:
                    rules += [
                        f"add table netdev {table}",
                        f"add chain netdev {table} in {{ type filter hook ingress device {end.name} priority 0; }}",
                        f"add rule netdev {table} in numgen random mod 1000000 < {round(share * 1e6)} drop",
                    ]
                try:
                    self._run_in(end.node, "nft", rules)
                except Exception as error:
                    raise Unavailable(f"this kernel does not offer loss (nftables with numgen): {error}") from None
        return f"{100 * share:g} % of the packets are dropped"

    # -- processes

    def _pause(self, fault: ScriptedFault) -> str:
        return self._run_share(fault.target, 0.0)

    def _resume(self, fault: ScriptedFault) -> str:
        return self._run_share(fault.target, 1.0)

    def _starve(self, fault: ScriptedFault) -> str:
        assert fault.share is not None
        return self._run_share(fault.target, fault.share)

    def _run_share(self, host: str, share: float) -> str:
        self._shares[host] = share
        own = self._rounds[f"cpu {host}"] = self._rounds.get(f"cpu {host}", 0) + 1
        seen: list[int] = self._pids_of(host)
        looked = time.monotonic()

        def send(kind: signal.Signals) -> None:
            for pid in seen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kind)

        def turn(running: bool) -> None:
            nonlocal seen, looked
            if self._rounds[f"cpu {host}"] != own:
                return
            if time.monotonic() > looked + _LOOK_AGAIN:
                seen, looked = self._pids_of(host), time.monotonic()
            send(signal.SIGCONT if running else signal.SIGSTOP)
            self._after(_SLICE * (share if running else 1 - share), lambda: turn(not running))

        if 0 < share < 1:
            turn(True)
            return f"its processes run {100 * share:g} % of the time (stopped and continued every {_SLICE:g} s)"
        send(signal.SIGCONT if share else signal.SIGSTOP)
        return f"{len(seen)} processes {'go on' if share else 'stopped'}"


_KINDS: dict[str, Callable[[Faults, ScriptedFault], str]] = {
    "slow": Faults._slow,
    "down": Faults._down,
    "up": Faults._up,
    "flap": Faults._flap,
    "loss": Faults._loss,
    "pause": Faults._pause,
    "resume": Faults._resume,
    "starve": Faults._starve,
}
_ENDS = {"up": "down", "resume": "pause"}
# How a fault is taken back after its `for`: (the kind that does it, its share).
_UNDONE: dict[str, tuple[Any, float | None]] = {
    "slow": ("slow", 1.0),
    "down": ("up", None),
    "flap": ("up", None),
    "loss": ("loss", 0.0),
    "pause": ("resume", None),
    "starve": ("resume", None),
}
