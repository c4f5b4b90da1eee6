"""Tables of nccom-test (AWS Neuron): like those of nccl-tests, but with units in the names of the columns.

    size(B)  count(elems)  type  time:avg(us)  [time:p25(us) time:p50(us) ...]  algbw(GB/s)  busbw(GB/s)

The table names neither the collective nor the ranks. Some versions mean 2**30 bytes by the GB in their header.
"""

from collections.abc import Iterator

from commbench.readers.base import Found, Reader
from commbench.readers.nccl_names import TYPES, UNKNOWN, Block, Launches, Printed, Row, Setting, printed, trusted
from commbench.readers.source import Problem, Source

_TYPES = {"fp32": "float", "fp16": "half", "bf16": "bfloat16", "fp64": "double"}
_FIRST = ["size(B)", "count(elems)", "type", "time:avg(us)"]
_LAST = ["algbw(GB/s)", "busbw(GB/s)"]
_TOLD = {"time:min(us)": "min", "time:max(us)": "max"} | {f"time:p{p}(us)": f"p{p}" for p in (50, 95, 99)}
_LONGEST = 4096
_MOST = 100_000  # rows of one table


def _read(source: Source) -> Iterator[Found | Problem]:
    columns: list[str] = []
    rows: list[Row] = []
    begins = 0
    launches = Launches()
    for number, line in source.lines():
        words = line.split() if len(line) <= _LONGEST else []
        if words[:4] == _FIRST and words[-2:] == _LAST:
            yield from _table(source, launches, begins, rows)
            columns, rows, begins = words, [], number
        elif columns and len(words) == len(columns) and words[0].isdigit() and len(rows) < _MOST:
            row = _row(number, dict(zip(columns, words, strict=True)))
            if row is None:
                yield source.problem(number, "not all of the row are numbers")
            else:
                rows.append(row)
        elif columns and len(words) > 3 and words[0].isdigit():
            yield source.problem(number, f"{len(words)} columns where the header has {len(columns)}")
    yield from _table(source, launches, begins, rows)


def _row(number: int, words: dict[str, str]) -> Row | None:
    size, count, dtype = (words.pop(name) for name in _FIRST[:3])
    figures = {name: figure for name, word in words.items() if (figure := printed(word)) is not None}
    if len(figures) < len(words) or not all(w.isascii() and w.isdigit() and len(w) < 19 for w in (size, count)):
        return None
    told = tuple((_TOLD[name], f.value / 1e6) for name, f in figures.items() if name in _TOLD and 0 < f.value < 1e12)
    time, algbw, busbw = (figures[name] for name in (_FIRST[3], *_LAST))
    known = dtype if dtype in TYPES else _TYPES.get(dtype, dtype)
    return Row(number, int(size), int(count), known, "", -1, (Block(False, time, algbw, busbw, told=told),))


def _scaled(rows: list[Row], unit: float) -> list[Row]:
    """The rows with bandwidths in GB/s of 1e9 bytes, if they were printed in units of `unit` GB/s."""

    def block(b: Block) -> Block:
        algbw, busbw = (Printed(x.value * unit, x.half * unit) for x in (b.algbw, b.busbw))
        return b._replace(algbw=algbw, busbw=busbw)

    return [row._replace(blocks=tuple(map(block, row.blocks))) for row in rows]


def _table(source: Source, launches: Launches, line: int, rows: list[Row]) -> Iterator[Found | Problem]:
    setting = Setting(UNKNOWN, "nccom")
    good, bad, _ = min(
        (trusted(_scaled(rows, unit), setting) for unit in (1.0, 2**30 / 1e9)), key=lambda got: len(got[1])
    )
    for number, reason in bad:
        yield source.problem(number, reason)
    measurements = tuple(launches.measurement("", setting, row, block) for row in good for block in row.blocks)
    if measurements:
        yield Found(tool="nccom-test", line=line, measurements=measurements, options={"collective": "not told"})


READER = Reader(says="tables of nccom-test", signatures=(b"time:avg(us)",), read=_read)
