"""One run of nccl-tests or rccl-tests while its text is read, and what comes of it."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from commbench.readers.base import Found
from commbench.readers.nccl_names import (
    AMD,
    UNKNOWN,
    Launches,
    Row,
    Setting,
    deduced,
    deduced_ranks,
    op_of,
    trusted,
    version_of,
)
from commbench.records import Host, Machine
from commbench.records.case import Mode

_TESTS = re.compile(r"nccl-tests version (\S{1,40})(?: nccl-headers=(\d{1,9}) nccl-library=(\d{1,9}))?")
_RCCL_TESTS = re.compile(r"rccl-tests: Version (\S{1,80})")
_LIBRARY = re.compile(r"\b(N|R)CCL version ?:? ?(\d{1,4}(?:\.\d{1,4}){1,3})(?:\+(?:cuda|hip)(\d{1,4}\.\d{1,4}))?")
_NRANKS = re.compile(r"\bnranks (\d{1,7})\b")
_CALL = re.compile(r"NCCL INFO (AllReduce|AllGather|ReduceScatter|Broadcast|Reduce): (?:opCount|\d+ Bytes ->) ")
_MOST_RANKS = 2**18
_SWEEP = ("minBytes", "maxBytes")  # other values are no other question
_RESULTS = ("Out of bounds values", "Avg bus bandwidth")


class Device(NamedTuple):
    """What one `Rank` line tells."""

    host: str
    gpu: str
    group: str
    pid: str
    device: str


@dataclass
class Run:
    """`op` is "" while nobody told it; `failure` is the first line that told one: (line, text)."""

    line: int
    op: str = ""
    name: str = ""  # of the file
    options: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    tests: str = ""
    amd: bool = False
    devices: dict[int, Device] = field(default_factory=dict)
    lonely: bool = False  # several processes said that they are rank 0
    muddled: bool = False
    nranks: set[int] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)  # collectives that NCCL's log names
    excerpt: bool = False  # CSV has no summary
    rows: list[Row] = field(default_factory=list)
    ended: bool = False
    failure: tuple[int, str] | None = None
    mode: Mode = "throughput"

    def hear(self, line: str) -> None:
        """Versions and the number of ranks, from whatever line tells them."""
        if found := _TESTS.search(line):
            self.tests = found[1]
            if found[2]:
                self.facts |= {"nccl_headers": version_of(int(found[2])), "nccl": version_of(int(found[3]))}
        if found := _RCCL_TESTS.search(line):
            self.tests, self.amd = found[1], True
        if found := _LIBRARY.search(line):
            self.amd = self.amd or found[1] == "R"
            self.facts.setdefault("rccl" if found[1] == "R" else "nccl", found[2])
            if found[3]:
                self.facts.setdefault("rocm" if found[1] == "R" else "cuda", found[3])
        if found := _NRANKS.search(line):
            self.nranks.add(int(found[1]))
        if found := _CALL.search(line):
            self.calls.add(found[1])

    def note(self, name: str, text: str) -> None:
        self.options[name] = text or "yes"
        if name == "Blocking Enabled":
            # a barrier before every call; "no barrier" only waits, and leaves the ranks to run apart
            outer = "outer" in text and self.options.get("agg iters", "1") != "1"
            self.mode = "throughput" if "no barrier" in text or outer else "latency"

    def device(self, rank: int, device: Device) -> None:
        if len(self.devices) >= _MOST_RANKS:
            self.muddled = True
            return
        known = self.devices.setdefault(rank, device)
        if known != device:
            self.lonely = self.lonely or rank == 0
            self.muddled = True
        self.amd = self.amd or device.gpu.startswith(AMD)

    # ---- the end

    def results(self, launches: Launches, tables: dict[int, int]) -> Iterator[Found | tuple[int, str]]:
        """The Found, if there is one, and (line, reason) of what could not be read."""
        if not self.rows:
            why = f": {self.failure[1]}" if self.failure else ""
            yield (self.failure or (self.line, ""))[0], f"a run without a row of data{why}"
            return
        table = hash(tuple(row[1:] for row in self.rows))
        before = tables.setdefault(table, self.line)
        if before != self.line and len(self.rows) > 2:
            yield self.line, f"the same table as at line {before}: a copy, not a second run"
            return
        machine, ranks = self._machine()
        if not self.op and len(self.calls) == 1:
            self.op = op_of(self.calls.pop())
        if not self.op:
            self.op, self.options["collective"] = deduced(self.rows, ranks, self.name)
        if not ranks and (ranks := deduced_ranks(self.rows, self.op)):
            self.options["ranks"] = f"{ranks}: told by busbw / algbw"
        if agg := self.options.get("agg iters"):
            calls = _number(self.options.get("iters")) * max(_number(agg), 1)
        else:
            calls = _number(self.options.get("iters"))
        warmup = _number(self.options.get("warmup iters") or self.options.get("warmupIters"))
        backend = "rccl" if self.amd else "nccl"
        setting = Setting(self.op or UNKNOWN, backend, ranks, machine, self.mode, calls, warmup)
        rows, bad, contradicted = trusted(self.rows, setting, exact=False)
        yield from bad
        if contradicted:
            yield self.line, f"the bus bandwidths do not fit {ranks} ranks: the list of ranks is not complete"
            ranks = deduced_ranks(self.rows, self.op)
            setting = setting._replace(ranks=ranks, machine=self._nowhere("the list of ranks is not complete"))
        if self.failure and not self.ended:
            yield self.failure[0], f"the run broke off: {self.failure[1]}"
        elif not self.ended and not self.excerpt:
            yield self.rows[-1].line, "the table ends without its summary: rows after this one may be missing"
        if rows:
            yield self._found(launches, setting, rows)

    def _found(self, launches: Launches, setting: Setting, rows: list[Row]) -> Found:
        options = {name: text for name, text in self.options.items() if name not in _RESULTS}
        same = tuple(sorted((k, v) for k, v in options.items() if k not in _SWEEP))
        world = (tuple(host.name for host in setting.machine.hosts), setting.machine.host_of, setting.ranks, same)
        name = "rccl-tests" if self.amd else "nccl-tests"
        return Found(
            tool=f"{name} {self.tests}".strip(),
            line=self.line,
            machine=setting.machine,
            measurements=tuple(
                launches.measurement(world, setting, row, block) for row in rows for block in row.blocks
            ),
            options=options,
            results={name: text for name, text in self.options.items() if name in _RESULTS},
        )

    def _machine(self) -> tuple[Machine, int]:
        """The machine, and how many ranks took part in one operation (0: not told)."""
        told = next(iter(self.nranks)) if len(self.nranks) == 1 else 0
        count = len(self.devices)
        if self.lonely and count == 1:
            return self._nowhere("several processes say that they are rank 0: each ran alone"), 1
        threads = _number(self.options.get("nThread")) * _number(self.options.get("nGpus"))
        whole = count and max(self.devices) == count - 1 and not self.muddled and not (threads and count % threads)
        if not whole:
            return self._nowhere("the list of ranks is not complete" if count else ""), told
        devices = [self.devices[rank] for rank in range(count)]
        groups = Counter(device.group for device in devices)
        ranks = groups[devices[0].group] if len(set(groups.values())) == 1 else 0
        if len(groups) > 1:
            self.options["groups"] = f"{len(groups)} (NCCL_TESTS_SPLIT)"
        return self._where(devices), ranks

    def _where(self, devices: list[Device]) -> Machine:
        gpus: dict[str, list[str]] = {}
        for device in devices:
            names = gpus.setdefault(device.host, [])
            if device.gpu and device.gpu not in names:
                names.append(device.gpu)
        index = {host: k for k, host in enumerate(gpus)}
        gpu = ", ".join(gpus[devices[0].host])
        facts = self.facts | ({"gpu": gpu} if gpu else {})
        hosts = tuple(
            Host(name=host, differs={"gpu": text} if (text := ", ".join(names)) != gpu else {})
            for host, names in gpus.items()
        )
        return Machine(hosts=hosts, host_of=tuple(index[d.host] for d in devices), launcher="", facts=facts)

    def _nowhere(self, warning: str) -> Machine:
        gpus = sorted({device.gpu for device in self.devices.values()} - {""})
        facts = self.facts | ({"gpu": ", ".join(gpus)[:200]} if gpus else {})
        return Machine(hosts=(), host_of=(), launcher="", facts=facts, warnings=(warning,) if warning else ())


def _number(text: str | None) -> int:
    """0: not told, or damage."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
