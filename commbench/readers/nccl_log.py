"""NCCL_DEBUG=INFO logs (NCCL 2.3 to 2.32, RCCL), alone or between the lines of a job, under any launcher's prefix.

One pass, in batches of about a megabyte. Nearly all of a large log are connections, and those of one pair of ranks
differ by the channel's number only: without it, equal lines of a batch are counted at once. Lines that set a
communicator up or begin a cost table part a batch, for what follows is about those. What is kept is bounded whatever
the log's size.
"""

import re
from collections import Counter
from collections.abc import Iterator

from commbench.allowlist import environment
from commbench.readers.base import NOWHERE, Found, Reader
from commbench.readers.nccl_log_known import Comm, Known, Place
from commbench.readers.nccl_log_words import told, told_outside
from commbench.readers.source import LONGEST, Problem, Source
from commbench.records import Host, Machine
from commbench.records.nccl import NcclHost, NcclLog, NcclPair, NcclRank, NcclSetting, NcclTransport

INFO = b"NCCL INFO "
_PLACE = re.compile(rb"([A-Za-z0-9][\w.-]*):(\d+):(\d+) \[(\d+)\]")  # host:pid:tid [cuda device]
_VIA = re.compile(
    rb"(\d{1,7})(?:\[\w+\])? -> (\d{1,7})(?:\[\w+\])?(?: \[(?:send|receive)\])? via (.+)"  # a connection
    rb"|(\d{1,7}) \[(?:send|receive)\] via (COLLNET.+)"  # ... to a switch that reduces
)
_AFTER = re.compile(r"\x1b\[[0-9;]*m| comm 0x.*$| \[cite.*$")  # colours; RCCL's tail; a quoting tool's
_COLOUR = re.compile(r"\x1b\[[0-9;]*m| \[cite.*$")
_NET = re.compile(r"(?:COLL)?NET/(.+?)/(\d+)(?:\((\d+)\))?((?:/\w+)*)$")
_LOCAL = re.compile(r"(?:SHM|P2P/(?!MNNVL)|direct shared memory)")
_TORN = re.compile(rb"-> \d+(?:\[\w+\])?(?: \[\w+\])? via (?:P2P|NET|SHM|COLLNET|direct)")
# The channel's number of a connection: `Channel 00/0 : 0[0] -> 1[1] via`, `Ring 00 : 0 -> 1 [send] via`
_CHANNEL = re.compile(rb"NCCL INFO (?:Channel|Ring|Coll(?:Net)?) [\d/]+ : (?=\d+ ?[\[-])")
_NEIGHBOURS = re.compile(rb"> -?\d+ -> -?\d+ -> -?\d+.*")  # `Ring 00 : 1 -> 0 -> 1`: no connection
_CONNECTED = b"NCCL INFO > "
_PARTING = (b" cudaDev ", b"NThreads |")
_KEPT_HEADS, _KEPT_ROUTES, _KEPT_PAIRS, _KEPT_REPEATED, _KINDS = 2**16, 2**15, 2**17, 2**13, 2**12
_TOLD_PROBLEMS, _TOLD_PAIRS, _TOLD_TRANSPORTS, _TOLD_RANKS = 100, 4096, 512, 2**16
_RANK_BITS, _KIND_BITS = 24, 16
_LONGEST, _HEAD = 2**13, 500  # bytes: NCCL's own buffers hold 1 to 2 KiB


class Kind:
    """Counts of one kind of transport. `beyond`: lines for whose pair of ranks there was no more room."""

    def __init__(self, text: str, pxn: bool, line: int) -> None:
        self.text, self.pxn, self.line = text, pxn, line
        self.intra = self.inter = self.unplaced = self.beyond = 0


