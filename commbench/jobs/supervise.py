"""Starts the launches of an acceptance test: a rank that dies or hangs costs its host, not the test.

A launch that ends early is followed by another on the hosts that are left. Who is at fault is told by rank 0's roll
call; where rank 0 itself is gone, by the launcher's words, or by asking each host to start a process.
"""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from commbench import allowlist, store
from commbench.errors import LaunchError, SpecError
from commbench.jobs import verdict
from commbench.jobs.accept import Asked, keep, read
from commbench.jobs.inside import begin
from commbench.jobs.request import Say, same_spec
from commbench.lab import launch as lab
from commbench.measure import launch
from commbench.measure.launch import Launched, Slots
from commbench.records import Machine
from commbench.records.acceptance import Acceptance, Loss

if TYPE_CHECKING:
    from commbench.lab.client import Lab

_AGAIN = 6  # launches that may end early
_START_UP = 120.0  # seconds in which nothing is journalled
_KNOCK = 15.0  # seconds in which a host starts a process that does nothing
_AT_ONCE = 32  # hosts that are asked to at the same time
_RANK = re.compile(r"rank 0 \(.*?host (?P<host>[^,()]+), pid \d+\)")


def start(asked: Asked, ranks: int, launcher: str, arguments: Sequence[str], say: Say, net: "Lab | None" = None) -> str:
    """Launch after launch until the test has come to an end. Returns why it could not, "" where it did.

    LaunchError: not one launch came so far that there is a run folder.
    """
    folder, request = asked.request.out, asked.request
    resume = request.resume and (folder / "run.json").exists()
    hosts: tuple[Slots, ...] = ()
    if (folder / "run.json").exists() and not resume:
        raise store.already(folder)
    if resume:
        same_spec(request)
        hosts = _left(folder, {**read(folder).excluded, **dict.fromkeys(asked.spec.exclude, "")})
        if not hosts:
            raise SpecError(f"{folder}: every host of this test is left out, so it cannot go on; choose another --out")
    for _ in range(_AGAIN):
        own = [*arguments, "--out", str(folder), "--started", *(["--resume"] if resume else [])]
        count = sum(host.ranks for host in hosts) or ranks
        command = lab.argv(net, launcher, count, own, asked.spec.sweep.backends, hosts)
        before = read(folder)
        ended, said = _launched(asked, command, folder, count, say)
        happened = read(folder)
        if happened.ended != "open" and happened.launches > before.launches:
            return ""
        if not (folder / "run.json").exists():
            raise ended.failure("the test", command, "nothing was measured")
        if ended.refused and happened.launches == before.launches:
            raise ended.failure("the test", command, f"what was measured before is kept in {folder}")
        if asked.stop():
            keep(folder, msgspec.structs.replace(happened, ended="signal"))
            return ""
        if len(happened.losses) == len(before.losses):
            began = happened.launches > before.launches
            loss = _unseen(ended, said, net, launcher, _left(folder, happened.excluded), began)
            happened = _with(happened, loss)
        happened = _without(happened)
        keep(folder, happened)
        if [loss.fault for loss in happened.losses[-2:]] == ["launch"] * 2 and happened.launches == before.launches:
            return f"two launches in a row came to nothing: {happened.losses[-1].sentence}"
        resume, hosts = True, _left(folder, happened.excluded)
        if len(hosts) < min(2, len(store.load_run(folder).machine.hosts)):
            return "fewer than two hosts are left"
        say(f"{happened.losses[-1].sentence or 'a launch ended early'}; going on with {len(hosts)} hosts")
    return f"{_AGAIN} launches ended early"


def forget_nobody(folder: Path) -> None:
    """Takes away a run in which no rank ever started: there is nothing to go on with."""
    if (folder / "run.json").exists() and not store.load_run(folder).machine.hosts:
        (folder / "run.json").unlink()


def unlaunched(asked: Asked, sentence: str) -> None:
    """A run folder that tells that nothing could be started, where there is none yet: no evidence is no pass."""
    request = asked.request
    if not (request.out / "run.json").exists():
        nobody = Machine(hosts=(), host_of=(), launcher="none")
        journal = begin(request._replace(resume=False), nobody)
        verdict.keep(request.out, asked.spec, verdict.named(asked.spec))
        journal.close()
    loss = Loss(fault="launch", hosts=(), sentence=sentence, certain=False)
    keep(request.out, _with(read(request.out), loss))


