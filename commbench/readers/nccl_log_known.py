"""What is known of a NCCL log while it is read: places, processes, communicators, and bounded counts."""

import re
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import msgspec

from commbench.records.nccl import (
    NcclChoice,
    NcclComm,
    NcclCost,
    NcclCosts,
    NcclFact,
    NcclGdr,
    NcclMessage,
    NcclPlugin,
    NcclRing,
)

Key = TypeVar("Key", bound=Hashable)
_PLACES, _ENTRIES, _COMMS, _HOSTS = 2**17, 2**18, 2**12, 2**15
_GLUED = re.compile(r"-?[\d.]+")  # the last cell of a table's row, before a line of NCCL
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")
_OF_COMM = ("id", "nranks", "line", "nnodes", "state", "channels", "collnet_channels", "nvls_channels", "p2p_channels",
            "seconds", "mnnvl")  # fmt: skip
_LONGEST = 400  # characters of a message


class Tally(dict[Key, list[int]], Generic[Key]):
    """Key -> [how often, first line], of at most `most` keys; `beyond` counts the lines of others.

    Every count that is added to goes on the list `touched`: whoever meets the same line again adds to those.
    """

    def __init__(self, most: int, touched: list[list[int]]) -> None:
        super().__init__()
        self.most, self.touched, self.beyond = most, touched, [0, 0]

    def add(self, key: Key, line: int) -> None:
        if (found := self.get(key)) is None:
            found = self.beyond
            if len(self) < self.most:
                found = self[key] = [0, line]
        found[0] += 1
        self.touched.append(found)


class Comm:
    """A communicator, or (nranks 0) what a thread said before it named one."""

    def __init__(self, nranks: int = 0, id: str = "", line: int = 0) -> None:
        self.nranks, self.id, self.line = nranks, id, line
        self.at: dict[int, int] = {}  # rank -> index of its process
        self.beyond = 0  # ranks that are told and not kept
        self.pairs: dict[int, int] = {}
        self.rings: dict[int, NcclRing] = {}
        self.trees: list[str] = []
        self.state = ""
        self.nnodes: int | None = None
        self.channels: int | None = None
        self.collnet_channels: int | None = None
        self.nvls_channels: int | None = None
        self.p2p_channels: int | None = None
        self.seconds: float | None = None
        self.mnnvl: bool | None = None
        self.last: Comm | None = None  # of a thread: the communicator that it named last

    def ring(self, channel: int, order: list[int], cut: bool, line: int) -> None:
        if len(self.rings) < Known.RINGS:
            self.rings.setdefault(channel, NcclRing(channel=channel, order=tuple(order), whole=not cut, line=line))

    def absorb(self, other: "Comm") -> None:
        """What a thread said before it named this communicator."""
        for key, count in other.pairs.items():
            self.pairs[key] = self.pairs.get(key, 0) + count
        for channel, ring in other.rings.items():
            if len(self.rings) < Known.RINGS:
                self.rings.setdefault(channel, ring)
        self.trees.extend(other.trees[: Known.TREES - len(self.trees)])
        for name in ("channels", "collnet_channels", "nvls_channels", "p2p_channels"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(other, name))
        if other.seconds is not None:
            self.seconds = max(self.seconds or 0.0, other.seconds)

    def record(self) -> NcclComm:
        rings = (
            msgspec.structs.replace(ring, whole=ring.whole and len(ring.order) == self.nranks)
            for ring in self.rings.values()
        )
        return NcclComm(
            ranks=len(self.at) + self.beyond,
            rings=tuple(sorted(rings, key=lambda ring: ring.channel)),
            trees=tuple(self.trees),
            **{name: getattr(self, name) for name in _OF_COMM},
        )


class Process:
    """A device of a process: what a rank is in a log. `live`: its communicators by their address."""

    def __init__(self, index: int, host: int, pid: int, device: int) -> None:
        self.index, self.host, self.pid, self.device = index, host, pid, device
        self.bus = ""
        self.lines = 0
        self.live: dict[str, Comm] = {}
        self.seen: list[Comm] = []  # at most two: enough to know whether there is only one