class _Log:
    """What was read so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.known = Known()
        self.heads: dict[bytes, Place] = {}
        self.routes: dict[bytes, int] = {}  # a connection's text -> its pair of ranks and its kind
        self.repeated: dict[bytes, tuple[list[int], ...]] = {}  # a message -> the counts it adds to
        self.kinds: list[Kind] = []
        self.kind_of: dict[bytes, int] = {}  # what stands behind `via` -> index of its kind
        self.pairs = 0
        self.problems: list[Problem] = []
        self.unread = 0
        self.outside = 0  # lines of NCCL other than NCCL INFO

    def problem(self, line: int, reason: str) -> None:
        self.unread += 1
        if len(self.problems) < _TOLD_PROBLEMS:
            self.problems.append(self.source.problem(line, reason))

    def place(self, head: bytes) -> Place:
        """Who wrote a line, by what stands before NCCL INFO."""
        text = head
        if head[:1] == b"[" and 0 < (end := head.find(b"] ", 0, 48)) < len(head) - 2:
            text = head[end + 2 :]  # a time: the rest repeats
        text = text[-_HEAD:]
        if (place := self.heads.get(text)) is None:
            match = _PLACE.search(text)
            place = self.known.place(match) if match else self.known.nowhere
            if len(self.heads) >= _KEPT_HEADS:
                self.heads.clear()
            self.heads[text] = place
        return place

    def connection(self, place: Place, text: bytes, line: int, times: int) -> None:
        """Count `0[0] -> 1[1] [send] via NET/IB/0/GDRDMA`, of the communicator that its writer set up last."""
        route = self.routes.get(text)
        if route is None:
            if (route := self._route(text, line)) is None:
                self.problem(line, "a connection that is cut off or mixed with another line")
                if INFO in text:
                    self.take(text[text.find(b"via ") + 4 :], line, times)
                return
            if len(self.routes) >= _KEPT_ROUTES:
                self.routes.clear()
            self.routes[text] = route
        pairs = place.comm.pairs
        if route in pairs:
            pairs[route] += times
        elif self.pairs < _KEPT_PAIRS:
            self.pairs += 1
            pairs[route] = times
        else:
            self.kinds[route & (2**_KIND_BITS - 1)].beyond += times

    def _route(self, text: bytes, line: int) -> int | None:
        if INFO in text or (match := _VIA.fullmatch(text)) is None:
            return None
        via = match[3] or match[5]
        kind = self.kind_of.get(via)
        if kind is None:
            if (kind := self._kind(_AFTER.sub("", via.decode(errors="replace")).strip(), line)) is None:
                return None
            if len(self.kind_of) >= _KEPT_ROUTES:
                self.kind_of.clear()
            self.kind_of[via] = kind
        source, target = (int(match[1]), int(match[2])) if match[1] else (int(match[4]), int(match[4]))
        return ((source << _RANK_BITS | target) << _KIND_BITS) | kind

    def _kind(self, text: str, line: int) -> int | None:
        """Index of the kind of transport behind `via`."""
        pxn = False
        if text.startswith(("NET/", "COLLNET/")):
            if (net := _NET.match(text)) is None:
                return None
            pxn = net[3] is not None
            text = text.replace(f"({net[3]})", "", 1) if pxn else text
        elif text.startswith("P2P/indirect"):
            text = "P2P/indirect"
        elif not text.startswith(("P2P/", "SHM", "direct shared memory")):
            return None
        for index, kind in enumerate(self.kinds):
            if (kind.text, kind.pxn) == (text, pxn):
                return index
        if len(self.kinds) >= _KINDS:
            return None
        self.kinds.append(Kind(text, pxn, line))
        return len(self.kinds) - 1

    def take(self, line: bytes, number: int, times: int) -> None:
        """A line that stands `times` times in its part of the log, first at `number`."""
        at = line.find(INFO)
        if at >= 0 and len(line) > _LONGEST:
            self.problem(number, f"a line of {len(line)} bytes, longer than any of NCCL's")
            return
        if at < 0:
            if b"CCL" in line or b"nccl" in line or b" version " in line:
                self.outside += times * told_outside(self.known, line.decode(errors="replace"), number)
            elif b" via " in line and _TORN.search(line):
                self.problem(number, "a connection without its beginning")
            return
        place = self.heads.get(line[:at]) or self.place(line[:at])
        place.lines += times
        message = line[at + len(INFO) :]
        if message[:2] == b"> " and b" via " in message:
            self.connection(place, message[2:], number, times)
        elif (counts := self.repeated.get(message)) is not None:
            for count in counts:
                count[0] += times
        elif b": opCount " not in message:  # those: one a call and a rank, no two alike
            self._message(place, message, number, times)

    def _message(self, place: Place, message: bytes, line: int, times: int) -> None:
        if INFO in message:  # two ranks wrote at the same time
            first = _PLACE.search(message)
            self.take(message[first.start() if first else 0 :], line, times)
            message = message[: first.start() if first else message.find(INFO)]
        if message.startswith(b"> ") and not _NEIGHBOURS.fullmatch(message):
            self.problem(line, "a connection that is cut off or mixed with another line")
            return
        self.known.touched.clear()
        text = message.decode(errors="replace").strip()
        if "\x1b" in text or " [cite" in text:
            text = _COLOUR.sub("", text)
        if reason := told(self.known, place, text, line):
            self.problem(line, reason)
        elif self.known.touched:
            for count in self.known.touched:
                count[0] += times - 1
            if len(self.repeated) >= _KEPT_REPEATED:
                self.repeated.clear()
            self.repeated[message] = tuple(self.known.touched)

    def transports(self) -> None:
        """Split the counts into lines inside a host and between hosts."""
        for comm in self.known.settle():
            for key, count in comm.pairs.items():
                kind = self.kinds[key & (2**_KIND_BITS - 1)]
                target = comm.at.get((key >> _KIND_BITS) & (2**_RANK_BITS - 1))
                source = comm.at.get(key >> (_KIND_BITS + _RANK_BITS))
                if kind.text.startswith("COLLNET"):
                    kind.inter += count
                elif source is not None and target is not None:
                    same = self.known.processes[source].host == self.known.processes[target].host
                    kind.intra += count if same else 0
                    kind.inter += 0 if same else count
                elif _LOCAL.match(kind.text):
                    kind.intra += count
                else:
                    kind.unplaced += count
        for kind in self.kinds:
            local = _LOCAL.match(kind.text) is not None
            kind.intra += kind.beyond if local else 0
            kind.unplaced += 0 if local else kind.beyond


def _batches(source: Source) -> Iterator[bytes]:
    """The log in pieces of whole lines, without the last one's end. A line that is too long is an empty one."""
    rest, dropping = b"", False
    for block in source.readable():
        if dropping:
            _, end, block = block.partition(b"\n")
            if not end:
                continue
            yield b""
            dropping = False
        whole, end, rest = (rest + block).rpartition(b"\n")
        if end:
            yield whole
        if len(rest) > LONGEST:
            rest, dropping = b"", True
    if rest or dropping:
        yield rest