def _launched(asked: Asked, command: Sequence[str], folder: Path, ranks: int, say: Say) -> tuple[Launched, list[str]]:
    """One launch to its end, and what its ranks said."""
    journal, said = folder / "journal.jsonl", []
    before = len(read(folder).losses)

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    def over() -> bool:
        happened = read(folder)
        return len(happened.losses) > before or bool(asked.stop())

    patience = _START_UP + 2 * asked.spec.sweep.deadline
    size = lambda: journal.stat().st_size if journal.exists() else 0  # noqa: E731
    return launch.run(command, size, patience, hear, ranks, over), said


def _left(folder: Path, excluded: "Sequence[str] | dict[str, str]") -> tuple[Slots, ...]:
    """The hosts of the run that are not excluded, with their ranks."""
    machine = store.load_run(folder).machine
    return tuple(
        Slots(host.name, machine.host_of.count(index))
        for index, host in enumerate(machine.hosts)
        if host.name not in excluded
    )


def _with(happened: Acceptance, loss: Loss) -> Acceptance:
    loss = msgspec.structs.replace(loss, after=happened.launches)
    return msgspec.structs.replace(happened, losses=(*happened.losses, loss))


def _without(happened: Acceptance) -> Acceptance:
    """The hosts of a certain loss take no part any more; nor does one that two uncertain losses have in common."""
    last = happened.losses[-1]
    out = set(last.hosts) if last.certain else set()
    for other in happened.losses[:-1]:
        if not last.certain and not other.certain and len(both := set(last.hosts) & set(other.hosts)) == 1:
            out |= both
    if not out and last.hosts and len(last.hosts) <= 2:
        out = set(last.hosts)  # one of them, and the test goes on without both
    reason = f"{last.fault}: {last.sentence}"
    return msgspec.structs.replace(happened, excluded=happened.excluded | dict.fromkeys(sorted(out), reason))


def _unseen(
    ended: Launched, said: Sequence[str], net: "Lab | None", launcher: str, hosts: Sequence[Slots], began: bool
) -> Loss:
    """The loss where rank 0 could not write it down. began: the ranks had met."""
    names = {host.name for host in hosts}
    for line in said:  # the other ranks' word about rank 0
        if (match := _RANK.search(line)) and match["host"] in names:
            return Loss(
                fault="hang" if "does not answer" in line else "crash",
                hosts=(match["host"],),
                ranks=(0,),
                sentence=allowlist.text(line.strip())[:400],
            )
    if (one := ended.first_lost) and one.host in names:
        return Loss(fault="crash", hosts=(one.host,), ranks=(one.rank,) if one.rank >= 0 else (),
                    sentence=f"rank {one.rank}: {one.sentence}" if one.rank >= 0 else one.sentence)  # fmt: skip
    silent = _silent(net, launcher, hosts)
    if silent and names - set(silent) - {socket.gethostname()}:
        return Loss(fault="hang", hosts=silent, sentence=f"{', '.join(silent)} started no process in {_KNOCK:.0f} s")
    if silent:  # the launcher reached nobody, not even a sound host: that accuses none
        return Loss(fault="launch", hosts=(), sentence=f"{launcher} reaches no other host: {ended.why}", certain=False)
    if began and ended.code >= 0:  # somebody died of something that nobody tells
        return Loss(fault="crash", hosts=tuple(host.name for host in hosts), sentence=ended.why, certain=False)
    return Loss(fault="launch", hosts=(), sentence=ended.why, certain=False)


def _silent(net: "Lab | None", launcher: str, hosts: Sequence[Slots]) -> tuple[str, ...]:
    """The hosts that start no process."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        awake = pool.map(lambda host: _knock(net, launcher, host), hosts)
        return tuple(host.name for host, up in zip(hosts, awake, strict=True) if not up)


def _knock(net: "Lab | None", launcher: str, host: Slots) -> bool:
    """Whether a host starts a process. True where this launcher offers no way to ask one host."""
    try:
        if net is not None:
            command = net.command(["true"], host.name)
        elif launcher == "torchrun":
            return True
        else:
            command = launch.LAUNCHERS[launcher](1, ["true"], (), [Slots(host.name, 1)])
        return subprocess.run(command, capture_output=True, timeout=_KNOCK, stdin=subprocess.DEVNULL).returncode == 0
    except (OSError, LaunchError, subprocess.TimeoutExpired):
        return False


class Stop:
    """Why to end early: a signal that asks to."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self) -> str:
        return self.reason

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """While this lasts SIGTERM and SIGINT do not end the process but are kept for the plan to see."""

        def heard(number: int, frame: FrameType | None) -> None:
            self.reason = f"{signal.Signals(number).name} asked to stop"

        before = {kind: signal.signal(kind, heard) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
