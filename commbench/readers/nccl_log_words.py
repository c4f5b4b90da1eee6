"""What each line of a NCCL log says, by its first word: `WORDS`. A handler notes it and answers with a reason where
the line could not be read, "" where it could or means nothing here. Formats: NCCL's sources, 2.3.5 to 2.32."""

import re
from collections.abc import Callable

from commbench.readers.nccl_log_known import Known, Place

Handler = Callable[[Known, Place, str, int], str]

_COMM = re.compile(r"comm (0x[\w.]+) rank (\d{1,8}) n[rR]anks (\d{1,8})(?: |$)")
_STATE = re.compile(r"(Init|Destroy|Abort|Revoke) (START|COMPLETE)")
_POINTER = re.compile(r"0x[0-9a-f]{1,32}")
_STATES = {"Init": "complete", "Destroy": "destroyed", "Abort": "aborted", "Revoke": "revoked"}
_RING = re.compile(r"Channel (\d{1,6})(?:/(\d{1,6}))? :((?: +\d+)+) ?(\.{1,3})?")
_CHANNELS = re.compile(
    r"(\d{1,6}) coll channels(?:, (\d{1,6}) collnet channels)?(?:, (\d{1,6}) nvls channels)?, (\d{1,6}) p2p channels"
)
_SET = re.compile(r"((?:NCCL|RCCL|TORCH_NCCL)_\w+) set (?:by environment )?to (.*)")
_OFI_SET = re.compile(r"Setting ([A-Z][A-Z0-9_]+)(?: environment variable)?(?: to |=)\"?([^\"\s]+)")
_CHOICE = re.compile(
    r"(?:(\w+)(?: \[Symmetric\])?: )?(\d{1,18}) Bytes -> (?:Algo (\w+) proto (\w+)|Kernel (\w+))"
    r"(?: time (\S+)| channel\{Lo\.\.Hi\}=\{(\d+)\.\.(\d+)\}| nchannels (\d+).*)?"
)
_ALGORITHMS = ("TREE", "RING", "COLLNETDIRECT", "COLLNETCHAIN", "NVLS", "NVLSTREE", "PAT")  # NCCL_ALGO_*
_PROTOCOLS = ("LL", "LL128", "SIMPLE")  # NCCL_PROTO_*
_GDR_NIC = re.compile(
    r"NET/(.+?) ?: GPU Direct RDMA (?:\((.+?)\) )?([Ee]nabled|[Dd]isabled) for (?:GPU \S+ / )?HCA (\w+)(?: '([^']*)'?)?"
    r"(?: \((.*?)\))?"
)
_GDR_GPU = re.compile(r"GPU Direct RDMA (Enabled|Disabled) for (?:GPU \w+ / HCA \w+|\S+)(?: \((distance .*?)\))?")
_INTERFACE = re.compile(r"(?:\[\d+\])?([^\s<\[]+)<\d+>")
_NIC = re.compile(r"\[\d+\](\S+?:\S*/\S+)")
_CELL = re.compile(r" *(-?[\d.]+)/ *(-?[\d.]+) *")

