"""Rows in nccl-tests' own text and JSON, so that what reads those goes on reading.

Its time is the mean of pipelined calls, so rows here are those of `throughput` mode with their mean, one table for
each series. What was not measured (a placement, the check) is `N/A`. Layout: nccl-tests' src/util.cu, version 3 of
the JSON.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from commbench.collectives import COLLECTIVES, DTYPES, bandwidths
from commbench.records import Run
from commbench.report.view import one_line
from commbench.stats.rows import Row

_TYPES = {"float16": "half", "float32": "float", "float64": "double"}
_PROGRAMS = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "broadcast": "broadcast", "reduce": "reduce", "all_to_all": "alltoall", "gather": "gather",
    "scatter": "scatter", "send_recv": "sendrecv",
}  # fmt: skip
_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()} | {"f8e4m3": 1, "f8e5m2": 1, "uint8": 1}
_PLACEMENTS = ("out_of_place", "in_place")


class Table(NamedTuple):
    """One run of the program: lines of (out of place, in place)."""

    row: Row
    lines: list[tuple[Row | None, Row | None]]


def tables(rows: Iterable[Row]) -> list[Table]:
    """What nccl-tests could have measured too; other rows have no place in its format."""
    found: dict[tuple[Any, ...], dict[int, dict[bool, Row]]] = {}
    for row in rows:
        if row.op in _PROGRAMS and row.dtype in _BYTES and row.mode == "throughput" and row.mean_us and row.ranks:
            key = row.op, row.dtype, row.redop, row.root, row.backend, row.group, tuple(row.settings.items())
            found.setdefault(key, {}).setdefault(row.nbytes, {})[row.in_place] = row
    return [
        Table(
            next(row for placed in sizes.values() for row in placed.values()),
            [(placed.get(False), placed.get(True)) for _, placed in sorted(sizes.items())],
        )
        for sizes in found.values()
    ]


def text(run: Run, table: Table) -> Iterator[str]:
    """The lines of one table."""
    yield from _head(run, table)
    rates = []
    for line in table.lines:
        row = line[0] or line[1]
        assert row is not None
        cells = [_placement(one) for one in line]
        rates += [rate for one in line if one and (rate := _rates(one)[1]) is not None]
        redop, root = row.redop or "none", row.root if COLLECTIVES[row.op].rooted else -1
        yield (
            f"{row.nbytes:12d}  {_count(row):12d}  {_TYPES.get(row.dtype, row.dtype):>8s}  {redop:>6s}  {root:6d}"
            f"  {'  '.join(cells)}"
        )
    wrong = sum(one.wrong or 0 for line in table.lines for one in line if one)
    yield f"# Out of bounds values : {wrong} {'FAILED' if wrong else 'OK'}"
    yield f"# Avg bus bandwidth    : {sum(rates) / len(rates):g}" if rates else "# Avg bus bandwidth    : N/A"
    yield "#"
    yield f"# Collective test concluded: {_PROGRAMS[table.row.op]}_perf"
    yield ""


def _head(run: Run, table: Table) -> Iterator[str]:
    row, sizes = table.row, [one.nbytes for line in table.lines for one in line if one]
    about = [row.backend, f"group {row.group}", f"{row.ranks} ranks", *(f"{k}={v}" for k, v in row.settings.items())]
    yield f"# Collective test starting: {_PROGRAMS[row.op]}_perf"
    yield f"# written by commbench {run.commbench} from {one_line(run.name)}: {one_line(', '.join(about))}"
    calls = f" iters: {row.samples}" if row.kind == "samples" else ""
    yield f"# minBytes {min(sizes)} maxBytes {max(sizes)}{calls} validation: {int(row.wrong is not None)}"
    yield "#"
    yield f"#{'':53s}{'out-of-place':>32s}{'in-place':>35s}"
    measured = f"{'time':>7s}  {'algbw':>6s}  {'busbw':>6s}  {'#wrong':>6s}"
    units = f"{'(us)':>7s}  {'(GB/s)':>6s}  {'(GB/s)':>6s}  {'':>6s}"
    yield f"#{'size':>11s}  {'count':>12s}  {'type':>8s}  {'redop':>6s}  {'root':>6s}  {measured}  {measured}"
    yield f"#{'(B)':>11s}  {'(elements)':>12s}  {'':>8s}  {'':>6s}  {'':>6s}  {units}  {units}".rstrip()


def _count(row: Row) -> int:
    """Elements as the call's own parameter counts them: a chunk where the message is cut into one for each rank."""
    return row.nbytes // _BYTES[row.dtype] // COLLECTIVES[row.op].chunks(row.ranks or 1)


