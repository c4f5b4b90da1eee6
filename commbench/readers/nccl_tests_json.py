"""The report that nccl-tests writes with `-J FILE` (since 2.17.3; its `src/util.cu`), version 3 and the ones before.

The report holds the whole environment of the process: only variables of the allow-list are kept. It lists one device
for each process. Numbers are microseconds and GB/s; NaN is the string "nan"; booleans are strings. With `-I` it holds
every single call: then the samples are kept, and the mean of the block of calls is not.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from commbench.allowlist import environment
from commbench.errors import ReadError
from commbench.readers.base import Found, Reader
from commbench.readers.nccl_names import (
    AMD,
    UNKNOWN,
    Block,
    Launches,
    Printed,
    Row,
    Setting,
    op_of,
    trusted,
    version_of,
    whole_text,
)
from commbench.readers.source import Problem, Source
from commbench.records import Host, Machine
from commbench.records.case import Mode

_SIGNATURES = (b'"out_of_place"', b'"aggregated_iterations"')
_MOST = 2**26  # bytes of a report
_LONGEST_TIME = 1e6  # seconds of a call
_MOST_RANKS = 2**18
_HALF = 0.5e-6  # of the last digit of %lf
_TOLD = {"min_us": "min", "max_us": "max", "avg_us": "mean", "p50_us": "p50", "p95_us": "p95", "p99_us": "p99"}
_BARE = re.compile(r"(?<=[:,\[])\s*(-?(?:inf|nan))\s*(?=[,}\]])")
_OWN = ("out_of_bounds", "average_bus_bandwidth", "errors", "start_time", "end_time")


def _read(source: Source) -> Iterator[Found | Problem]:
    if not next(source.blocks(), b"").lstrip().startswith(b"{"):
        return  # a log that quotes one
    text = whole_text(source.text(_MOST))
    if not any(mark.decode() in text for mark in _SIGNATURES):
        return
    try:
        report, broken = json.loads(text), ""
    except (ValueError, RecursionError) as error:
        report, broken = _salvaged(source, text, str(error))
    if not isinstance(report, dict) or not isinstance(report.get("results"), list) or "config" not in report:
        if broken:
            raise ReadError(f"{source.name}: the report ends before its results: {broken}")
        return
    if broken:
        yield source.problem(0, f"damaged JSON, {len(report['results'])} rows before the damage are kept: {broken}")
    yield from _report(source, report)


def _salvaged(source: Source, text: str, why: str) -> tuple[Any, str]:
    """What can be read of a damaged report: its head, and the results before the damage."""
    text = _BARE.sub(r'"\1"', text)
    try:
        return json.loads(text), ""
    except RecursionError:
        raise ReadError(f"{source.name}: JSON nested too deeply") from None
    except ValueError:
        pass
    head, found, tail = text.partition('"results":')
    try:
        report = json.loads(head + '"results":[]}') if found else None
        results, decoder, at = [], json.JSONDecoder(), tail.find("{")
        while isinstance(report, dict) and 0 <= at < len(tail):
            try:
                result, end = decoder.raw_decode(tail, at)
            except ValueError:
                break
            results.append(result)
            begin = re.compile(r"\s*,\s*(?=\{)").match(tail, end)
            at = begin.end() if begin else -1
        if isinstance(report, dict):
            report["results"] = results
        return report, why
    except ValueError:
        return None, why
    except RecursionError:
        raise ReadError(f"{source.name}: JSON nested too deeply") from None


def _report(source: Source, report: dict[str, Any]) -> Iterator[Found | Problem]:
    config = report["config"] if isinstance(report["config"], dict) else {}
    args = [arg for arg in _list(report.get("args")) if isinstance(arg, str)]
    machine, ranks, split = _machine(report, config)
    op = op_of(args[0]) if args and "_perf" in args[0] else UNKNOWN
    amd = machine.facts.get("gpu", "").startswith(AMD)
    iters = _count(config.get("iterations")) * max(_count(config.get("aggregated_iterations")), 1)
    mode = _mode(config, args)
    setting = Setting(op, "rccl" if amd else "nccl", ranks, machine, mode, iters, _count(config.get("warmup_iters")))
    options = {str(k)[:40]: str(v)[:80] for k, v in config.items() if isinstance(v, str | int | float) and v != ""}
    options |= {key: text for key in _OWN if (text := _flat(report.get(key, "")))}
    options |= {"args": " ".join(args[1:])[:400]} if len(args) > 1 else {}
    options |= split | ({"collective": "not told"} if op == UNKNOWN else {})
    rows: list[Row] = []
    for number, result in enumerate(report["results"]):
        row, bad = _row(number, result)
        if row.blocks:
            rows.append(row)
        for reason in bad:
            yield source.problem(0, f"result {number}: {reason}")
    rows, damaged, contradicted = trusted(rows, setting)
    for number, reason in damaged:
        yield source.problem(0, f"result {number}: {reason}")
    if contradicted:
        yield source.problem(0, f"the bus bandwidths do not fit {ranks} ranks")
        setting = setting._replace(ranks=0)
    for error in _list(report.get("errors")):
        yield source.problem(0, f"the run reports: {str(error)[:200]}")
    if "end_time" not in report:
        yield source.problem(0, "the run did not reach its end: rows may be missing")
    launches = Launches()
    measurements = tuple(launches.measurement("", setting, row, block) for row in rows for block in row.blocks)
    if measurements:
        yield Found(
            tool="rccl-tests" if amd else "nccl-tests", machine=machine, measurements=measurements, options=options
        )


def _row(number: int, result: object) -> tuple[Row, list[str]]:
    """The row of one result (without blocks where nothing can be read), and what is wrong with it."""
    if not isinstance(result, dict):
        return Row(number, 0, 0, "", "", -1, ()), ["is no object"]
    root = str(result.get("root", "-1")).strip()
    blocks, bad = [], []
    for in_place, name in ((False, "out_of_place"), (True, "in_place")):
        if result.get(name) is None:
            continue  # not measured
        block = _block(in_place, result[name], result.get(f"{name}_per_iter"))
        if isinstance(block, str):
            bad.append(f"{name}: {block}")
        else:
            blocks.append(block)
    if not blocks and not bad:
        bad.append("neither placement was measured")
    size = _int(result.get("size"), -1)
    if size < 0:
        return Row(number, 0, 0, "", "", -1, ()), ["has no size"]
    dtype, redop = str(result.get("type", ""))[:40], str(result.get("redop", "none"))[:20]
    number_of = int(root) if re.fullmatch(r"-?[0-9]{1,7}", root) else -1
    row = Row(number, size, _int(result.get("count"), -1), dtype, redop, number_of, tuple(blocks))
    return row, bad


def _block(in_place: bool, told: object, per_call: object) -> Block | str:
    if not isinstance(told, dict):
        return "is no object"
    figures = [_float(told.get(name)) for name in ("cpu_time" if "cpu_time" in told else "time", "alg_bw", "bus_bw")]
    nwrong = told.get("nwrong")
    wrong = None if nwrong is None else _float(nwrong)
    if wrong is not None and not (0 <= wrong < 2**63 and wrong.is_integer()):
        return f"nwrong is {str(nwrong)[:40]}"
    samples: tuple[float, ...] = ()
    other: tuple[tuple[str, float], ...] = ()
    if isinstance(per_call, dict):
        skipped = max(_int(per_call.get("skipped_iterations")), 0)
        samples = tuple(_float(x) / 1e6 for x in _list(per_call.get("times_us")))[skipped:]
        names = {**_TOLD, "stdev_us": "stdev"}
        other = tuple((name, _float(per_call.get(key)) / 1e6) for key, name in names.items() if key in per_call)
        if not all(0 < x < _LONGEST_TIME for x in samples) or not all(0 <= x < _LONGEST_TIME for _, x in other):
            return "a time per call is none"
    time, algbw, busbw = (Printed(x, _HALF) for x in figures)
    return Block(in_place, time, algbw, busbw, None if wrong is None else int(wrong), "", other, samples)


def _machine(report: dict[str, Any], config: dict[str, Any]) -> tuple[Machine, int, dict[str, str]]:
    """(machine, ranks in one operation or 0, options that the list of devices tells)."""
    each = _int(config.get("nthreads")) * _int(config.get("ngpus"))
    devices = [d for d in _list(config.get("devices")) if isinstance(d, dict)]
    pairs = [e[:1000].partition("=") for e in _list(report.get("env")) if isinstance(e, str) and "=" in e]
    kept, hidden = environment({name: value for name, _, value in pairs})
    code = _int(report.get("nccl_version"))
    facts = {"nccl": version_of(code)} if code > 0 else {}
    order = [_int(d.get("rank"), -1) for d in devices]
    if not devices or not 0 < each * len(devices) <= _MOST_RANKS or order != [k * each for k in range(len(devices))]:
        facts |= {"gpu": _word(devices[0].get("device_info"))} if devices else {}
        warnings = ("the list of ranks is not complete",) if devices else ()
        return (
            Machine(hosts=(), host_of=(), launcher="", facts=facts, environment=kept, hidden=hidden, warnings=warnings),
            0,
            {},
        )
    gpus: dict[str, str] = {}
    for device in devices:
        gpus.setdefault(_word(device.get("hostname")), _word(device.get("device_info")))
    names = list(gpus)
    gpu = gpus[names[0]]
    index = {name: k for k, name in enumerate(names)}
    machine = Machine(
        hosts=tuple(Host(name=name, differs={"gpu": gpus[name]} if gpus[name] != gpu else {}) for name in names),
        host_of=tuple(index[_word(device.get("hostname"))] for device in devices for _ in range(each)),
        launcher="",
        facts=facts | ({"gpu": gpu} if gpu else {}),
        environment=kept,
        hidden=hidden,
    )
    groups = Counter(_int(device.get("group")) for device in devices)
    split = {"groups": f"{len(groups)} (NCCL_TESTS_SPLIT)"} if len(groups) > 1 else {}
    return machine, next(iter(groups.values())) * each if len(set(groups.values())) == 1 else 0, split


def _mode(config: dict[str, Any], args: list[str]) -> Mode:
    """`-z 1` and `-z 3` put a barrier before every call (3: only where no calls are aggregated); `-z 2` only waits."""
    if str(config.get("blocking_collectives", "false")).lower() in ("false", "0"):
        return "throughput"
    found = re.search(r" (?:-z ?|--blocking[ =])(\d)", " " + " ".join(args))
    apart = found and (found[1] == "2" or (found[1] == "3" and _int(config.get("aggregated_iterations"), 1) > 1))
    return "throughput" if apart else "latency"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: object, other: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62 else other


def _word(value: object) -> str:
    return "" if value is None else str(value)[:255]


def _count(value: object) -> int:
    """0: not told, or damage."""
    return count if 0 <= (count := _int(value)) < 2**31 else 0


def _float(value: object) -> float:
    """NaN for all that is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < 1e300 else math.inf


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())[:120]
    return ", ".join(str(v) for v in value)[:200] if isinstance(value, list) else str(value)[:80]


READER = Reader(
    says="JSON reports of nccl-tests (-J)",
    signatures=_SIGNATURES,
    read=_read,
)