# (what it matches, kind, state); groups by name: kind, name, v(ersion)
_PLUGINS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), kind, state)
    for pattern, kind, state in (
        (r"\w+/Plugin ?: Loaded (?P<kind>net|coll(?:net)?|gin|rma) plugin (?P<name>.+) \((?P<v>v\d+)\)", "", "loaded"),
        (r"(?P<kind>[A-Z]+)/Plugin: [Ll]oaded (?P<name>\S+?)(?: \((?P<v>v\d+)\)|\.)?$", "", "loaded"),
        (r"(?P<kind>[A-Z]+)/Plugin: Using (?:tuner plugin )?(?!int)(?P<name>.+?)(?: \((?P<v>v\d+)\))?$", "", "loaded"),
        (r"(?P<kind>[A-Z]+)/Plugin ?: .*?No plugin found \((?P<name>[^)]+)\)", "", "missing"),
        (r"(?P<kind>[A-Z]+)/Plugin ?: (?:Could not find|No plugin found)\W*(?P<name>[^\s,]*)", "", "missing"),
        (r"(?P<kind>[A-Z]+)/Plugin: Assigned plugin (?P<name>.+?)(?: type \d+)? to comm", "", "assigned"),
        (r"Assigned (?P<kind>[A-Z]+) plugin (?P<name>.+) to comm", "", "assigned"),
        (r"Successfully loaded external (?P<kind>\w+) plugin (?P<name>\S+)", "", "loaded"),
        (r"(?P<kind>[A-Z]+)/Plugin: Successfully loaded external plugin (?P<name>\S+)", "", "loaded"),
        (r"Failed to initialize (?P<kind>[A-Z]+) plugin (?P<name>.+)", "", "failed"),
        (r"NET/OFI (?:Initializing|Using) (?P<name>aws-ofi-nccl) (?P<v>\S+)", "net", "loaded"),
        (r"NET/gIB ?: Initializing (?P<name>gIB) (?P<v>\S+)", "net", "loaded"),
        (r"P2P plugin (?:v\d+ )?(?P<name>\w+)", "net", "loaded"),
        (r"Tuner: (?:no plugin found|plugin load) '(?P<name>[^']+)'", "tuner", "missing"),
        (r"(?:Opened tuner|Using tuner plugin): '(?P<name>[^']+)'", "tuner", "loaded"),
    )
)  # fmt: skip

_FACTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"NVLS multicast support is available", "NVLS available"),
        (r"NVLS multicast support is not available", "NVLS not available"),
        (r"Connected NVLS tree", "NVLS connected"),
        (r"NVLS comm ", "NVLS buffers allocated"),
        (r"rank \d+ Connected CollNet", "CollNet connected"),
        (r"Connected Collnet Chains|Connected collnet", "CollNet connected"),
        (r"Connected all rings, use (ring PXN \d GDR \d)", "{}"),
        (r"Could not enable P2P between", "P2P could not be enabled"),
        (r"peer query failed between", "P2P query failed"),
        (r"NET/IB : No device found", "no IB device found"),
        (r"NET/IB : Using \[RO\]; OOB", "no IB device found"),
        (r"PXN Disabled as plugin is v4", "PXN disabled: the plugin is too old"),
        (r"DMA-BUF is available", "DMA-BUF available"),
        (r"Check P2P Type isAllDirectP2p 0", "P2P is not direct between all GPUs of a host"),
        (r"CC On", "confidential computing on"),
        (r"Launch mode (Group)", "launch mode Group"),
        (r"RCCL enabled same node P2P over network", "P2P inside a host over the network"),
        (r"MSCCL: Initialization finished", "MSCCL in use"),
        (r"NET/OFI Selected [Pp]rovider is (.+)", "libfabric provider {}"),
        (r"NET/OFI Using Libfabric version (\S+)", "libfabric {}"),
        (r"NET/OFI Using transport protocol (\S+)", "libfabric plugin protocol {}"),
        (r"Communicator has \d+ nodes which is less than CollNet node threshold", "CollNet disabled: too few nodes"),
    )
)  # fmt: skip


def _comm(known: Known, place: Place, text: str, line: int) -> str:
    if (match := _COMM.search(text)) is None:
        started = text.startswith("comm 0x") or " comm 0x" in text
        return "a communicator's line that is cut off or mixed with another line" if started else ""
    pointer, rank, nranks = match[1], int(match[2]), int(match[3])
    words = text[match.end() :].partition("- ")[0].split()
    tail = dict(zip(words[::2], words[1::2], strict=False))
    device = tail.get("cudaDev", "")
    process = known.process(
        place.process.host, place.process.pid, int(device[:6]) if device.isdecimal() else place.process.device
    )
    process.bus = process.bus or tail.get("busId", "")[:32]
    id = tail.get("commId", "")
    split = (tail["parent"], " ".join(words[:-2])) if "parent" in tail else None
    comm = known.comm(process, pointer, rank, nranks, id if _POINTER.fullmatch(id) else "", split, line)
    if (nodes := tail.get("nNodes", "")).isdecimal():
        comm.nnodes = int(nodes[:8])
    if tail.get("MNNVL") in ("0", "1"):
        comm.mnnvl = tail["MNNVL"] == "1"
    if state := _STATE.search(text, match.end()):
        begun = state[2] == "START"
        if state[1] == "Init":
            (known.enter if begun else known.leave)(place, comm)
        comm.state = comm.state or "started" if begun else _STATES[state[1]]
        if state[1] in ("Destroy", "Abort") and not begun:
            process.live.pop(pointer, None)
    return ""