def _rates(row: Row) -> tuple[float | None, float | None]:
    """(algbw, busbw) of the mean, in GB/s."""
    return bandwidths(row.op, row.nbytes, row.ranks or 1, (row.mean_us or 0.0) / 1e6)


def _placement(row: Row | None) -> str:
    algbw, busbw = _rates(row) if row else (None, None)
    wrong = "N/A" if row is None or row.wrong is None else str(row.wrong)
    return f"{_seven(row.mean_us if row else None)}  {_six(algbw)}  {_six(busbw)}  {wrong:>6s}"


def _seven(value: float | None) -> str:
    """As nccl-tests squeezes a time into its column."""
    if value is None:
        return f"{'N/A':>7s}"
    form = ".2f" if value < 1e3 else ".1f" if value < 1e5 else ".0f" if value < 1e7 else ".1e"
    return f"{value:7{form}}"


def _six(value: float | None) -> str:
    return f"{'N/A':>6s}" if value is None else f"{value:6.2f}" if value < 1e3 else f"{value:6.1f}"


def document(run: Run, table: Table) -> bytes:
    """The JSON of `-J`, which holds one table."""
    results = [_result(line) for line in table.lines]
    wrong = [placed["nwrong"] for one in results for name in _PLACEMENTS if (placed := one[name])]
    rates = [placed["bus_bw"] for one in results for name in _PLACEMENTS if (placed := one[name])]
    known = [rate for rate in rates if rate is not None]
    told = {
        "version": 3,
        "start_time": run.created,
        "args": [f"{_PROGRAMS[table.row.op]}_perf"],
        "env": [],
        "nccl_version": run.machine.facts.get("nccl"),
        "config": _config(run, table),
        "results": results,
        "out_of_bounds": {
            "count": sum(filter(None, wrong)),
            "okay": "unchecked" if all(one is None for one in wrong) else "false" if any(wrong) else "true",
        },
        "average_bus_bandwidth": {"bandwidth": sum(known) / len(known) if known else None, "okay": "unchecked"},
        "errors": [],
        "end_time": run.created,
        "written_by": f"commbench {run.commbench}",
    }
    return msgspec.json.format(msgspec.json.encode(told))


def _config(run: Run, table: Table) -> dict[str, Any]:
    sizes = [one.nbytes for line in table.lines for one in line if one]
    machine = run.machine
    devices = [
        {"rank": rank, "group": 0, "hostname": machine.hosts[host].name} for rank, host in enumerate(machine.host_of)
    ]
    told: dict[str, Any] = {"nthreads": 1, "ngpus": 1}
    told |= {"minimum_bytes": min(sizes), "maximum_bytes": max(sizes)}
    calls = table.row.samples if table.row.kind == "samples" else None
    return told | {"iterations": calls, "devices": devices}


def _result(line: tuple[Row | None, Row | None]) -> dict[str, Any]:
    row = line[0] or line[1]
    assert row is not None
    told: dict[str, Any] = {
        "size": row.nbytes,
        "count": _count(row),
        "type": _TYPES.get(row.dtype, row.dtype),
        "redop": row.redop or "none",
        "root": str(row.root if COLLECTIVES[row.op].rooted else -1),
    }
    for name, one in zip(_PLACEMENTS, line, strict=True):
        algbw, busbw = _rates(one) if one else (None, None)
        measured = {"time": one.mean_us, "alg_bw": algbw, "bus_bw": busbw, "nwrong": one.wrong} if one else None
        told[name] = measured
    return told | {"experiment_name": f"{_PROGRAMS[row.op]}_perf"}
