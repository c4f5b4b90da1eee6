"""A verdict for node_exporter's textfile collector: `*.prom`, without timestamps on the lines (it refuses those).

Figures of the full scale have the names and labels of NCCL Inspector, so that one dashboard shows accepted values
beside live ones, and further labels that keep different questions apart. What was not measured has no line, or NaN:
an alert on `commbench_component_ok != 1` also finds what is not known.
"""

import calendar
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from commbench.accept.standing import standings
from commbench.records import Run
from commbench.records.verdict import Verdict, Word
from commbench.report.findings import safe
from commbench.stats.rows import Row

NAME = "commbench.prom"
_OPS = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "broadcast": "Broadcast",
    "reduce": "Reduce",
    "all_to_all": "AlltoAll",
    "send_recv": "SendRecv",
}
_HELP = {
    "nccl_bus_bandwidth_gbs": "Bus bandwidth in GB/s (1e9 bytes), of the median time.",
    "nccl_collective_exec_time_microseconds": "Time of a call in microseconds, the slowest rank, median.",
    "commbench_verdict": "1 for the word of the last acceptance test, 0 for the others.",
    "commbench_component_ok": "1: tested and in order. 0: at fault. NaN: neither was shown.",
    "commbench_smallest_slowdown_found": "The smallest slowdown that the test could have found, as a share.",
    "commbench_last_run_timestamp_seconds": "When the last acceptance test began, seconds since the epoch.",
}


class Sample(NamedTuple):
    """One line."""

    metric: str
    labels: Mapping[str, str]
    value: float


def text(verdict: Verdict, run: Run, rows: Sequence[Row]) -> str:
    """The file. `rows` are those of the full scale."""
    found: dict[str, list[Sample]] = {metric: [] for metric in _HELP}
    for sample in (*_figures(run, rows), *_states(verdict, run)):
        found[sample.metric].append(sample)
    return "".join(_family(metric, samples) for metric, samples in found.items() if samples)


def _family(metric: str, samples: Sequence[Sample]) -> str:
    """Samples of one name stand together; of two with the same labels, which the collector refuses, the first stays."""
    lines: dict[str, str] = {}
    for sample in samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        lines.setdefault(labels, f"{metric}{{{labels}}} {_number(sample.value)}\n")
    return f"# HELP {metric} {_HELP[metric]}\n# TYPE {metric} gauge\n{''.join(lines.values())}"


def _escaped(value: str) -> str:
    return safe(value).replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    return "NaN" if value != value else f"{value:.10g}"


def _figures(run: Run, rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows:
        if row.status != "ok":
            continue  # how fast wrong data arrive says nothing
        labels = _labels(run, row)
        if row.busbw_gbps is not None:
            yield Sample("nccl_bus_bandwidth_gbs", labels, row.busbw_gbps)
        if row.median_us is not None:
            yield Sample("nccl_collective_exec_time_microseconds", labels, row.median_us)


def _labels(run: Run, row: Row) -> dict[str, str]:
    """Those of Inspector first, in its order."""
    algorithm = [row.settings[name] for name in ("NCCL_ALGO", "NCCL_PROTO") if name in row.settings]
    return {
        "version": f"commbench {run.commbench}",
        "slurm_job_id": run.machine.environment.get("SLURM_JOB_ID", "unknown"),
        "node": "all",
        "gpu": "all",
        "comm_name": run.name,
        "n_nodes": str(_nodes(run, row)),
        "nranks": str(row.ranks or run.machine.size),
        "collective": _OPS.get(row.op, row.op),
        "message_size": size_range(row.nbytes),
        "algo_proto": "_".join(algorithm) or "unknown",
        "bytes": str(row.asked),
        "backend": row.backend,
        "dtype": row.dtype,
        "redop": row.redop or "",
        "mode": row.mode,
        "in_place": "1" if row.in_place else "0",
        "root": str(row.root),
        "settings": " ".join(f"{name}={value}" for name, value in sorted(row.settings.items())),
        "group": row.group,
    }


def _nodes(run: Run, row: Row) -> int:
    """Hosts of a row's group; the layouts of the full scale have one group."""
    from commbench.accept.evidence import groups_of

    of = run.machine.host_of
    return len({of[rank] for group in groups_of(row.groups, of)[:1] for rank in group}) or len(run.machine.hosts)


def size_range(nbytes: int) -> str:
    """Inspector's label of a size: 1.5 MiB is in `1-2MB`, whose M is 1024 x 1024."""
    if nbytes <= 0:
        return "0B"
    step = min((nbytes.bit_length() - 1) // 10, 4)
    low = nbytes // 1024**step
    return f"{low}-{low + 1}{('B', 'KB', 'MB', 'GB', 'TB')[step]}"


def _states(verdict: Verdict, run: Run) -> Iterator[Sample]:
    about = {"run": verdict.name}
    for word in get_args(Word):
        yield Sample("commbench_verdict", about | {"word": word}, float(word == verdict.word))
    for (kind, component), ok in components(verdict, run).items():
        yield Sample("commbench_component_ok", about | {"kind": kind, "component": component}, ok)
    if verdict.power.detectable is not None:
        yield Sample("commbench_smallest_slowdown_found", about, verdict.power.detectable)
    if (began := _epoch(verdict.created)) is not None:
        yield Sample("commbench_last_run_timestamp_seconds", about, began)


def components(verdict: Verdict, run: Run) -> dict[tuple[str, str], float]:
    """(kind, id) -> 1 in order, 0 at fault, NaN not known. All hosts of the run, and what reasons name besides."""
    nan = float("nan")
    found: dict[tuple[str, str], float] = {}
    known = {"accused": 0.0, "fine": 1.0}
    for host, standing in standings(verdict, run).items():
        if standing != "excluded":
            found["host", host] = known.get(standing, nan)
    for reason in verdict.reasons:
        proved = reason.decides == "FAIL" and not reason.ties
        for component in (reason.component, *reason.ties):
            key = component.kind, component.id
            if component.kind not in ("run", "host") and found.get(key) != 0:
                found[key] = 0.0 if proved else nan
    return found


def _epoch(created: str) -> float | None:
    """Seconds since the epoch of a time in ISO 8601 with its zone; None where it is none."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", created, re.ASCII)
    if match is None:
        return None
    try:
        seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    ahead = (int(match[3]) * 3600 + int(match[4]) * 60) if match[2] else 0
    return float(seconds - ahead if match[2] == "+" else seconds + ahead)