def _channel(known: Known, place: Place, text: str, line: int) -> str:
    """`Channel 00/24 : 0 1 2 3`: a ring."""
    if (match := _RING.fullmatch(text.rstrip())) is None:
        return "a channel that is cut off or mixed with another line"
    told = match[3].split()
    cut = match[4] is not None
    place.comm.ring(int(match[1]), [int(rank[:8]) for rank in (told[:-1] if cut else told)[: known.ORDER]], cut, line)
    if match[2] is not None:
        place.comm.channels = place.comm.channels or int(match[2])
    return ""


def _trees(known: Known, place: Place, text: str, line: int) -> str:
    if (match := re.match(r"Trees \[0\] (\S+)", text)) and len(place.comm.trees) < known.TREES:
        place.comm.trees.append(match[1])
    return ""


def _channels(known: Known, place: Place, text: str, line: int) -> str:
    if (match := _CHANNELS.match(text)) is None:
        return "numbers of channels that are cut off or mixed with another line"
    comm = place.comm
    comm.channels, comm.p2p_channels = int(match[1]), int(match[4])
    comm.collnet_channels = int(match[2]) if match[2] else None
    comm.nvls_channels = int(match[3]) if match[3] else None
    return ""


def _timings(known: Known, place: Place, text: str, line: int) -> str:
    if match := re.match(r"Init timings.*? total (\d{1,6}\.\d{1,9})", text):
        place.comm.seconds = max(place.comm.seconds or 0.0, float(match[1]))
    return ""


def _choice(known: Known, place: Place, text: str, line: int) -> str:
    if (match := _CHOICE.match(text)) is None:
        return "a choice of algorithm that is cut off or mixed with another line"
    low, high = (match[7], match[8]) if match[7] else (None, None)
    known.choices.add(
        (
            match[1] or "",
            int(match[2]),
            "SYMMETRIC" if match[5] else _named(match[3], _ALGORITHMS),
            match[5] or _named(match[4], _PROTOCOLS),
            (int(low[:8]), int(high[:8]))
            if low and high
            else (0, int(match[9][:8]) - 1)
            if match[9] and int(match[9][:8])
            else None,
            _number(match[6]) if match[6] else None,
        ),
        line,
    )
    return ""


def _named(text: str, names: tuple[str, ...]) -> str:
    """Older versions write the number."""
    return names[int(text[:8])] if text.isdecimal() and int(text[:8]) < len(names) else text.upper()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e15 else None


def _op(known: Known, place: Place, text: str, line: int) -> str:
    if " Bytes -> " in text:
        return _choice(known, place, text, line)
    return _cost(known, place, text, line) if "|" in text else ""


def _header(known: Known, place: Place, text: str, line: int) -> str:
    """`Algorithm | Tree | Ring | ...` (three a block, from 2.18 on) or `Latency/AlgBw | Tree/ LL | ...`."""
    names = [" ".join(cell.split()) for cell in text.split("|")[1:] if cell.strip()]
    old = text.lstrip().startswith("Latency")
    columns = [tuple(name.replace(" ", "").upper().split("/", 1)) for name in names] if old else [
        (name.upper(), protocol) for name in names for protocol in _PROTOCOLS
    ]  # fmt: skip
    if not names or any(len(column) != 2 for column in columns) or len(columns) > 64:
        return "the head of a cost table that is cut off or mixed with another line"
    if place.table is None or old or names[0] == "Tree":
        place.table = known.table(line, place.comm)
    place.table.columns, place.table.threads = [(column[0], column[1]) for column in columns], []
    return ""