def _parts(batch: bytes) -> Iterator[bytes]:
    """The batch cut before and behind each line that changes what the lines after it are about."""
    marks = sorted(at for word in _PARTING for at in _all(batch, word))
    begin = 0
    for mark in marks:
        if mark < begin:
            continue
        start = batch.rfind(b"\n", begin, mark) + 1 or begin
        if start > begin:
            yield batch[begin : start - 1]
        end = batch.find(b"\n", mark)
        yield batch[start : end if end >= 0 else None]
        if end < 0:
            return
        begin = end + 1
    yield batch[begin:]


def _all(text: bytes, word: bytes) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + 1)


def read(source: Source) -> Iterator[Found | Problem]:
    """One Found for the file, with a NcclLog; none where NCCL says nothing. Raises ReadError."""
    log, number = _Log(source), 1
    for batch in _batches(source):
        for part in _parts(_CHANNEL.sub(_CONNECTED, batch.replace(b"\r\n", b"\n") if b"\r" in batch else batch)):
            lines = part.split(b"\n")
            if len(lines) == 1:
                log.take(part, number, 1)
            else:
                first = dict(zip(reversed(lines), range(number + len(lines) - 1, number - 1, -1), strict=True))
                for line, times in Counter(lines).items():
                    log.take(line, first[line], times)
            number += len(lines)
    yield from log.problems
    if log.unread > len(log.problems):
        yield source.problem(0, f"{log.unread - len(log.problems)} more lines that could not be read")
    if log.known.places or log.known.nowhere.lines or log.outside or log.known.messages:
        yield _found(log)


def _found(log: _Log) -> Found:
    known = log.known
    log.transports()
    world = max(known.comms, key=lambda comm: (comm.nranks, len(comm.at)), default=Comm())
    ranks = sorted(rank for rank in world.at if 0 <= rank < world.nranks)
    whole = bool(ranks) and len(ranks) == world.nranks
    order: dict[int, int] = {}  # host as met in the log -> its index by the lowest rank on it
    for rank in ranks:
        order.setdefault(known.processes[world.at[rank]].host, len(order))
    for host in range(len(known.hosts)):
        if host not in known.same and not (whole and host in known.torn):
            order.setdefault(host, len(order))
    names = sorted(order, key=lambda host: order[host])
    kept, hidden = environment({name: one.values[0] for name, one in known.settings.items() if not one.plugin})
    facts = {"nccl": ", ".join(known.versions)}
    for driver in known.drivers:  # 12080, or HIP 6.2.41133
        name, _, version = driver.rpartition(" ")
        name = name.lower() or "cuda_driver"
        facts[name] = ", ".join(filter(None, (facts.get(name), version)))
    return Found(
        tool=f"{known.library} {next(iter(known.versions), '')}".strip(),
        machine=Machine(
            hosts=tuple(Host(name=known.hosts[host].name) for host in names),
            host_of=tuple(order[known.processes[world.at[rank]].host] for rank in ranks) if whole else (),
            launcher=NOWHERE.launcher,
            facts={name: value for name, value in facts.items() if value},
            environment=kept,
            hidden=hidden,
        ),
        parts=(_record(log, world, ranks, order, names, set(hidden)),),
    )


