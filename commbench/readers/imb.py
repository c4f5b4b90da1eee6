"""Intel MPI Benchmarks (MPI1, NBC, EXT, RMA, IO, P2P; 3.x to 2021): text -> one Found for each benchmark of a run.

What the numbers are (from IMB's sources): each rank takes the mean over its calls; t_min, t_max and t_avg are over
**ranks** of that, and a single `t[usec]` is the slowest rank's. So `seconds` is a mean over calls, and `told` has
`fastest_rank` and `slowest_rank`. `t_ovrl` of a non-blocking benchmark includes computation; it is never a blocking
collective's time. A message rate (Uniband, Biband) becomes the time of one message of one pair.

Sizes are one rank's block for Allgather, Alltoall, Gather and Scatter; for Reduce_scatter the whole vector until
2019 and one rank's block from 2019 Update 1 on, so without the version line that size stays as it was printed.
`#processes` tells the ranks; with `-multi` a row has its group.
"""

import re
from collections.abc import Iterator
from typing import Any

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
    whole,
)
from commbench.readers.source import Problem, Source
from commbench.records import Case, Measurement

_TITLE = re.compile(r"#\s{1,12}Intel ?\(R\) MPI Benchmarks (.{1,40}?), (\S.{0,40}?)\s*$")
_BENCHMARK = re.compile(r"# Benchmarking (?:Multi-)?(\w{2,60})\s*$")
_RANKS = re.compile(r"# #processes = (\d{1,9})")
_GROUPS = re.compile(r"# \( ?(\d{1,9}) groups of (\d{1,9}) processes each")
_MODE = re.compile(r"#\s{1,12}MODE: ([A-Z-]{3,40})")
_ABOUT = re.compile(
    r"# (Date|Machine|System|Release|Version|MPI Version|MPI Thread Environment|MPI_Datatype|"
    r"MPI_Datatype for reductions|MPI_Op)\s*:\s*(\S.{0,200}?)\s*$"
)
_UPDATE = re.compile(r"(\d{4})(?:\.(\d+)| Update (\d+))?")
_MOST_ROWS = 2**16

_SIZELESS = ("barrier", "ibarrier", "open_close", "barriermt")
_TWO_WAYS = ("biband",)
_MAIN = ("t_avg[usec]", "t[usec]", "t_ovrl[usec]", "t_pure[usec]")
_TOLD = {"t_min[usec]": "fastest_rank", "t_max[usec]": "slowest_rank", "t_pure[usec]": "pure", "t_cpu[usec]": "compute"}
_FAILED = re.compile(r"(out-of-mem\.|int-overflow|time-out\.)")


def _whole_vector(version: str) -> bool | None:
    """Whether Reduce_scatter's size is the whole vector; None: the version is not known."""
    if found := _UPDATE.match(version):
        return (int(found[1]), int(found[2] or found[3] or 0)) < (2019, 1)
    return True if re.match(r"[1-4]\.\d", version) else None


class _Program:
    """What the lines before the first benchmark say; it holds until the next title."""

    def __init__(self, version: str = "", part: str = "") -> None:
        self.tool = f"IMB {version}".strip()
        self.version = version
        self.about: dict[str, str] = {"part": part} if part else {}