def _threads(known: Known, place: Place, text: str, line: int) -> str:
    cells = [cell.strip() for cell in text.split("|")[1:]]
    if place.table is not None and text.lstrip().startswith("Max NThreads"):
        place.table.threads = [int(cell[:6]) for cell in cells if cell.isdecimal()]
    return ""


def _cost(known: Known, place: Place, text: str, line: int) -> str:
    if (table := place.table) is None:
        return ""
    op, *cells = text.split("|")
    told = [_CELL.fullmatch(cell) for cell in cells[: len(table.columns)]]
    if len(told) < len(table.columns):
        return "a row of a cost table that is cut off or mixed with another line"
    for at, (column, cell) in enumerate(zip(table.columns, told, strict=True)):
        latency, bandwidth = (_number(cell[1]), _number(cell[2])) if cell else (None, None)
        if latency is None or bandwidth is None:
            return "a row of a cost table with something other than two numbers"
        if latency or bandwidth:
            threads = table.threads[at] if at < len(table.threads) else None
            table.add((op.strip(), *column, latency, bandwidth, threads))
    return ""


def _setting(known: Known, place: Place, text: str, line: int) -> str:
    if match := _SET.match(text):
        value = re.sub(r"^(-?\d+)\.$", r"\1", match[2].strip())
        known.setting(match[1], value, line, plugin=False)
    return ""


def _net(known: Known, place: Place, text: str, line: int) -> str:
    host = known.hosts[place.process.host] if place.process.host >= 0 else None
    if "GPU Direct RDMA" in text:
        if match := _GDR_NIC.match(text):
            why = match[2] or match[6] or ""
            known.gdr.add((match[1], match[5] or match[4], match[3][0] in "Ee", why), line)
            return ""
        return "GPU Direct RDMA for a device whose name is cut off or mixed with another line"
    if ": Using [" in text and not text.startswith("NET/IB : Using [RO]"):
        if host is None:
            return ""
        if text.startswith("NET/IB"):
            host.nics = host.nics or tuple(_NIC.findall(text.partition(";")[0])[: known.NICS])
        elif text.startswith("NET/Socket"):
            host.interfaces = host.interfaces or tuple(_INTERFACE.findall(text)[: known.NICS])
        return ""
    if text.startswith("NET/OFI") and (match := _OFI_SET.search(text)):
        known.setting(match[1], match[2], line, plugin=True)
    return _plugin(known, place, text, line) or _fact(known, place, text, line)


def _bootstrap(known: Known, place: Place, text: str, line: int) -> str:
    if place.process.host >= 0 and (match := _INTERFACE.search(text.partition("Using")[2])):
        host = known.hosts[place.process.host]
        host.bootstrap = host.bootstrap or match[1]
    return ""


def _gdr(known: Known, place: Place, text: str, line: int) -> str:
    if match := _GDR_GPU.match(text):
        known.gdr.add(("", "GPU / HCA", match[1] == "Enabled", match[2] or ""), line)
    return ""


def _using(known: Known, place: Place, text: str, line: int) -> str:
    if match := re.match(r"Using (?:network|internal Network|external Network) (.+)", text):
        known.networks.add(match[1].strip(), line)
    return _plugin(known, place, text, line)


def _version(known: Known, place: Place, text: str, line: int) -> str:
    if match := re.match(r"([NR]CCL) version ?:? ?(\S{1,60})", text):
        known.version(match[1], match[2], line)
    return _fact(known, place, text, line)


def _driver(known: Known, place: Place, text: str, line: int) -> str:
    if match := re.match(r"cudaDriverVersion (\d{4,6})\s*$", text):
        known.drivers.add(match[1], line)
    return ""


def _plugin(known: Known, place: Place, text: str, line: int) -> str:
    for pattern, kind, state in _PLUGINS:
        if match := pattern.match(text):
            parts = match.groupdict()
            kind = (kind or parts["kind"]).lower().replace("network", "net")
            kind = "collnet" if kind == "coll" else kind
            known.plugins.add((kind, parts["name"].strip(" '.")[:100], state, parts.get("v") or ""), line)
            break
    return ""


