"""OSU Micro-Benchmarks (C 3.x to 7.x, xccl, OMB-Py): text on standard output -> one Found for each benchmark run.

What the numbers are (from the programs' sources): every rank times each call by its own clock, with a barrier
between the calls, and takes its mean; the average, minimum and maximum that are printed are over **ranks**. So
`seconds` is the mean over calls and ranks, and `told` has `fastest_rank` and `slowest_rank`. P50.. are percentiles
over calls of the mean over ranks.

Sizes are one rank's block for all_gather, all_to_all, gather and scatter, the whole message for the others,
reduce_scatter too. Before the line `# Datatype:` (7.1), and in xccl, reductions are of float, all else of char.

A rate becomes the time of one message: size / rate, twice that for the two directions of bibw, `pairs` messages at
once for mbw_mr. Percentiles of rates are left out. One-way tests between two ranks are `send_recv` with the setting
`pattern`; what is no collective of commbench's has a name of OSU's, as `osu.iallreduce`, whose `seconds` is the
overall time, computation included. The number of ranks is not printed: it comes from the launcher's line before the
title, from a placement listing, from Flux' job specification behind the table, or from the test's definition.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from commbench.readers.base import Found, Reader
from commbench.readers.figures import (
    BLOCKS,
    LARGEST,
    MPI_COLLECTIVES,
    Launches,
    dtype,
    meant,
    nbytes_of,
    number,
    sane,
    sized,
    stripped,
)
from commbench.readers.launched import Before, flux
from commbench.readers.source import Problem, Source
from commbench.records import Case, Measurement

_TITLE = re.compile(r"# ?(OSU|OMB Python) ([A-Za-z].{0,120}?) Test(?: v(\d[\w.-]{0,20}))?\s*$")
_HEADER = re.compile(r"(?:#\s*)?(?:Size\b(?! of)|Avg Latency\(us\)|Overall\(us\)|Bandwidth \(MB/s\)|Latency ?\(us\))")
_TAIL = re.compile(r" (?=P\d{1,3} Tail)")
_NOTE = re.compile(r"#\s*(Number of [\w ]{1,60}|Window creation|Window|Synchronization|Pairs):\s*(\S.{0,80}?)\s*$")
_PAIRS = re.compile(r"# \[ pairs: (\d{1,9}) \](?: \[ window size: (\w{1,9}) \])?")
_BUFFERS = re.compile(
    r"# (?:Send Buffer|Rank 0 Memory) on (\w+)(?: \(.\))? and (?:Receive Buffer|Rank 1 Memory) on (\w+)"
)
_INIT = re.compile(r"nprocs: (\d{1,9}), min: (\d{1,12}) ms, max: (\d{1,12}) ms, avg: (\d{1,12}) ms")
_ACCELERATOR = re.compile(r"-(CUDA|OPENACC|ROCM|MANAGED|SYCL|HIP)\b", re.IGNORECASE)
_MOST_ROWS = 2**16  # of one Found; a longer table goes on in the next

_COLLECTIVES = MPI_COLLECTIVES | {"alltoallw": "all_to_all_w"}
_OTHERS = {"mbw_message_rate": "mbw_mr", "multi_latency": "multi_lat", "multi_threaded_latency": "latency_mt"}
_OTHERS |= {"multi_process_latency": "latency_mp"}
_BACKENDS = {"MPI": "mpi", "NCCL": "nccl", "RCCL": "rccl", "OpenSHMEM": "openshmem", "UPC": "upc", "UPCXX": "upcxx"}
_TOLD = {  # further columns that are times
    "minlatency(us)": "fastest_rank",
    "maxlatency(us)": "slowest_rank",
    "compute(us)": "compute",
    "coll.init(us)": "init",
    "mpi_test(us)": "test",
    "mpi_wait(us)": "wait",
    "purecomm.(us)": "pure",
    "mincomm.(us)": "pure_fastest_rank",
    "maxcomm.(us)": "pure_slowest_rank",
}
_TIMES = ("avglatency(us)", "latency(us)", "overall(us)")
_RATES = ("bandwidth(mb/s)", "mb/s")


class _Test(NamedTuple):
    """What a title says."""

    tool: str
    title: str
    op: str
    backend: str
    throughput: bool
    buffers: str
    ranks: int  # by the test's definition; 0: any number
    ways: int  # directions that a rate counts
    settings: tuple[tuple[str, str], ...]
    plain: str  # dtype where no line tells it


def _slug(text: str) -> str:
    text = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    for long, short in (
        ("all_to_all", "alltoall"),
        ("_personalized_exchange", ""),
        ("broadcast", "bcast"),
        ("neighborhood", "neighbor"),
        ("bi_directional_bandwidth", "bibw"),
        ("multiple_bandwidth", "mbw"),
        ("bandwidth", "bw"),
    ):
        text = text.replace(long, short)
    return text


def _test(program: str, title: str, version: str) -> _Test:
    tool = f"{'OSU' if program == 'OSU' else 'OMB-Py'} {version}".strip()
    accelerator = _ACCELERATOR.search(title)
    rest = _ACCELERATOR.sub("", title).replace("One Sided ", "")
    family = re.split(r"[ _]", rest, maxsplit=1)[0]
    one_sided = "MPI_" in rest
    name = _slug(rest.removeprefix(family).replace("MPI_", " "))
    backend = _BACKENDS.get(family, family.lower())
    op, ranks = "osu." + _OTHERS.get(name, name), 0
    settings: tuple[tuple[str, str], ...] = ()
    base = name.removesuffix("_latency")
    if family in ("OpenSHMEM", "UPC", "UPCXX"):
        op = f"osu.{backend}_{base}"
    elif base in _COLLECTIVES:
        op = _COLLECTIVES[base]
        settings = (("call", base),) if base == "reduce_scatter_block" else ()
    elif name in ("latency", "bw"):
        op, ranks, settings = "send_recv", 2, (("pattern", "one way"),)
    elif name.startswith("non_blocking_"):
        op = "osu.i" + base.removeprefix("non_blocking_")
    elif name in ("bibw", "multi_threaded_latency", "multi_process_latency") or (one_sided and "m" not in name[:5]):
        ranks = 2
    float_sum = re.search(r"reduce", base) and "reduce_local" not in base
    return _Test(
        tool=tool,
        title=title,
        op=op[:60],
        backend=backend,
        throughput="bw" in name or program != "OSU",
        buffers=accelerator[1].lower() if accelerator else "",
        ranks=ranks,
        ways=2 if "bibw" in name else 1,
        settings=settings,
        plain="float32" if float_sum else "int8",
    )


class _Run:
    """One benchmark run while it is read. Rows wait until the number of ranks is known."""

    def __init__(self, test: _Test, line: int, before: Before) -> None:
        self.test = test
        self.line = line
        self.before = before
        self.ranks = test.ranks or before.ranks
        self.created = ""
        self.notes = dict(before.notes)
        self.buffers = test.buffers
        self.dtype = test.plain
        self.pairs = 0
        self.window = ""
        self.columns: list[str] = []
        self.indent = 0
        self.open = False  # a table has begun
        self.any = False  # a row was read
        self.rows: list[tuple[str, int | None, tuple[tuple[str, str], ...], dict[str, Any]]] = []

    def header(self, text: str, indent: int) -> None:
        names = re.split(r"\s{2,}", _TAIL.sub("  ", text.lstrip("# ")))
        self.columns = [name.replace(" ", "").lower() for name in names]
        self.indent, self.open = indent, True

    def note(self, text: str) -> None:
        if found := _PAIRS.match(text):
            self.pairs, self.window = int(found[1]), found[2] or ""
            self.ranks = self.ranks or 2 * self.pairs
        elif found := _BUFFERS.match(text):
            where = [self.test.buffers or "device" if w == "DEVICE" else w.lower() for w in found.groups()]
            self.buffers = "" if where == ["host", "host"] else " to ".join(dict.fromkeys(where))
        elif found := _NOTE.match(text):
            self.notes[found[1]] = found[2]
        elif text.startswith("# Datatype:"):
            self.dtype, self.open = dtype(text.removeprefix("# Datatype:")), False
        elif self.window == "varied" and all(map(str.isdigit, text[1:].split())) and len(text) > 1:
            self.columns = ["size", *(f"window {w}" for w in text[1:].split())]
            self.indent, self.open = 0, self.notes.get("table") != "rates"
        elif text.startswith("# Message Rate Profile"):
            self.notes["table"], self.open = "rates", False  # the same numbers again, divided by the size

    def row(self, line: str) -> str:
        """Takes a row; a sentence if the line looks like one and is none, "" else."""
        tokens = line.split()
        sizeless = self.columns[0] not in ("size", "size(b)")
        if sizeless and (self.any or not all(meant(token) for token in tokens)):
            return ""
        if not sizeless and (len(tokens) < 2 or not tokens[0].lstrip("-").isdigit() or not meant(tokens[1])):
            return ""
        if len(line) - len(line.lstrip()) > self.indent and not sizeless:
            return ""
        if len(tokens) != len(self.columns):
            return f"{len(tokens)} fields, where the table's header has {len(self.columns)}"
        if sizeless and "barrier" not in self.test.op:
            return "a row without a size, of a test that has sizes"
        cells = dict(zip(self.columns, tokens, strict=True))
        size = None if sizeless else nbytes_of(tokens[0])
        if isinstance(size, str):
            return size
        if self.columns[1:2] and self.columns[1].startswith("window "):
            reasons = [self.rated(size or 0, cell, name) for name, cell in list(cells.items())[1:]]
            return next(filter(None, reasons), "")
        told = self.told(cells)
        if isinstance(told, str):
            return told
        self.add(size, told)
        return ""

    def rated(self, size: int, cell: str, window: str) -> str:
        rate = number(cell) or 0
        seconds = (self.pairs or 1) * size / rate / 1e6 if rate else 0
        if not sane(seconds):
            return f"not a rate: {cell}"
        self.add(size, {"seconds": seconds}, (("window", window.split()[1]),))
        return ""

    def told(self, cells: dict[str, str]) -> dict[str, Any] | str:
        """The columns of a row as fields of a Measurement, or what is wrong with it."""
        values = {name: number(cell) for name, cell in cells.items() if name != "validation"}
        if wrong := next((name for name, value in values.items() if value is None or value < 0), None):
            return f"not a number of {wrong}: {cells[wrong]}"
        numbers = {name: value for name, value in values.items() if value is not None}
        main = next((name for name in (*_TIMES, *_RATES) if name in numbers), None)
        if main is None or numbers[main] <= 0:
            return f"a time or rate of 0 ({main})" if main else "no column with a time or a rate"
        fields: dict[str, Any] = {"seconds": numbers[main] / 1e6}
        if main in _RATES:
            pieces, size = (self.pairs or 1) * self.test.ways, numbers.get("size", numbers.get("size(b)", 0))
            fields["seconds"] = pieces * size / numbers[main] / 1e6
            if numbers.get("messages/s"):  # has more digits
                fields["seconds"] = pieces / numbers["messages/s"]
        if not sane(fields["seconds"]):
            return f"not a time or rate of a call ({main}): {cells[main]}"
        fields["told"] = {_TOLD[name]: value / 1e6 for name, value in numbers.items() if name in _TOLD}
        for name, value in numbers.items():
            if name.endswith("taillat(us)"):
                fields["told"][name.removesuffix("taillat(us)")] = value / 1e6
        fields["calls"] = int(min(numbers.get("iterations", 0), LARGEST))
        if "validation" in cells:
            passed = cells["validation"].lower() == "pass"
            fields |= {"wrong": 0} if passed else {"status": "failed", "why": "OSU's own validation says Fail"}
        return fields

    def add(self, size: int | None, fields: dict[str, Any], more: tuple[tuple[str, str], ...] = ()) -> None:
        if "transmitsize" in self.columns:
            more += (("derived datatype", "yes"),)
        self.any = True
        self.rows.append((self.dtype, size, more, fields))

    def found(self, launches: Launches) -> Found:
        """What was read so far; the rows are then empty."""
        rows, self.rows = self.rows, []
        options = {"test": self.test.title, "command": self.before.command} | self.notes
        if not self.ranks and any(self.blocks(size) for _, size, _, _ in rows):
            options["size"] = "per rank, as printed; ranks unknown"
        return Found(
            tool=self.test.tool,
            line=self.line,
            machine=self.before.machine(),
            measurements=tuple(self.measurement(*row, launches) for row in rows),
            options={name: value for name, value in options.items() if value},
            created=self.created,
        )

    def blocks(self, size: int | None) -> bool:
        return size is not None and self.test.op.removesuffix("_v").removesuffix("_w") in BLOCKS

    def measurement(
        self,
        kind: str,
        size: int | None,
        more: tuple[tuple[str, str], ...],
        fields: dict[str, Any],
        launches: Launches,
    ) -> Measurement:
        nbytes, scale = sized(size or 0, self.ranks) if self.blocks(size) else (size or 0, ())
        known = {"pairs": str(self.pairs or ""), "window": self.window, "buffers": self.buffers}
        known |= {"epochs": self.notes.get("Synchronization", ""), "creation": self.notes.get("Window creation", "")}
        known |= {name: text for name, text in self.notes.items() if name.startswith("Number of")} | dict(more)
        settings = self.test.settings + scale + tuple((name, text) for name, text in known.items() if text)
        case = Case(
            op=self.test.op,
            backend=self.test.backend,
            nbytes=nbytes,
            dtype=kind,
            mode="throughput" if self.test.throughput else "latency",
            settings=settings,
        )
        launch = launches.next(case, self.ranks, world=repr(self.before.variables))
        rest = {name: value for name, value in fields.items() if name != "seconds"}
        return Measurement(
            case=case,
            ranks=self.ranks,
            nbytes=nbytes,
            launch=launch,
            seconds=(fields["seconds"],),
            kind="mean",
            clock="imported",
            **rest,
        )


def _read(source: Source) -> Iterator[Found | Problem]:
    launches, before, run = Launches(source.name), Before(), None
    for number_, raw in source.lines():
        line = stripped(raw)
        text = line.strip()
        if not text:
            continue
        if text[0] == "#" and (title := _TITLE.match(text)):
            yield from _closed(source, run, launches)
            run = _Run(_test(title[1], title[2], title[3] or ""), number_, before)
            before = Before(before.variables)
        elif _HEADER.match(text) and (text[0] == "#" or text.startswith("Overall(us)")):
            if run is None:
                yield source.problem(number_, "a table of OSU without its title: which benchmark it is, is not told")
            else:
                run.header(text, len(line) - len(line.lstrip()))
        elif text[0] == "#":
            (run.note(text) if run and not run.any else None)
            if (run is None or run.any) and (found := _NOTE.match(text)):
                before.notes[found[1]] = found[2]  # osu_latency_mt of 5.x prints them before its title
            if run and run.any and (text.startswith("# Datatype:") or run.window == "varied"):
                run.note(text)
        elif run and run.open and (text[0] in "-." or text[0].isdigit()):
            if reason := run.row(line):
                yield source.problem(number_, reason)
            elif len(run.rows) >= _MOST_ROWS:
                yield run.found(launches)
        else:
            _around(text, run, before)
    yield from _closed(source, run, launches)


def _around(text: str, run: _Run | None, before: Before) -> None:
    """Lines around a table."""
    if run and run.test.op == "osu.init" and not run.any and (found := _INIT.match(text)):
        fastest, slowest, mean = (int(ms) / 1e3 for ms in found.groups()[1:])
        run.ranks = int(found[1])
        if mean:
            run.add(None, {"seconds": mean, "told": {"fastest_rank": fastest, "slowest_rank": slowest}})
    elif run and text.startswith(('{"resources"', '{"timestamp"')):
        ranks, created = flux(text, "osu_")
        run.ranks, run.created = run.ranks or ranks, run.created or created
    else:
        before.take(text, "osu_")


def _closed(source: Source, run: _Run | None, launches: Launches) -> Iterator[Found | Problem]:
    if run is None:
        return
    if run.rows:
        yield run.found(launches)
    elif not run.any and "Hello" not in run.test.title:
        yield source.problem(run.line, f"no row follows the title of the {run.test.title} test")


READER = Reader(
    says="OSU Micro-Benchmarks",
    signatures=(b"# OSU ", b"#OSU ", b"# OMB Python "),
    read=_read,
)