class Place:
    """A thread of a process: who writes lines. `comm` is the communicator that its lines are about."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines = 0
        self.comm = Comm()
        self.table: Table | None = None


class Table:
    """A cost table while it is read."""

    def __init__(self, line: int, comm: Comm) -> None:
        self.line, self.comm = line, comm
        self.columns: list[tuple[str, str]] = []
        self.threads: list[int] = []
        self.costs: list[tuple[str, str, str, float, float, int | None]] = []

    def add(self, cost: tuple[str, str, str, float, float, int | None]) -> None:
        if len(self.costs) < 1024:
            self.costs.append(cost)


class Host:
    """A host while it is read about."""

    def __init__(self, name: str) -> None:
        self.name, self.bootstrap = name, ""
        self.nics: tuple[str, ...] = ()
        self.interfaces: tuple[str, ...] = ()


class Setting:
    """A variable while it is read about."""

    def __init__(self, line: int, plugin: bool) -> None:
        self.count, self.plugin = [0, line], plugin
        self.values: list[str] = []


class Known:
    """The sum of the lines read so far."""

    TOLD, ORDER, RINGS, TREES, NICS = 256, 4096, 4, 64, 256

    def __init__(self) -> None:
        self.touched: list[list[int]] = []
        self.library = "NCCL"
        self.hosts: list[Host] = []
        self.processes: list[Process] = []
        self.comms: list[Comm] = []
        self.comms_beyond = 0
        self.versions: Tally[str] = Tally(64, self.touched)
        self.drivers: Tally[str] = Tally(64, self.touched)
        self.networks: Tally[str] = Tally(64, self.touched)
        self.facts: Tally[str] = Tally(self.TOLD, self.touched)
        self.plugins: Tally[tuple[str, str, str, str]] = Tally(self.TOLD, self.touched)
        self.gdr: Tally[tuple[str, str, bool, str]] = Tally(4 * self.TOLD, self.touched)
        self.choices: Tally[tuple[str, int, str, str, tuple[int, int] | None, float | None]] = Tally(4096, self.touched)
        self.messages: Tally[tuple[str, str, str]] = Tally(self.TOLD, self.touched)
        self.texts: dict[tuple[str, str, str], str] = {}
        self.settings: dict[str, Setting] = {}
        self.tables: list[Table] = []
        self.places: dict[tuple[int, int, int, int], Place] = {}
        self.nowhere = Place(Process(-1, -1, -1, -1))
        self._host: dict[str, int] = {}
        self._process: dict[tuple[int, int, int], Process] = {}
        self._pids: set[tuple[int, int]] = set()  # host, process
        self.torn: set[int] = set()  # hosts without a rank, of which there is next to nothing
        self.same: dict[int, int] = {}  # host whose name is a torn one -> the host it is
        self._host_of: dict[tuple[int, int], int] = {}  # process, thread -> the first host that has it
        self._comm: dict[tuple[object, ...], Comm] = {}
        self._nth: dict[tuple[int, int], int] = {}
        self._entries = 0
        self._lost = Comm()

    def place(self, match: re.Match[bytes]) -> Place:
        """The thread that wrote a line, by its `host:pid:tid [device]`."""
        name = match[1].decode(errors="replace")
        pid, tid, device = (int(match[group][:10]) for group in (2, 3, 4))
        host = self.host(name, pid, tid)
        key = (host, pid, tid, device)
        if (place := self.places.get(key)) is None:
            if len(self.places) >= _PLACES:
                return self.nowhere
            process = self.process(host, pid, device)
            place = self.places[key] = Place(process)
            self._host_of.setdefault((pid, tid), host)
            if len(process.seen) == 1:
                place.comm.last = process.seen[0]
        return place

    def host(self, name: str, pid: int, tid: int) -> int:
        """A host's index. `0node1` is node1 behind the last cell of a table's row, where it has that process; and
        `Channenode1` is node1 behind a line that was cut off, where it has that thread."""
        if (host := self._host.get(name)) is not None:
            return host
        glue = _GLUED.match(name)
        for end in range(1, glue.end() + 1 if glue else 0):
            known = self._host.get(name[end:], -1)
            if (known, pid) in self._pids:
                return known
        known = self._host_of.get((pid, tid), -1)
        if known >= 0 and name.endswith(self.hosts[known].name):
            return known
        if len(self.hosts) >= _HOSTS:
            return -1
        self._host[name] = host = len(self.hosts)
        self.hosts.append(Host(name))
        return host

    def process(self, host: int, pid: int, device: int) -> Process:
        key = (host, pid, device)
        if (process := self._process.get(key)) is None:
            if host < 0 or len(self.processes) >= _PLACES:
                return self.nowhere.process
            process = self._process[key] = Process(len(self.processes), host, pid, device)
            self.processes.append(process)
            self._pids.add((host, pid))
        return process

    def comm(
        self,
        process: Process,
        pointer: str,
        rank: int,
        nranks: int,
        id: str,
        split: tuple[str, str] | None,
        line: int,
    ) -> Comm:
        """The communicator of a line, and the rank put where the line says.

        By its address in this process while it lives; else by NCCL's commId; else, split off another, by that one
        and the colour; else the n-th of this size that has this rank.
        """
        comm = process.live.get(pointer)
        if comm is None or comm.nranks != nranks:
            parent = process.live.get(split[0]) if split else None
            if id:
                key: tuple[object, ...] = (id, nranks)
            elif split and parent is not None:
                key = (self.comms.index(parent) if parent in self.comms[:64] else 0, split[1], nranks)
            else:
                nth = self._nth[nranks, rank] = self._nth.get((nranks, rank), -1) + 1
                key = (nranks, nth)
                if len(self._nth) > _ENTRIES:
                    self._nth.clear()
            if (comm := self._comm.get(key)) is None:
                if len(self.comms) >= _COMMS:
                    self.comms_beyond += 1
                    return self._lost
                comm = self._comm[key] = Comm(nranks, id, line)
                self.comms.append(comm)
        if len(process.live) < 256:
            process.live[pointer] = comm
        if comm not in process.seen[:2]:
            process.seen = [*process.seen[:1], comm]
        comm.id = comm.id or id
        if rank not in comm.at and process.index >= 0:
            if self._entries < _ENTRIES:
                comm.at[rank] = process.index
                self._entries += 1
            else:
                comm.beyond += 1
        return comm

    def enter(self, place: Place, comm: Comm) -> None:
        """The thread begins to set a communicator up: what follows is about it."""
        if place.comm is not comm:
            if place.comm.nranks == 0:
                self._settle(place)
            place.comm = comm

    def leave(self, place: Place, comm: Comm) -> None:
        """The communicator stands. Before 2.17 only this line names it: what came before was about it."""
        if place.comm.nranks == 0:
            comm.absorb(place.comm)
            place.comm = Comm()
        if place.comm is not comm:
            place.comm.last = comm

    def _settle(self, place: Place) -> None:
        if place.comm.pairs or place.comm.rings:
            (place.comm.last or self._lost).absorb(place.comm)

    def settle(self) -> list[Comm]:
        """All communicators; what no communicator was named for goes to the thread's last one."""
        for place in (*self.places.values(), self.nowhere):
            place.process.lines += place.lines
            if place.comm.nranks == 0:
                if place.comm.last is None and len(place.process.seen) == 1:
                    place.comm.last = place.process.seen[0]
                self._settle(place)
                place.comm = Comm()
        self._mend()
        return [*self.comms, self._lost]

    def _mend(self) -> None:
        """Lines of several writers get mixed: `de1` and `nonode1`, of which there is next to nothing, are node1."""
        lines, pids = [0] * len(self.hosts), [set[int]() for _ in self.hosts]
        for process in self.processes:
            lines[process.host] += process.lines
            pids[process.host].add(process.pid)
        for name, host in self._host.items():
            for start in range(1, len(name)):
                if (other := self._host.get(name[start:])) is not None:
                    few, many = sorted((host, other), key=lambda one: lines[one])
                    if pids[few] & pids[many] and (lines[few] <= 2 or 20 * lines[few] <= lines[many]):
                        self.same[few] = many
        for process in self.processes:
            process.host = self.same.get(process.host, process.host)
        busy = {self.processes[at].host for comm in self.comms for at in comm.at.values()}
        self.torn = {host for host, told in enumerate(lines) if told <= 2} - busy

    def version(self, library: str, version: str, line: int) -> None:
        self.library = library
        self.versions.add(version, line)

    def setting(self, name: str, value: str, line: int, *, plugin: bool) -> None:
        one = self.settings.get(name)
        if one is None:
            if len(self.settings) >= 2 * self.TOLD:
                return
            one = self.settings[name] = Setting(line, plugin)
        one.count[0] += 1
        self.touched.append(one.count)
        if value not in one.values and len(one.values) < 8:
            one.values.append(value[:_LONGEST])

    def table(self, line: int, comm: Comm) -> Table:
        table = Table(line, comm)
        if len(self.tables) < 16:
            self.tables.append(table)
        return table

    def message(self, level: str, where: str, text: str, line: int) -> None:
        text = text.strip()[:_LONGEST]
        key = (level, where.partition(":")[0], _NUMBER.sub("#", text))
        self.messages.add(key, line)
        if key in self.messages:
            self.texts.setdefault(key, f"{where}\n{text}")

    def facts_of(self, tally: Tally[str]) -> tuple[NcclFact, ...]:
        return tuple(NcclFact(name=name, count=count, line=line) for name, (count, line) in tally.items())

    def gdr_records(self) -> Iterator[NcclGdr]:
        for (network, nic, enabled, why), (count, line) in self.gdr.items():
            yield NcclGdr(network=network, nic=nic, enabled=enabled, why=why, count=count, line=line)

    def plugin_records(self) -> Iterator[NcclPlugin]:
        for (kind, name, state, version), (count, line) in self.plugins.items():
            yield NcclPlugin(kind=kind, name=name, state=state, version=version, count=count, line=line)

    def choice_records(self) -> Iterator[NcclChoice]:
        for (op, nbytes, algorithm, protocol, channels, time_us), (count, line) in self.choices.items():
            yield NcclChoice(
                op=op,
                nbytes=nbytes,
                algorithm=algorithm,
                protocol=protocol,
                channels=channels,
                time_us=time_us,
                count=count,
                line=line,
            )

    def cost_records(self) -> Iterator[NcclCosts]:
        for table in self.tables:
            comm = table.comm if table.comm.nranks else table.comm.last or table.comm
            yield NcclCosts(
                line=table.line,
                comm=comm.id,
                costs=tuple(
                    NcclCost(
                        op=op, algorithm=algo, protocol=proto, latency_us=late, bandwidth_gbps=wide, max_threads=most
                    )
                    for op, algo, proto, late, wide, most in table.costs
                ),
            )

    def message_records(self) -> Iterator[NcclMessage]:
        for key, (count, line) in self.messages.items():
            where, _, text = self.texts[key].partition("\n")
            yield NcclMessage(level=key[0], where=where, text=text, count=count, line=line)
