"""nccl-tests and rccl-tests as they print: every layout since 2017, under launchers' tags, among NCCL's own lines.

A run is what the lines tell in the order of the program: version, name, settings, devices, header, rows, footer. A
line that belongs to an earlier stage than the last one begins the next run. Each rank's tag (`[1,0]<stdout>:`, `0: `)
has runs of its own, because a program built without MPI prints one table for each process. NCCL's lines may stand in
the middle of a row: the row's pieces are joined where the name of the host shows where NCCL's line begins.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from commbench.readers.base import Found, Reader
from commbench.readers.nccl_names import Launches, Row, op_of
from commbench.readers.nccl_rows import Head, Layout, blocks, header, looks_like_a_row, pieces
from commbench.readers.nccl_run import Device, Run
from commbench.readers.source import Problem, Source

_VERSION, _NAME, _SETTINGS, _DEVICES, _HEADER, _ROWS, _SUMMARY, _END = range(8)
_MOST_ROWS = 100_000  # of one run
_MOST_HEADS = 100_000
_MOST_OPEN = 1_000
_MOST_PROGRAMS = 16
_LONGEST = 4096
_TAG = re.compile(
    r"\[[^\[\]<>\s]{0,80}?(\d{1,7},\d{1,7})\]<std(?:out|err|diag)>:|^\s{0,12}(\d{1,7}):(?=[\s#])|^\[(\d{1,7})\] "
)
_NCCL = re.compile(r"(\S{0,255}?):\d{1,10}:\d{1,10} \[\d{1,5}\] (?:\S+ \S+ )?NCCL (?:INFO|WARN|TRACE|CALL|VERSION)|$")
_ANSI = re.compile(r"\x1b\[[0-9;]{0,20}m")
_PROGRAM = re.compile(r"\b([A-Za-z][A-Za-z_]{3,30}_perf)(?![A-Za-z0-9])")
_RANK = re.compile(
    r"Rank\s+(\d{1,7})\s+(?:Group\s+(\d{1,7})\s+)?(?:Pid\s+(\d{1,10})\s+)?on\s+(\S{1,255})\s+device\s+(\d{1,5})"
    r"\s+\[([^\]]{0,40})\]\s*(.{0,200})"
)
_OPTION = re.compile(r"([A-Za-z_]{2,20}(?: iters)?):? (-?\d{1,19}(?:\((?:factor|bytes)\))?)")
_SUMMARY_LINE = re.compile(r"(Out of bounds values|Avg bus bandwidth)\s{0,40}:\s{0,40}(\S.{0,80})")
_NOTE = re.compile(
    r"(Blocking Enabled|Per-Iteration Report|Parallel Init Enabled|Reducing maxBytes)(?:: | to )?(.{0,120})"
)
_FAILURE = re.compile(r"(\S{1,255}): (Test (?:.{0,40} )?(?:failure|timeout).{0,300})")
_FAST = re.compile(rb"nranks |CCL version |: opCount | Bytes -> ")


@dataclass
class _Open:
    """A run that is being read, and the row that is being put together."""

    run: Run
    stage: int = -1
    layout: Layout | None = None
    head: Head | None = None
    words: tuple[str, ...] = ()
    head_line: int = 0
    last_size: int = -1
    cycle: int = 0
    seen: dict[tuple[object, ...], int] = field(default_factory=dict)


class _Text:
    """One file: the open runs by the tag of their rank, and what is known beyond a run."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.open: dict[str, _Open] = {}
        self.launches = Launches()
        self.tables: dict[int, int] = {}  # fingerprint of a table -> line
        self.programs: set[str] = set()  # named since the last run began
        self.started: set[str] = set()  # by the command that began it: several ranks may print a table each
        self.hosts: set[str] = set()
        self.heads: set[bytes] = set()  # beginnings of NCCL's lines that hold nothing before them
        self.only: bool | None = None  # a table of one placement: in place?

    def read(self) -> Iterator[Found | Problem]:
        for number, raw in self.source.raw_lines():
            if b"NCCL " in raw and raw[: raw.find(b" [", 1)] in self.heads:
                if _FAST.search(raw):
                    line = raw.decode(errors="replace")
                    self._log(_key(line), line)
                continue
            if _worth(raw):
                yield from self._line(number, raw)
        for tag in list(self.open):
            yield from self._close(tag)

    def _line(self, number: int, raw: bytes) -> Iterator[Found | Problem]:
        line = raw.decode(errors="replace")
        if "\x1b" in line:
            line = _ANSI.sub("", line)
        key = _key(line)
        if key:
            line = _TAG.sub(" ", line)
        whole = True
        if "NCCL " in line and (log := _NCCL.search(line)) and log[0]:
            self._log(key, line[log.start() :])
            line, whole = self._before(line[: log.start()], log[1]), False
            if not line.strip():
                self.heads.add(raw[: raw.find(b" [", 1)])
                if len(self.heads) > _MOST_HEADS:
                    self.heads.clear()
                return
        if "in-place" in line and "algbw" not in line:
            self.only = "out-of-place" not in line
        for word, stage, keep in _STAGES:
            if word in line and (stage is None or self._begins(line, stage)):
                if stage is not None:
                    yield from self._enter(key, stage, number, line)
                if key in self.open:
                    yield from keep(self, self.open[key], number, line)
                return
        yield from self._data(key, number, line, whole)
        if "_perf" in line:
            self.programs |= set(_PROGRAM.findall(line)[: _MOST_PROGRAMS - len(self.programs)])

    def _begins(self, line: str, stage: int) -> bool:
        """Whether the line really is of the stage that its word announces."""
        if stage == _DEVICES:
            return _RANK.search(line) is not None
        if stage == _HEADER:
            return header(line, None) is not None
        return stage != _SETTINGS or "nGpus" in line

    def _before(self, text: str, token: str) -> str:
        """What stands before NCCL's line: `token` is the host's name, perhaps with the end of a row before it."""
        if not text.strip():
            self.hosts.add(token)
            return ""
        if token in self.hosts:
            return text
        cut = [token[:k] for k in range(1, len(token)) if token[k:] in self.hosts]
        good = {text + start for start in cut if pieces(text + start, None)}
        return good.pop() if len(good) == 1 else text + token

    def _log(self, key: str, line: str) -> None:
        """A line of NCCL's: it is about the run of the same rank, or about the only one."""
        opened = self.open.get(key) or (next(iter(self.open.values())) if len(self.open) == 1 else None)
        if opened:
            opened.run.hear(line)

    # ---- runs

    def _enter(self, key: str, stage: int, number: int, line: str) -> Iterator[Found | Problem]:
        """Begins another run where the stage is one that the open run has behind it."""
        opened = self.open.get(key)
        again = stage < _DEVICES or "Collective" in line
        if opened and (stage < opened.stage or (stage == opened.stage and again and stage < _SUMMARY)):
            yield from self._close(key)
            opened = None
        if opened is None and stage < _SUMMARY:
            names = self.programs or (self.started if self.open else set())
            op = op_of(next(iter(names))) if len(names) == 1 else ""
            opened = self.open[key] = _Open(Run(number, op, self.source.path.name))
            self.started, self.programs = names, set()
            if len(self.open) > _MOST_OPEN:
                yield from self._close(next(iter(self.open)))
        if opened:
            if stage >= _HEADER:
                yield from self._finish_row(opened)
            opened.stage = max(stage, opened.stage)

    def _close(self, key: str) -> Iterator[Found | Problem]:
        opened = self.open.pop(key)
        yield from self._finish_row(opened)
        for found in opened.run.results(self.launches, self.tables):
            yield found if isinstance(found, Found) else self.source.problem(*found)

    # ---- rows

    def _data(self, key: str, number: int, line: str, whole: bool) -> Iterator[Found | Problem]:
        opened = self.open.get(key)
        layout = opened.layout if opened else None
        found = pieces(line, layout)
        if found is None or (found.head is None and (opened is None or opened.head is None)):
            inside = opened is not None and _HEADER <= opened.stage <= _ROWS
            if looks_like_a_row(line, inside):
                yield self.source.problem(number, "looks like a row of the table, but is none")
            return
        if found.head:
            if opened and opened.stage < _SUMMARY:
                yield from self._finish_row(opened)
            else:
                yield from self._enter(key, _ROWS, number, line)
                opened = self.open[key]
                opened.layout = layout
            opened.stage = _ROWS
            opened.head, opened.words, opened.head_line = found.head, found.words, number
        elif opened:
            opened.words += found.words
        if opened and ((whole and opened.words) or len(opened.words) >= _full(opened.layout)):
            yield from self._finish_row(opened)

    def _finish_row(self, opened: _Open) -> Iterator[Problem]:
        if opened.head is None:
            return
        head, words, line = opened.head, opened.words, opened.head_line
        opened.head, opened.words = None, ()
        figures = blocks(words, opened.layout) if words else "the row ends before its figures"
        if isinstance(figures, str):
            yield self.source.problem(line, figures)
            return
        opened.cycle += head.size < opened.last_size
        opened.last_size = head.size
        before = opened.seen.setdefault((opened.cycle, head, words), line)
        if before != line and head.size:
            yield self.source.problem(line, f"the same row as line {before}")
        elif len(opened.run.rows) >= _MOST_ROWS:
            if len(opened.run.rows) == _MOST_ROWS:
                yield self.source.problem(line, f"more than {_MOST_ROWS} rows in one run: the rest is left out")
        else:
            opened.run.rows.append(Row(line, *head, figures))

    # ---- lines about the run

    def _keep_version(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        opened.run.hear(line)
        yield from ()

    def _keep_name(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        name = line.partition("Collective test ")[2].partition(":")[2].split()
        opened.run.op = op_of(name[0]) if name else opened.run.op
        yield from ()

    def _keep_settings(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        opened.run.options |= dict(_OPTION.findall(line[line.find("nThread") :]))
        yield from ()

    def _keep_device(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        if found := _RANK.search(line):
            rank, group, pid, host, device, bus, name = found.groups()
            self.hosts.add(host)
            opened.run.device(int(rank), Device(host, name.strip(), group or "", pid or "", f"{device} {bus}"))
        yield from ()

    def _keep_header(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        opened.layout = header(line, self.only)
        self.only = None
        opened.run.excerpt = opened.layout is not None and opened.layout.commas
        yield from ()

    def _keep_summary(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        if found := _SUMMARY_LINE.search(line):
            opened.run.options[found[1]] = found[2].strip()
        opened.run.ended = True
        yield from ()

    def _keep_note(self, opened: _Open, _: int, line: str) -> Iterator[Problem]:
        if found := _NOTE.search(line):
            opened.run.note(found[1], found[2].strip())
        yield from ()

    def _keep_failure(self, opened: _Open, number: int, line: str) -> Iterator[Problem]:
        if (found := _FAILURE.search(line)) and not opened.run.failure:
            host = next((found[1][k:] for k in range(len(found[1])) if found[1][k:] in self.hosts), found[1])
            opened.run.failure = (number, f"{host}: {found[2].strip()}")
        yield from ()

    def _keep_cycle(self, opened: _Open, _: int, __: str) -> Iterator[Problem]:
        opened.cycle += 1
        opened.last_size = -1
        yield from ()


def _worth(raw: bytes) -> bool:
    """Whether a line can matter at all: most lines of a log cannot, and to look into each of them takes long."""
    if not 0 < len(raw) <= _LONGEST:
        return False
    if 2 * len(raw.translate(None, b"0123456789 \t.,+-")) <= len(raw):  # mostly numbers
        return True
    line = raw.decode("latin-1")
    # spelled out: ten times as fast as any(...); a test holds the list to _STAGES and TYPES
    return (
        "CCL " in line or "-tests" in line or "Collective test" in line or "nThread" in line or "Rank " in line
        or "algbw" in line or "Out of bounds" in line or "Avg bus" in line or "in-place" in line or "_perf" in line
        or "Enabled" in line or "Per-Iter" in line or "maxBytes" in line or "cycle." in line
        or ": Test " in line or "float" in line or "half" in line or "double" in line or "int8" in line
        or "int32" in line or "int64" in line or " int " in line or "char" in line or "f8e" in line or "fp8" in line
    )  # fmt: skip


def _key(line: str) -> str:
    """The rank that a launcher's tag names, "" without a tag."""
    tag = _TAG.search(line)
    return tag[1] or tag[2] or tag[3] if tag else ""


def _full(layout: Layout | None) -> int:
    return len(layout.figures) * len(layout.placements) if layout else 8


_Keep = Callable[[_Text, _Open, int, str], Iterator[Problem]]
_STAGES: tuple[tuple[str, int | None, _Keep], ...] = (
    ("nccl-tests version", _VERSION, _Text._keep_version),
    ("Collective test starting", _NAME, _Text._keep_name),
    ("nThread", _SETTINGS, _Text._keep_settings),
    ("Rank ", _DEVICES, _Text._keep_device),
    ("algbw", _HEADER, _Text._keep_header),
    ("Out of bounds values", _SUMMARY, _Text._keep_summary),
    ("Avg bus bandwidth", _SUMMARY, _Text._keep_summary),
    ("Collective test concluded", _END, _Text._keep_name),
    ("rccl-tests: Version", None, _Text._keep_version),
    ("CCL version", None, _Text._keep_version),
    ("Blocking Enabled", None, _Text._keep_note),
    ("Per-Iteration Report", None, _Text._keep_note),
    ("Parallel Init Enabled", None, _Text._keep_note),
    ("Reducing maxBytes", None, _Text._keep_note),
    ("cycle.", None, _Text._keep_cycle),
    (": Test ", None, _Text._keep_failure),
)


def _read(source: Source) -> Iterator[Found | Problem]:
    return _Text(source).read()


READER = Reader(
    says="tables of nccl-tests and rccl-tests",
    signatures=(b"busbw", b"nThread", b"Avg bus bandwidth", b"Out of bounds values", b"    sum  ", b"    none  "),
    read=_read,
)
