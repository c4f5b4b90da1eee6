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
from typing import NamedTuple

from commbench.lab import wiring
from commbench.lab.addresses import Plan
from commbench.records import Fabric, Link
from commbench.spec.topology import FaultKind, ScriptedFault

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
        self._rounds: dict[str, int] = {}  # link or host -> the present one of those that act on it again and again
        self._present: dict[tuple[str, str], tuple[ScriptedFault, str]] = {}  # (aspect, target) -> what it suffers now
        self._cpu = {host.name: host.cpu or 1.0 for host in fabric.hosts}  # what a host has without a fault
        for host, share in self._cpu.items():
            if share < 1:
                self._run_share(host, share)

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
        self._log(fault, how)
        aspect = _ASPECTS[fault.kind]
        if (fault.kind, fault.share) == _WHOLE[aspect]:
            self._present.pop((aspect, fault.target), None)
        else:
            self._present[aspect, fault.target] = fault, how
        if fault.duration is not None:
            self._after(fault.duration, partial(self._undo, fault))

    def born(self, host: str, pid: int) -> None:
        """A process that starts in a paused host waits like the others."""
        if self._shares.get(host) == 0:
            os.kill(pid, signal.SIGSTOP)

    def _undo(self, fault: ScriptedFault) -> None:
        aspect = _ASPECTS[fault.kind]
        now, _ = self._present.get((aspect, fault.target), (None, ""))
        if now is not fault:  # taken back already, or another one is in its place
            return
        kind, share = _WHOLE[aspect]
        try:
            _KINDS[kind](self, ScriptedFault(at=0.0, kind=kind, target=fault.target, share=share))
        except Exception as error:
            self._log(fault, f"stays: {error}")
        else:
            del self._present[aspect, fault.target]
            self._log(fault, "over")

    @property
    def active(self) -> dict[str, str]:
        """`kind target` of each fault that is there now -> in words."""
        return {f"{fault.kind} {fault.target}": how for fault, how in self._present.values()}

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
        return self._set_all(fault.target, "down")

    def _up(self, fault: ScriptedFault) -> str:
        return self._set_all(fault.target, "up")

    def _set_all(self, target: str, state: str) -> str:
        for link in self._of(target):
            self._round(link.name)  # ends a flap
            self._set(link, state)
        return f"{', '.join(link.name for link in self._of(target))} {state}"

    def _set(self, link: Link, state: str) -> None:
        # The switch's end: the host keeps its addresses, and sees no carrier.
        end = min(self._ends[link.name], key=lambda end: end.node not in self._fabric.switches)
        self._run_in(end.node, "ip", [f"link set {end.name} {state}"])
        if state == "up":
            self._run_in(end.node, "ip", wiring.routes(self._plan, end.node, end.name))

    def _flap(self, fault: ScriptedFault) -> str:
        assert fault.period is not None
        half = fault.period / 2

        def turn(link: Link, own: int, state: str) -> None:
            if self._rounds[link.name] == own:
                with contextlib.suppress(Exception):  # the next turn tries again, and the lab goes on
                    self._set(link, state)
                self._after(half, lambda: turn(link, own, "up" if state == "down" else "down"))

        for link in self._of(fault.target):
            turn(link, self._round(link.name), "down")
        return f"down and up every {fault.period:g} s"

    def _round(self, name: str) -> int:
        self._rounds[name] = self._rounds.get(name, 0) + 1
        return self._rounds[name]

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
        return self._run_share(fault.target, self._cpu[fault.target])

    def _starve(self, fault: ScriptedFault) -> str:
        assert fault.share is not None
        return self._run_share(fault.target, fault.share)

    def _run_share(self, host: str, share: float) -> str:
        self._shares[host] = share
        own = self._round(host)
        seen: list[int] = self._pids_of(host)
        looked = time.monotonic()

        def send(kind: signal.Signals) -> None:
            for pid in seen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kind)

        def turn(running: bool) -> None:
            nonlocal seen, looked
            if self._rounds[host] != own:
                return
            if time.monotonic() > looked + _LOOK_AGAIN:
                seen, looked = self._pids_of(host), time.monotonic()
            send(signal.SIGCONT if running else signal.SIGSTOP)
            self._after(_SLICE * (share if running else 1 - share), lambda: turn(not running))

        if 0 < share < 1:
            turn(True)
            return f"its processes run {100 * share:g} % of the time (stopped and continued every {_SLICE:g} s)"
        send(signal.SIGCONT if share else signal.SIGSTOP)
        while not share and set(now := self._pids_of(host)) - set(seen):  # born while the others were being stopped
            seen = now
            send(signal.SIGSTOP)
        return f"{len(seen)} processes {'go on' if share else 'stopped'}"


_KINDS: dict[FaultKind, Callable[[Faults, ScriptedFault], str]] = {
    "slow": Faults._slow,
    "down": Faults._down,
    "up": Faults._up,
    "flap": Faults._flap,
    "loss": Faults._loss,
    "pause": Faults._pause,
    "resume": Faults._resume,
    "starve": Faults._starve,
}
# What a fault changes: a later fault takes the place of one that changed the same.
_ASPECTS: dict[FaultKind, str] = {
    "slow": "rate",
    "down": "state",
    "up": "state",
    "flap": "state",
    "loss": "loss",
    "pause": "time",
    "resume": "time",
    "starve": "time",
}
_WHOLE: dict[str, tuple[FaultKind, float | None]] = {  # aspect -> the kind and the share that take a fault back
    "rate": ("slow", 1.0),
    "state": ("up", None),
    "loss": ("loss", 0.0),
    "time": ("resume", None),
}