class _Benchmark:
    """One table while it is read."""

    def __init__(self, program: _Program, name: str, line: int) -> None:
        self.program = program
        self.name = name
        self.line = line
        self.ranks = 0
        self.groups = 0
        self.mode = ""
        self.columns: list[str] = []
        self.rows: list[Measurement] = []
        self.any = False

    def row(self, line: str, launches: Launches) -> str:
        """Takes a row; a sentence if the line looks like one and is none, "" else."""
        tokens = line.split()
        if not tokens[0].lstrip("-").isdigit() or len(tokens) < 2:
            return ""
        if failed := _FAILED.search(line):
            size = nbytes_of(tokens[self.columns.index("#bytes") if "#bytes" in self.columns[:2] else 0])
            if isinstance(size, str):
                return size
            group = whole(tokens[0]) or 0 if "group" in self.columns else 0
            self.add(
                size, group, {"status": "skipped", "why": f"IMB: {line[failed.start() :].strip()[:300]}"}, launches
            )
            return ""
        if not all(meant(token) for token in tokens):
            return ""
        if len(tokens) != len(self.columns):
            return f"{len(tokens)} fields, where the table's header has {len(self.columns)}"
        cells = dict(zip(self.columns, tokens, strict=True))
        if "#bytes" not in cells and self.name.lower().removesuffix("_pure").removesuffix("_persist") not in _SIZELESS:
            return f"a row without a size of {self.name}, which has sizes"
        size = nbytes_of(cells["#bytes"]) if "#bytes" in cells else 0
        if isinstance(size, str):
            return size
        fields = self.told(cells)
        if isinstance(fields, str):
            return fields
        self.add(size, whole(cells.get("group", "0")) or 0, fields, launches)
        return ""

    def told(self, cells: dict[str, str]) -> dict[str, Any] | str:
        """The columns of a row as fields of a Measurement, or what is wrong with it."""
        numbers: dict[str, float] = {}
        for name, cell in cells.items():
            value = number(cell)
            if value is None or value < 0:
                return f"not a number of {name}: {cell[:40]}"
            numbers[name] = value
        main = next((name for name in (*_MAIN, "msg/sec") if name in numbers), None)
        if main is None or numbers[main] <= 0:
            return f"a time or rate of 0 ({main})" if main else "no column with a time or a rate"
        if main == "msg/sec":
            pairs = max(self.ranks // 2, 1) * (2 if self.name.lower() in _TWO_WAYS else 1)
            seconds = pairs / numbers[main]
        else:
            seconds = numbers[main] / 1e6
        if not sane(seconds):
            return f"not a time or rate of a call ({main}): {cells[main]}"
        told = {_TOLD[name]: value / 1e6 for name, value in numbers.items() if name in _TOLD and name != main}
        fields = {
            "seconds": (seconds,),
            "kind": "mean",
            "told": told,
            "calls": int(min(numbers.get("#repetitions", 0), LARGEST)),
        }
        if (defects := numbers.get("defects")) is not None:
            fields |= {"wrong": 0} if not defects else {"status": "failed", "why": f"IMB counts defects: {defects:g}"}
        return fields

    def add(self, size: int, group: int, fields: dict[str, Any], launches: Launches) -> None:
        case, nbytes = self.case(size)
        launch = launches.next(case, self.ranks, group)
        self.any = True
        self.rows.append(
            Measurement(
                case=case, group=group, ranks=self.ranks, launch=launch, nbytes=nbytes, clock="imported", **fields
            )
        )

    def case(self, size: int) -> tuple[Case, int]:
        """The question that a row of this size answers, and its bytes."""
        name = self.name.lower()
        op = MPI_COLLECTIVES.get(name, f"imb.{name}")
        settings: tuple[tuple[str, str], ...] = ()
        nbytes = size
        if op.removesuffix("_v") in BLOCKS or name == "reduce_scatter_block":
            nbytes, settings = sized(size, self.ranks)
        elif op == "reduce_scatter":
            total = _whole_vector(self.program.version)
            if total is False:
                nbytes, settings = sized(size, self.ranks)
            elif total is None:
                settings = (("size", "as printed"),)
        if name == "reduce_scatter_block":
            settings += (("call", name),)
        if name == "pingpong":
            op, settings = "send_recv", (("pattern", "one way"),)
        elif name == "sendrecv":
            op = "send_recv"
        about = self.program.about
        reduces = "reduce" in name or "accumulate" in name
        kind = about.get("MPI_Datatype for reductions" if reduces else "MPI_Datatype", "")
        more = {"mode": self.mode.lower(), "groups": f"{self.groups} at once" if self.groups > 1 else ""}
        return Case(
            op=op,
            backend="mpi",
            nbytes=nbytes,
            dtype=dtype(kind) if kind else "float32" if reduces else "int8",  # IMB's own defaults
            mode="throughput" if name in ("sendrecv", "exchange", "uniband", "biband") else "latency",
            settings=settings + tuple((key, text) for key, text in more.items() if text),
        ), nbytes

    def found(self) -> Found:
        rows, self.rows = self.rows, []
        options = {"benchmark": self.name} | self.program.about
        if any(
            ("size", "per rank") in row.case.settings or ("size", "as printed") in row.case.settings for row in rows
        ):
            options["size"] = "as printed: ranks or version unknown"
        return Found(tool=self.program.tool, line=self.line, measurements=tuple(rows), options=options)


def _read(source: Source) -> Iterator[Found | Problem]:
    launches, program = Launches(source.name), _Program()
    table: _Benchmark | None = None
    for line_number, raw in source.lines():
        line = stripped(raw)
        text = line.strip()
        if not text:
            continue
        if found := _BENCHMARK.match(text):
            yield from _closed(source, table)
            table = _Benchmark(program, found[1], line_number)
        elif found := _TITLE.match(text):
            yield from _closed(source, table)
            table, program = None, _Program(found[1], found[2])
        elif "#repetitions" in text:
            if table is None:
                yield source.problem(line_number, "a table of IMB without its `# Benchmarking` line")
            elif not table.any:
                table.columns = text.lower().replace("overlap [%]", "overlap[%]").split()
        elif text[0] == "#":
            _comment(text, program, table)
        elif table and table.columns and (text[0].isdigit() or text[0] == "-"):
            if reason := table.row(line, launches):
                yield source.problem(line_number, reason)
            elif len(table.rows) >= _MOST_ROWS:
                yield table.found()
    yield from _closed(source, table)


def _comment(text: str, program: _Program, table: _Benchmark | None) -> None:
    if table is None:
        if found := _ABOUT.match(text):
            program.about[found[1]] = found[2]
    elif table.any:
        return  # what a table is, stands before its rows
    elif found := _RANKS.match(text):
        table.ranks = int(found[1])
    elif found := _GROUPS.match(text):
        table.groups, table.ranks = int(found[1]), int(found[2])
    elif found := _MODE.match(text):
        table.mode = found[1]


def _closed(source: Source, table: _Benchmark | None) -> Iterator[Found | Problem]:
    if table is None:
        return
    if table.rows:
        yield table.found()
    elif not table.any:
        yield source.problem(table.line, f"no row of the benchmark {table.name} could be read")


READER = Reader(
    says="Intel MPI Benchmarks",
    signatures=(b"# Benchmarking ",),
    read=_read,
)
