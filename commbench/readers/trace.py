"""Traces of the PyTorch profiler (Kineto's Chrome format), plain or gzip: one rank's part of a Workload.

The file is read once, event by event (`json_stream`). Of kernels, operators and launches only the times stay
(`trace_events`), so that a long trace fits; of communication all stays that the trace tells (`trace_calls`). At the
end the calls get their kernels and the steps their sums (`trace_steps`, `timeline`).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from commbench.errors import ReadError
from commbench.readers import trace_calls as words
from commbench.readers.base import Found, Reader
from commbench.readers.json_stream import Stream, Trouble
from commbench.readers.source import Problem, Source
from commbench.readers.trace_events import Event, Gathered
from commbench.records.workload import Workload

_TOLD = 20  # unreadable events that are told one by one


def read(source: Source) -> Iterator[Found | Problem]:
    """One Found with one Workload of one Rank. ReadError where nothing of a damaged file is readable."""
    gathered = Gathered()
    stream = Stream(source.blocks(), "traceEvents", Event)
    troubles = 0
    for part in stream:
        if isinstance(part, Trouble):
            troubles += 1
            if troubles <= _TOLD:
                yield source.problem(part.line, f"trace: {part.reason}")
        else:
            for event in part:
                gathered.take(event)
    if troubles > _TOLD:
        yield source.problem(0, f"trace: {troubles - _TOLD} more events could not be read")
    if gathered.without_time:
        yield source.problem(0, f"trace: {gathered.without_time} events left out: their time (ts, dur) is not a number")
    if stream.cut:
        if not gathered.seen:
            raise ReadError(f"{source.name}: {stream.cut.removeprefix(source.name + ': ')}; no event can be read")
        yield source.problem(stream.line, f"trace: {stream.cut.removeprefix(source.name + ': ')}; all before is read")
    if gathered.seen:
        yield _found(gathered, stream.members)
    elif stream.elements and not stream.cut:
        yield source.problem(0, "trace: no event of the PyTorch profiler in it")


def _found(gathered: Gathered, members: dict[str, Any]) -> Found:
    import numpy as np  # not before there is something to read

    from commbench.readers.trace_steps import began_us, rank_of

    distributed = members.get("distributedInfo")
    distributed = distributed if isinstance(distributed, dict) else {}
    base = words.count(members.get("baseTimeNanoseconds"), 2**62)
    epoch = _epoch(began_us(gathered), base)
    backend = words.word(distributed.get("backend"))
    version = words.word(distributed.get("nccl_version"))
    amd = "roctracer_version" in members or "hip_runtime_version" in members
    rank, groups = rank_of(gathered, words.listed_groups(distributed))
    rank = msgspec.structs.replace(
        rank,
        rank=words.count(distributed.get("rank")),
        host=words.word(members.get("host_name")),
        device=_device(members.get("deviceProperties")),
        began=epoch,
    )
    workload = Workload(
        world_size=words.count(distributed.get("world_size")),
        backend=backend,
        library=f"{'RCCL' if amd else 'NCCL'} {version}" if version else "",
        groups=groups,
        ranks=(rank,),
    )
    created = "" if epoch is None else f"{np.datetime64(int(epoch), 's')}+00:00"
    return Found(tool="PyTorch profiler", created=created, options=_options(workload), parts=(workload,))


def _options(workload: Workload) -> dict[str, str]:
    rank = workload.ranks[0]
    told = {
        "backend": workload.backend,
        "library": workload.library,
        "rank": "" if rank.rank is None else str(rank.rank),
        "world_size": "" if workload.world_size is None else str(workload.world_size),
        "device": rank.device,
    }
    return {key: value for key, value in told.items() if value}


def _epoch(began: float, base_ns: int | None) -> float | None:
    """Seconds since 1970: newer traces count from a base, older ones from 1970; None for what is neither."""
    seconds = began / 1e6 + (base_ns or 0) / 1e9
    return seconds if 1e9 < seconds < 1e10 else None


def _device(properties: Any) -> str:
    listed = properties if isinstance(properties, list) else []
    names = {words.word(one.get("name")) for one in listed if isinstance(one, dict)}
    return names.pop() if len(names) == 1 else ""


READER = Reader(says="PyTorch profiler trace", signatures=(b'"traceEvents"', b'"ph"'), read=read)