def _record(
    log: _Log, world: Comm, ranks: list[int], order: dict[int, int], names: list[int], hidden: set[str]
) -> NcclLog:
    known = log.known
    pairs = _pairs(log, world)
    kinds = sorted(_transports(log.kinds), key=lambda kind: -kind.count)
    comms = [comm for comm in known.comms if comm.nranks]
    return NcclLog(
        library=known.library,
        versions=known.facts_of(known.versions),
        drivers=known.facts_of(known.drivers),
        hosts=tuple(
            NcclHost(name=one.name, nics=one.nics, interfaces=one.interfaces, bootstrap=one.bootstrap)
            for one in (known.hosts[host] for host in names)
        ),
        ranks=tuple(
            NcclRank(rank=rank, host=order[one.host], pid=one.pid, device=one.device, bus=one.bus, lines=one.lines)
            for rank in ranks[:_TOLD_RANKS]
            for one in (known.processes[world.at[rank]],)
        ),
        comms=tuple(comm.record() for comm in comms[: known.TOLD]),
        network=known.facts_of(known.networks),
        gdr=tuple(known.gdr_records()),
        plugins=tuple(known.plugin_records()),
        transports=tuple(kinds[:_TOLD_TRANSPORTS]),
        pairs=tuple(pairs[key] for key in sorted(pairs)[:_TOLD_PAIRS]),
        choices=tuple(known.choice_records()),
        costs=tuple(known.cost_records()),
        settings=tuple(
            NcclSetting(
                name=name,
                values=tuple(one.values),
                count=one.count[0],
                line=one.count[1],
                source="plugin" if one.plugin else "environment",
            )
            for name, one in sorted(known.settings.items())
            if name not in hidden and environment(dict.fromkeys([name], one.values[-1]))[1] == ()
        ),
        facts=known.facts_of(known.facts),
        messages=tuple(known.message_records()),
        lines=log.outside + sum(place.lines for place in (*known.places.values(), known.nowhere)),
        ranks_total=len(ranks),
        comms_total=len(comms) + known.comms_beyond,
        transports_total=len(kinds),
        pairs_total=len(pairs),
        choices_total=len(known.choices) + known.choices.beyond[0],
        messages_total=len(known.messages) + known.messages.beyond[0],
    )


def _pairs(log: _Log, world: Comm) -> dict[tuple[int, int], NcclPair]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for key, count in world.pairs.items():
        ends = key >> (_KIND_BITS + _RANK_BITS), (key >> _KIND_BITS) & (2**_RANK_BITS - 1)
        if ends[0] != ends[1]:
            kinds, text = found.setdefault(ends, {}), log.kinds[key & (2**_KIND_BITS - 1)].text
            kinds[text] = kinds.get(text, 0) + count
    return {ends: NcclPair(source=ends[0], target=ends[1], kinds=kinds) for ends, kinds in found.items()}


def _transports(kinds: list[Kind]) -> Iterator[NcclTransport]:
    alike: dict[str, list[Kind]] = {}
    for kind in kinds:
        alike.setdefault(kind.text, []).append(kind)
    for text, those in alike.items():
        net = _NET.match(text)
        yield NcclTransport(
            kind=text,
            line=min(kind.line for kind in those),
            network=net[1] if net else "",
            nic=int(net[2][:8]) if net else None,
            gdrdma="/GDRDMA" in net[4] if net else None,
            pxn=sum(kind.intra + kind.inter + kind.unplaced for kind in those if kind.pxn),
            intra=sum(kind.intra for kind in those),
            inter=sum(kind.inter for kind in those),
            unplaced=sum(kind.unplaced for kind in those),
        )


READER = Reader(
    says="NCCL debug log",
    signatures=(b"NCCL INFO", b"NCCL WARN", b"NCCL version", b"RCCL version", b"ProcessGroupNCCL"),
    read=read,
)