def _fact(known: Known, place: Place, text: str, line: int) -> str:
    for pattern, name in _FACTS:
        if match := pattern.match(text):
            known.facts.add(name.format(match[1].strip()[:60]) if "{}" in name else name, line)
    return ""


_OPS = ("AllReduce", "AllGather", "AllGatherV", "ReduceScatter", "Broadcast", "Reduce", "AlltoAll", "AllToAll",
        "Gather", "Scatter", "Send", "Recv", "SendRecv")  # fmt: skip
_PLUGIN_WORDS = ("TUNER/Plugin:", "PROFILER/Plugin:", "ENV/Plugin:", "GIN/Plugin:", "RMA/Plugin:", "Tuner:", "Opened",
                 "Successfully", "Assigned", "Failed", "P2P")  # fmt: skip
_FACT_WORDS = ("NVLS", "Connected", "rank", "Could", "peer", "PXN", "DMA-BUF", "Check", "CC", "Launch", "MSCCL:",
               "Communicator")  # fmt: skip
WORDS: dict[str, Handler] = {
    word: read
    for words, read in (
        (("comm", "ncclCommInitRank", "ncclCommInitRankConfig", "ncclCommInitRankScalable", "ncclCommInitAll",
          "ncclCommSplit", "ncclCommShrink", "ncclCommGrow", "[Rank"), _comm),
        (("Channel",), _channel),
        (("Trees",), _trees),
        (("Init",), _timings),
        ((*_OPS, *(f"{op}:" for op in _OPS)), _op),
        (("Algorithm", "Latency/AlgBw"), _header),
        (("Max",), _threads),
        (("Bootstrap", "Bootstrap:"), _bootstrap),
        (("GPU",), _gdr),
        (("Using",), _using),
        (("NCCL", "RCCL"), _version),
        (("cudaDriverVersion",), _driver),
        (_PLUGIN_WORDS, _plugin),
        (_FACT_WORDS, _fact),
    )
    for word in words
}  # fmt: skip
# Lines whose first word is a number, a variable or a network: by what stands in them.
_INSIDE: tuple[tuple[str, Handler], ...] = (
    ("NET/", _net),
    (" set by environment to ", _setting),
    (" set to ", _setting),
    (" Bytes -> ", _choice),
    (" coll channels", _channels),
)


def told(known: Known, place: Place, text: str, line: int) -> str:
    """Note what a line says; a reason where it could not be read, else ""."""
    read = WORDS.get(text.partition(" ")[0])
    if read is None:
        read = next((handler for part, handler in _INSIDE if part in text), None)
    return read(known, place, text, line) if read is not None else ""


_WARN, _LONGEST = "NCCL WARN", 4096
_WHERE = re.compile(r"(\S{1,200}:\d{1,9})(?: \(\w{1,200}\))? $")
_SHOWN = re.compile(r"(?:^|[\s>:\]])(?:([NR]CCL) version ?:? ?(\d\S{0,60})|(HIP|ROCm) version *: *(\S{1,60}))")
_TORCH = re.compile(r"\[[EWF][^\]]{0,200}?ProcessGroupNCCL\.cpp:\d+\]+ ?(.*)")
_ERROR = re.compile(
    r"nccl(?:System|UnhandledCuda|Internal|Remote)Error|ncclInvalid(?:Usage|Argument)|unhandled (?:system|cuda) error"
    r"|NCCL (?:failure|error|timeout)|DistBackendError|NCCL communicator was aborted"
)


def told_outside(known: Known, text: str, line: int) -> int:
    """Note what a line that is not NCCL INFO says of NCCL; 1 if NCCL itself wrote it, else 0."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text[:_LONGEST])
    before, warns, message = text.partition(_WARN)
    if warns:
        where = _WHERE.search(before[-500:])
        known.message("warn", where[1] if where else "", message.removeprefix(" "), line)
        return 1
    if match := _TORCH.search(text):
        known.message("torch", "", match[1], line)
    elif _ERROR.search(text):
        known.message("error", "", text, line)
    elif match := _SHOWN.search(text):
        if match[1]:
            known.version(match[1], match[2], line)
        else:
            known.drivers.add(f"{match[3]} {match[4]}", line)
        return 1
    return 0
