"""The files that rccl-tests writes with `-Z csv` and `-Z json` (`Reporter` in its `src/common.cu`).

One object or line for each size and placement. Of the run they tell nodes, ranks, and GPUs of a rank, or (built
without MPI) `gpus` alone; neither hosts nor iterations. JSON comes as an array or as one object a line.
"""

import json
from collections.abc import Iterator
from typing import Any

from commbench.readers.base import Found, Reader
from commbench.readers.nccl_names import Block, Launches, Row, Setting, op_of, printed, trusted, whole_text
from commbench.readers.source import Problem, Source

_MUST = {"size", "type", "inplace", "time", "algbw", "busbw"}
_RENAMED = {"collective": "name", "#wrong": "wrong", "test": "name"}
_WORLD = ("name", "nodes", "ranks", "ranksPerNode", "gpusPerRank", "gpus")
_MOST = 100_000  # rows of one run
_LONGEST = 4096  # characters of an object or a line
_LARGEST = 2**24  # more ranks than that nobody has


def _read(source: Source) -> Iterator[Found | Problem]:
    runs: dict[tuple[str, ...], list[Row]] = {}
    begins: dict[tuple[str, ...], int] = {}
    full = False
    for number, record in _records(source):
        if isinstance(record, str):
            yield source.problem(number, record)
            continue
        row = _row(number, record)
        if isinstance(row, str):
            yield source.problem(number, row)
            continue
        world = tuple(record.get(name.lower(), "") for name in _WORLD)
        rows = runs.setdefault(world, [])
        begins.setdefault(world, number)
        if len(rows) < _MOST:
            rows.append(row)
        elif not full:
            full = True
            yield source.problem(number, f"more than {_MOST} rows in one run: the rest is left out")
    for world, rows in runs.items():
        yield from _run(source, dict(zip(_WORLD, world, strict=True)), begins[world], rows)


def _records(source: Source) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, the record in words under names in lower case, or why it is none)."""
    columns: list[str] = []
    for number, line in source.lines():
        if len(line) > _LONGEST:
            continue
        line = line.strip().removeprefix("[").removesuffix("]").strip().removesuffix(",")
        if line.startswith("{"):
            if "time" in line and "{" not in line[1:]:
                yield number, _parsed(line)
        elif "algbw" in line.lower() and "inplace" in line.lower() and "," in line:
            names = [name.strip().lower() for name in line.split(",")]
            columns = [_RENAMED.get(name, name) for name in names] if set(names) >= _MUST else []
        elif columns and "," in line:
            words = line.split(",")  # the program never quotes
            if len(words) == len(columns):
                yield number, dict(zip(columns, (word.strip() for word in words), strict=True))
            else:
                yield number, f"{len(words)} values where the header has {len(columns)}"


def _parsed(line: str) -> dict[str, str] | str:
    try:
        record: Any = json.loads(whole_text(line), parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        return "damaged JSON"
    words = {name.lower(): value for name, value in record.items() if isinstance(value, str)}
    return words if words.keys() >= _MUST else "not all of size, type, inPlace, time, algBw and busBw are there"


def _row(number: int, record: dict[str, str]) -> Row | str:
    figures = [printed(record[name]) for name in ("time", "algbw", "busbw")]
    time, algbw, busbw = figures
    if time is None or algbw is None or busbw is None:
        return "time, algbw or busbw is no number"
    if record["inplace"] not in ("0", "1") or not _is_count(record["size"]):
        return "inPlace or size makes no sense"
    told = record.get("wrong", "N/A")
    if told not in ("N/A", "-1") and not _is_count(told):
        return f"{told[:40]!r} is no number of wrong elements"
    wrong = int(told) if _is_count(told) else None
    block = Block(record["inplace"] == "1", time, algbw, busbw, wrong)
    return Row(number, int(record["size"]), -1, record["type"], record.get("redop", ""), -1, (block,))


def _run(source: Source, world: dict[str, str], line: int, rows: list[Row]) -> Iterator[Found | Problem]:
    told = {name: value for name, value in world.items() if value}
    counts = {name: int(value) for name, value in told.items() if _is_count(value) and int(value) <= _LARGEST}
    each = counts.get("gpusPerRank", 1)
    ranks = counts["ranks"] * each if "ranks" in counts else counts.get("gpus", 0)
    setting = Setting(op_of(world["name"]), "rccl", ranks)
    good, bad, contradicted = trusted(rows, setting)
    for number, reason in bad:
        yield source.problem(number, reason)
    if contradicted:
        yield source.problem(line, f"the bus bandwidths do not fit {ranks} ranks")
        setting = setting._replace(ranks=0)
    launches = Launches()
    measurements = tuple(launches.measurement("", setting, row, block) for row in good for block in row.blocks)
    if measurements:
        yield Found(
            tool="rccl-tests", line=line, measurements=measurements, options={k: v[:80] for k, v in told.items()}
        )


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


READER = Reader(
    says="CSV and JSON of rccl-tests (-Z)",
    signatures=(b'"inPlace"', b"inplace,time", b"inPlace,time"),
    read=_read,
)
