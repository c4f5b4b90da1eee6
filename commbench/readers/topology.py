"""NCCL's XML files: topology (NCCL_TOPO_FILE, NCCL_TOPO_DUMP_FILE; RCCL's too) and graphs (NCCL_GRAPH_DUMP_FILE).

A file may come from anybody: document types and entities are refused, and depth, nodes and size are bounded. What
an element is: `src/graph/xml.cc` and `topo.cc` of NCCL. A topology written by hand leaves out nearly everything; a PCI
device is then known by its class.
"""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from xml.parsers import expat

import msgspec

from commbench.errors import ReadError
from commbench.readers.base import Found, Reader
from commbench.readers.source import Problem, Source
from commbench.records.topology import Device, DeviceKind, DeviceLink, GpuTopology, Graph, Hop

_BYTES, _DEEP, _NODES, _TOLD = 2**24, 64, 2**16, 100
_CLASSES: tuple[tuple[str, DeviceKind], ...] = (
    ("0x0680", "nvswitch"),
    ("0x03", "gpu"),
    ("0x12", "gpu"),
    ("0x02", "nic"),
)
_LINKS = ("nvlink", "xgmi", "c2c", "pcilink")
_SPEED = re.compile(r"(\d{1,4}(?:\.\d{1,4})?) GT/s")
Value = TypeVar("Value")


class Node(msgspec.Struct):
    """An element."""

    name: str
    line: int
    told: dict[str, str]
    nodes: list["Node"] = []


class _Tree:
    """The elements of a document, built by expat's calls."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.top = Node("", 0, {})
        self.open = [self.top]
        self.count = self.blank = 0
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse

    def read(self) -> Node:
        try:
            text = self.source.text(_BYTES)
            whole = text.lstrip()  # a blank line before <?xml is no reason to refuse the rest
            self.blank = text[: len(text) - len(whole)].count("\n")
            self.parser.Parse(whole.encode(errors="replace"), True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code) or "unknown"
            raise ReadError(f"{self.source.name}:{self._line}: not well-formed XML: {reason}") from None
        return self.top

    @property
    def _line(self) -> int:
        return self.parser.CurrentLineNumber + self.blank

    def _start(self, name: str, told: dict[str, str]) -> None:
        self.count += 1
        if self.count > _NODES or len(self.open) > _DEEP:
            raise ReadError(f"{self.source.name}:{self._line}: more than {_NODES} elements or deeper than {_DEEP}")
        node = Node(name, self._line, told)
        self.open[-1].nodes.append(node)
        self.open.append(node)

    def _end(self, name: str) -> None:
        self.open.pop()

    def _refuse(self, *declared: object) -> None:
        raise ReadError(f"{self.source.name}:{self._line}: document types and entities are refused")


class _Reading:
    """Attributes into values; what is no number is told and left out."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.unread = 0

    def problem(self, line: int, reason: str) -> None:
        self.unread += 1
        if len(self.problems) < _TOLD:
            self.problems.append(self.source.problem(line, reason))

    def told(self) -> Iterator[Problem]:
        yield from self.problems
        if self.unread > len(self.problems):
            yield self.source.problem(0, f"{self.unread - len(self.problems)} more attributes that could not be read")

    def get(self, node: Node, name: str, convert: Callable[[str], Value]) -> Value | None:
        text = node.told.get(name, "").strip()
        try:
            return convert(text) if text else None
        except ValueError:
            self.problem(node.line, f"{name}={text[:40]!r} of <{node.name[:20]}> is no number")
            return None

    def integer(self, node: Node, name: str) -> int | None:
        return self.get(node, name, _integer)

    def number(self, node: Node, name: str) -> float | None:
        return self.get(node, name, _number)

    def flag(self, node: Node, name: str) -> bool | None:
        value = self.integer(node, name)
        return None if value is None else value != 0


