"""PARAM `train/comms/pt/comms.py` (and its overlap benchmark): rows `COMMS-RES-...` -> one Found for each table.

What the numbers are (from its source): every rank takes the mean over its calls; p50, p75, p95, Min and Max are over
**ranks** of those means, never over calls. So `seconds` is the median rank's mean over calls, `kind` is `mean`, and
`told` has `fastest_rank`, `slowest_rank`, `rank_p75` and `rank_p95`. Quantised rows tell the 95th percentile alone,
of the whole and of its three parts; they are `param.quantised.*`. Point-to-point rows hold two times, of which the
second is a round trip: `param.ping` and `param.ping_pong`.

Sizes are the whole message, as commbench counts it; for gather and scatter too (the buffer is cut by the number of
ranks). `args.z: 1` completes every call before the next (latency), 0 does not (throughput; also where it is not told).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from commbench.readers.base import Found, Reader
from commbench.readers.figures import Launches, meant, nbytes_of, number, sane, stripped
from commbench.readers.source import Problem, Source
from commbench.records import Case, Host, Machine, Measurement

_WORLD = re.compile(r"'world_size': (\d{1,9})")
_BACKEND = re.compile(r"backend: (\w{1,20}) nw-stack: (\S{1,40})")
_GROUP = re.compile(r"num_pg (\d{1,9}), groupSize (\d{1,9})")
_HELLO = re.compile(
    r"Hello from Rank (\d{1,9}): .{0,40}?host (\S{1,255}), device: (\S{1,40}), .{0,60}?world_size: (\d{1,9})"
)
_ARGUMENT = re.compile(r"args\.(b|e|f|z): (\S{1,20})")
_LABEL = re.compile(r"COMMS-RES-(QUANT-)?([a-z0-9_]{1,60})-([a-z0-9_]{1,40})(?:-(\S{1,100}))?$")
_MOST_ROWS = 2**16

_OPS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "all_gather_base": "all_gather",
    "all_gather_v": "all_gather_v",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_v": "reduce_scatter_v",
    "all_to_all": "all_to_all",
    "all_to_all_single": "all_to_all",
    "all_to_all_v": "all_to_all_v",
    "all_to_allv": "all_to_all_v",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "gather": "gather",
    "scatter": "scatter",
}


class _Told(NamedTuple):
    """One measurement of a row: the op's own prefix, the column of its time, and further columns that are times."""

    prefix: str
    main: int
    told: dict[str, int]


_RANKS = {"rank_p75": 3, "rank_p95": 4, "fastest_rank": 5, "slowest_rank": 6}
_PAIR = {"rank_p75": 4, "rank_p95": 5, "fastest_rank": 6, "slowest_rank": 7}
_POINT = (
    _Told("param.ping", 1, {"rank_p75": 2, "rank_p95": 3}),
    _Told("param.ping_pong", 4, {"rank_p75": 5, "rank_p95": 6}),
)
# By the number of columns: the overlap benchmarks print no total time, and for a pair one size more.
_ROWS: dict[int, tuple[_Told, ...]] = {9: (_Told("", 2, _RANKS),), 10: (_Told("", 2, _RANKS),), 11: _POINT}
_PAIR_ROWS: dict[int, tuple[_Told, ...]] = {10: (_Told("param.pair.", 3, _PAIR),)}
_QUANTISED_ROWS: dict[int, tuple[_Told, ...]] = {
    6: (_Told("param.quantised.", 5, {"quantise": 2, "communicate": 3, "restore": 4}),)
}


class _Process:
    """What one start of the program says before its tables."""

    def __init__(self) -> None:
        self.ranks = 0
        self.backend = "unknown"
        self.options: dict[str, str] = {}
        self.hosts: dict[int, tuple[str, str]] = {}

    def take(self, text: str) -> None:
        if found := _WORLD.search(text):
            self.ranks = int(found[1])
        if found := _HELLO.search(text):
            self.hosts[int(found[1])], self.ranks = (found[2], found[3]), self.ranks or int(found[4])
        if found := _GROUP.search(text):
            self.ranks = int(found[2])
            self.options |= {} if found[1] == "1" else {"num_pg": found[1]}
        if found := _BACKEND.search(text):
            self.backend = found[1]
            self.options |= {"backend": found[1], "nw-stack": found[2]} | dict(_ARGUMENT.findall(text))

    def machine(self) -> Machine:
        """Hosts, if every rank of the world said hello."""
        if not self.hosts or sorted(self.hosts) != list(range(len(self.hosts))) or len(self.hosts) < self.ranks:
            return Machine(hosts=(), host_of=(), launcher="")
        index = {name: k for k, name in enumerate(dict.fromkeys(name for _, (name, _) in sorted(self.hosts.items())))}
        places = tuple(index[self.hosts[rank][0]] for rank in sorted(self.hosts))
        devices = ", ".join(sorted({re.sub(r":\d+$", "", device) for _, device in self.hosts.values()}))
        hosts = tuple(Host(name=name) for name in index)
        return Machine(hosts=hosts, host_of=places, launcher="", facts={"device": devices})