def _integer(text: str) -> int:
    """NCCL writes long ones in hexadecimal, with 0x."""
    if not re.fullmatch(r"-?\d{1,18}|0x[0-9a-fA-F]{1,16}", text):
        raise ValueError
    return int(text, 16 if text.startswith("0x") else 10)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?\d{1,15}(\.\d{0,15})?(e[-+]\d{1,2})?", text):
        raise ValueError
    return float(text)


class _Topology(_Reading):
    """One <system>."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.devices: list[Device] = []
        self.hosts: dict[str, int] = {}
        self.parents: dict[str, str] = {}  # of devices
        self.host = ""  # before the ids of all hosts but the first
        self.links: dict[tuple[str, frozenset[str]], DeviceLink] = {}

    def take(self, node: Node, parent: str) -> None:
        """An element and what is in it, below the device `parent`."""
        device = self.device(node, parent)
        if device is not None:
            self.devices.append(device)
            self.parents.setdefault(device.id, device.parent)
            parent = device.id
        for child in node.nodes:
            if child.name in _LINKS:
                self.link(child, parent)
            elif child.name in ("cpu", "pci", "nic", "net", "gpu"):
                self.take(child, parent)

    def device(self, node: Node, parent: str) -> Device | None:
        match node.name:
            case "cpu":
                numa = self.integer(node, "numaid")
                host = node.told.get("host_hash", "")
                number = self.hosts.setdefault(host, len(self.hosts))
                self.host = f"host {number} " if number else ""
                words = (node.told.get(name, "") for name in ("arch", "vendor", "familyid", "modelid"))
                return Device(
                    id=f"{self.host}cpu {numa if numa is not None else len(self.devices)}",
                    kind="cpu",
                    model=" ".join(filter(None, words)),
                    numa=numa,
                    affinity=node.told.get("affinity", ""),
                )
            case "pci":
                return self._pci(node, parent)
            case "net":
                speed = self.number(node, "speed")
                return Device(
                    id=self.host + (node.told.get("name") or f"net {node.told.get('dev', len(self.devices))}"),
                    kind="nic",
                    parent=parent,
                    dev=self.integer(node, "dev"),
                    port=self.integer(node, "port"),
                    guid=node.told.get("guid", ""),
                    gdr=self.flag(node, "gdr"),
                    rate=speed * 1e6 / 8 if speed is not None and speed > 0 else None,
                )
        return None

    def _pci(self, node: Node, parent: str) -> Device:
        """A PCI device; what its <gpu> tells is its own, and a <nic> hangs from it with a name for each port."""
        busid = node.told.get("busid", "")
        gpu = next((child for child in node.nodes if child.name == "gpu"), None)
        nets = any(child.name == "nic" for child in node.nodes)
        code = node.told.get("class", "")
        kind: DeviceKind = next((kind for prefix, kind in _CLASSES if code.lower().startswith(prefix)), "pci")
        if not busid:
            self.problem(node.line, "a <pci> without a busid")
        return Device(
            id=self.host + (busid or f"pci {len(self.devices)}"),
            kind="gpu" if gpu else "pci" if nets else kind,
            parent=parent,
            model=_model(gpu) if gpu else "",
            dev=self.integer(gpu, "dev") if gpu else None,
            rank=self.integer(gpu, "rank") if gpu else None,
            gdr=self.flag(gpu, "gdr") if gpu else None,
            pci_rate=self._pci_rate(node),
        )

    def _pci_rate(self, node: Node) -> float | None:
        """Bytes per second of the declared link: lanes x GT/s, 8 of 10 bits up to 5 GT/s and 128 of 130 above (PCI
        Express base specification; from 64 GT/s on all bits, in packets of one size). Unknown or 0: none told."""
        speed, lanes = node.told.get("link_speed", ""), self.integer(node, "link_width")
        if not speed or speed.startswith(("Unknown", "0")) or not lanes or lanes <= 0:
            return None
        if (match := _SPEED.match(speed)) is None:
            self.problem(node.line, f"link_speed={speed[:40]!r} of <pci> is no speed in GT/s")
            return None
        transfers = float(match[1])
        bits = 0.8 if transfers <= 5 else 128 / 130 if transfers < 64 else 1.0
        return transfers * 1e9 * lanes * bits / 8

    def link(self, node: Node, parent: str) -> None:
        """Links by NVLink and xGMI stand at both ends: the pair is told once. NVSwitches have no end in the file."""
        target = node.told.get("target", "")
        if node.name == "c2c":
            target = target or self.parents.get(parent, "")
        if not target:
            self.problem(node.line, f"a <{node.name}> without a target")
            return
        target = target if node.name == "c2c" else self.host + target
        count = self.integer(node, "count")
        if count is not None and count <= 0:
            return
        bw = self.number(node, "bw")  # MB/s of one, as nvml tells it
        key = (node.name, frozenset((parent, target)))
        known = self.links.get(key)
        if known is not None and known.ends[0] == parent and count is not None:
            count += known.count or 0
        if known is None or known.ends[0] == parent:
            rate = bw * 1e6 * (count or 1) if bw else None
            self.links[key] = DeviceLink(kind=node.name, ends=(parent, target), count=count, rate=rate)


def _model(gpu: Node) -> str:
    return gpu.told.get("gcn", "") or (f"sm {gpu.told['sm']}" if "sm" in gpu.told else "")


def _graph(node: Node, reading: _Reading) -> Graph | None:
    number = reading.integer(node, "id")
    if number is None:
        reading.problem(node.line, "a <graph> without an id")
        return None
    channels = []
    for channel in node.nodes:
        hops = []
        for one in channel.nodes:
            dev = reading.integer(one, "dev")
            if dev is not None and one.name in ("net", "gpu"):
                hops.append(Hop(kind="gpu" if one.name == "gpu" else "net", dev=dev, rank=reading.integer(one, "rank")))
        channels.append(tuple(hops))
    return Graph(
        id=number,
        pattern=reading.integer(node, "pattern"),
        crossnic=reading.integer(node, "crossnic"),
        nchannels=reading.integer(node, "nchannels"),
        intra_gbps=reading.number(node, "speedintra"),
        inter_gbps=reading.number(node, "speedinter"),
        inter_latency_us=reading.number(node, "latencyinter"),
        intra=node.told.get("typeintra", ""),
        inter=node.told.get("typeinter", ""),
        same_channels=reading.flag(node, "samechannels"),
        channels=tuple(channels),
        line=node.line,
    )


def read(source: Source) -> Iterator[Found | Problem]:
    """One Found with a GpuTopology, or with the Graphs of a graph file; none for another XML. Raises ReadError."""
    if not next(source.blocks(), b"").lstrip().startswith(b"<"):
        return  # a log that quotes one
    for top in _Tree(source).read().nodes:
        if top.name == "system":
            topology = _Topology(source)
            for node in top.nodes:
                topology.take(node, "")
            yield from topology.told()
            if topology.devices:
                part = GpuTopology(
                    source="nccl-xml",
                    devices=tuple(topology.devices),
                    links=tuple(topology.links.values()),
                    line=top.line,
                )
                yield Found(tool="NCCL topology", line=top.line, parts=(part,))
            else:
                yield source.problem(top.line, "a <system> without a device")
        elif top.name == "graphs":
            reading = _Reading(source)
            graphs = tuple(graph for node in top.nodes if node.name == "graph" if (graph := _graph(node, reading)))
            yield from reading.told()
            if graphs:
                yield Found(tool="NCCL graphs", line=top.line, parts=graphs)
            else:
                yield source.problem(top.line, "<graphs> without a graph")


READER = Reader(says="NCCL topology or graph XML", signatures=(b"<system", b"<graphs"), read=read)