class _Table:
    """One table while it is read."""

    def __init__(self, process: _Process, line: int, paired: bool = False) -> None:
        self.process = process
        self.ranks = process.ranks
        self.backend = process.backend
        self.options = dict(process.options)
        self.line = line
        self.paired = paired
        self.rows: list[Measurement] = []

    def row(self, label: str, tokens: list[str], launches: Launches) -> str:
        """Takes a row; a sentence if it cannot be read, "" else."""
        parts = _LABEL.match(label)
        if parts is None:
            return f"not a label of a collective and a data type: {label[:80]}"
        kinds = _PAIR_ROWS if self.paired else _ROWS
        kinds = _QUANTISED_ROWS if parts[1] else kinds
        if (shape := kinds.get(len(tokens))) is None:
            return f"{len(tokens)} numbers after the label; rows of PARAM have {', '.join(map(str, kinds))}"
        values = [number(token) for token in tokens]
        if None in values:
            return f"not a number: {tokens[values.index(None)][:40]}"
        numbers = [value for value in values if value is not None]
        size = nbytes_of(tokens[0])
        if isinstance(size, str):
            return size
        if not size:
            return "size 0: the time of an empty operation"
        if bad := next((told.main for told in shape if not sane(numbers[told.main] / 1e6)), None):
            return f"a time of {tokens[bad]}: too short for the one decimal that PARAM prints, or damaged"
        for told in shape:
            self.add(parts, told, size, numbers, launches)
        return ""

    def add(self, parts: "re.Match[str]", told: _Told, size: int, numbers: list[float], launches: Launches) -> None:
        name = parts[2]
        op = told.prefix if told.prefix and not told.prefix.endswith(".") else told.prefix + _OPS.get(name, name)
        if not told.prefix and name not in _OPS:
            op = f"param.{name}"
        settings = {"tag": parts[4] or "", "groups": self.options.get("num_pg", "")}
        settings["call"] = name if name in _OPS and name != op and not told.prefix else ""
        case = Case(
            op=op,
            backend=self.backend,
            nbytes=size,
            dtype=parts[3],
            mode="latency" if self.options.get("z") == "1" else "throughput",
            settings=tuple((key, text) for key, text in settings.items() if text),
        )
        times = {key: numbers[column] / 1e6 for key, column in told.told.items() if numbers[column] >= 0}
        self.rows.append(
            Measurement(
                case=case,
                ranks=self.ranks,
                launch=launches.next(case, self.ranks),
                nbytes=size,
                seconds=(numbers[told.main] / 1e6,),
                kind="mean",
                told=times,
                clock="imported",
            )
        )

    def found(self) -> Found:
        rows, self.rows = self.rows, []
        return Found(
            tool="PARAM",
            line=self.line,
            machine=self.process.machine(),
            measurements=tuple(rows),
            options=self.options,
        )


def _read(source: Source) -> Iterator[Found | Problem]:
    launches, process = Launches(source.name), _Process()
    table: _Table | None = None
    for line_number, raw in source.lines():
        start = raw.find("COMMS-RES")
        if start < 0:
            if "PARAM COMM environment" in raw:
                process = _Process()
            process.take(raw)
            continue
        tokens = stripped(raw[start:]).split()
        if tokens[0] in ("COMMS-RES", "COMMS-RES-QUANT") and not all(map(meant, tokens[1:])):
            if table is not None and table.rows:
                yield table.found()
            table = _Table(process, line_number, paired="nElementsPairPerRank" in raw)
        elif tokens[0].startswith("COMMS-RES") and len(tokens) > 1 and meant(tokens[1]):
            table = table or _Table(process, line_number)
            if reason := table.row(tokens[0], tokens[1:], launches):
                yield source.problem(line_number, reason)
            elif len(table.rows) >= _MOST_ROWS:
                yield table.found()
    if table is not None and table.rows:
        yield table.found()


READER = Reader(says="PARAM comms", signatures=(b"COMMS-RES",), read=_read)
