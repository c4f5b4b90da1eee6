"""NCCL Inspector's JSON lines (plugins/profiler/inspector, formats v4.0 to v5) -> one Found for each file.

A line tells one finished collective of one communicator as one rank saw it: its sequence number, size and execution
time, in a job that runs. The samples of a case are the times in the order of the file; where a file holds several
ranks of a communicator (files put together), a sample is the slowest rank's time of that sequence number. Since v4.3
a `dump_stats` line carries header and metadata for the lines behind it.

Sizes: count x size of the type, which for all_gather, reduce_scatter and all_to_all is one rank's block. The data
type is not told. A send or receive is one side of a message: `inspector.send`, `inspector.recv`.
"""

import re
from array import array
from collections.abc import Iterator
from typing import Any

import msgspec

from commbench.errors import ReadError
from commbench.readers.base import Found, Reader
from commbench.readers.figures import LARGEST, sized, utc
from commbench.readers.source import Problem, Source
from commbench.records import Case, Host, Machine, Measurement

_OPS = {
    "AllReduce": "all_reduce",
    "AllGather": "all_gather",
    "AllGatherV": "all_gather_v",
    "ReduceScatter": "reduce_scatter",
    "Broadcast": "broadcast",
    "Reduce": "reduce",
    "All2All": "all_to_all",
    "AlltoAll": "all_to_all",
    "SendRecv": "send_recv",
}
_BLOCKS = ("all_gather", "all_gather_v", "reduce_scatter", "all_to_all")
_LONGEST_TIME = 1e12  # us
_MOST_SAMPLES = 2**20  # of one Found; a longer file goes on in the next
_MOST_SERIES = 2**16


class _Header(msgspec.Struct):
    id: str = ""
    comm_name: str = ""
    rank: int = 0
    n_ranks: int = 0
    nnodes: int = 0


class _Metadata(msgspec.Struct):
    inspector_output_format_version: str = ""
    git_rev: str = ""
    dump_timestamp_us: float = 0
    hostname: str = ""


class _Perf(msgspec.Struct):
    coll: str = ""
    p2p: str = ""
    coll_sn: int = -1
    p2p_sn: int = -1
    coll_msg_size_bytes: int = -1
    p2p_msg_size_bytes: int = -1
    coll_exec_time_us: float | None = None
    p2p_exec_time_us: float | None = None
    coll_timing_source: str = ""
    p2p_timing_source: str = ""
    coll_algo: str = ""
    coll_proto: str = ""


class _Line(msgspec.Struct):
    header: _Header | None = None
    metadata: _Metadata | None = None
    coll_perf: _Perf | None = None
    p2p_perf: _Perf | None = None
    dump_stats: dict[str, Any] | None = None
    # some collectors hoist these to the top
    id: str = ""
    rank: int = 0
    n_ranks: int = 0
    hostname: str = ""


class _Series:
    """The samples of one case on one communicator."""

    def __init__(self, case: Case, nbytes: int, ranks: int, group: int) -> None:
        self.case = case
        self.nbytes = nbytes
        self.ranks = ranks
        self.group = group
        self.seconds = array("d")
        self.seen: dict[int, int] = {}  # sequence number -> index of its sample
        self.first_rank: int | None = None

    def add(self, rank: int, sequence: int, seconds: float) -> None:
        """A second rank's time of the same call only counts where it is longer."""
        if self.first_rank is None:
            self.first_rank = rank
        at = self.seen.get(sequence) if sequence >= 0 and rank != self.first_rank else None
        if at is not None:
            self.seconds[at] = max(self.seconds[at], seconds)
            return
        if sequence >= 0:
            self.seen[sequence] = len(self.seconds)
        self.seconds.append(seconds)

    def measurement(self) -> Measurement:
        return Measurement(
            case=self.case,
            group=self.group,
            ranks=self.ranks,
            nbytes=self.nbytes,
            seconds=tuple(self.seconds),
            calls=1,
            clock="imported",
        )


class _Job:
    """What has been read and not yet given out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.header = _Header()
        self.metadata = _Metadata()
        self.line = 1
        self.clear()

    def clear(self) -> None:
        self.samples = 0
        self.series: dict[tuple[str, Case], _Series] = {}
        self.groups: dict[Case, int] = {}
        self.hosts: dict[str, None] = {}
        self.ranks: set[int] = set()
        self.dropped = 0
        self.began = self.metadata.dump_timestamp_us

    def context(self, line: _Line) -> None:
        """Header and metadata: of the line, or of the last line that had them."""
        self.header = line.header or (
            _Header(line.id, rank=line.rank, n_ranks=line.n_ranks) if line.n_ranks else self.header
        )
        self.metadata = line.metadata or (_Metadata(hostname=line.hostname) if line.hostname else self.metadata)
        self.began = self.began or self.metadata.dump_timestamp_us
        for name in ("coll_dropped_since_last_dump", "p2p_dropped_since_last_dump"):
            lost = (line.dump_stats or {}).get(name, 0)
            self.dropped += lost if isinstance(lost, int) and 0 <= lost <= LARGEST else 0

    def take(self, perf: _Perf) -> str:
        """Takes one call; a sentence if it cannot be one, "" else."""
        size = max(perf.coll_msg_size_bytes, perf.p2p_msg_size_bytes)
        time_us = perf.coll_exec_time_us if perf.coll_exec_time_us is not None else perf.p2p_exec_time_us
        ranks, name = self.header.n_ranks, perf.coll or perf.p2p
        if not name or time_us is None or size < 0:
            return "a call without a name, a size or a time"
        if not 0 < size <= LARGEST:
            return f"size {size}: no bytes were moved" if not size else f"not a size: {size}"
        if not 0 < time_us < _LONGEST_TIME:
            return f"a time of {time_us:g} us"
        if not 0 <= ranks < 2**31:
            return f"not a number of ranks: {ranks}"
        op = _OPS.get(name, f"inspector.{re.sub(r'[^a-z0-9_.-]', '', name.lower())[:40]}")
        nbytes, scale = sized(size, ranks) if op in _BLOCKS else (size, ())
        about = {"source": "running job", "timing": perf.coll_timing_source or perf.p2p_timing_source}
        about |= {"algorithm": perf.coll_algo.lower(), "protocol": perf.coll_proto.lower()}
        about |= {"communicator": self.header.comm_name if self.header.comm_name != "unknown" else ""}
        case = Case(
            op=op,
            backend="nccl",
            nbytes=nbytes,
            dtype="unknown",
            settings=scale + tuple((key, text[:200]) for key, text in about.items() if text),
        )
        key = (self.header.id[:64], case)
        if key not in self.series:
            group = self.groups[case] = self.groups.get(case, -1) + 1
            self.series[key] = _Series(case, nbytes, ranks, group)
            if len(self.series) > _MOST_SERIES:
                raise ReadError(f"{self.name}: more than {_MOST_SERIES} different calls, which no job makes")
        sequence = perf.coll_sn if perf.coll else -1
        self.series[key].add(self.header.rank, sequence, time_us / 1e6)
        self.samples += 1
        self.ranks.add(self.header.rank)
        if len(self.hosts) < _MOST_SERIES:
            self.hosts[self.metadata.hostname[:255]] = None
        return ""

    def found(self) -> Iterator[Found]:
        """What is there, once; then nothing."""
        if self.series:
            version = self.metadata.inspector_output_format_version[:40]
            ranks = sorted(self.ranks)
            options = {
                "git_rev": self.metadata.git_rev[:80],
                "ranks seen": ", ".join(map(str, ranks[:64])) + (", ..." if len(ranks) > 64 else ""),
                "communicators": str(len({identity for identity, _ in self.series})),
                "calls lost": str(self.dropped or ""),
            }
            yield Found(
                tool=f"NCCL Inspector {version}".strip(),
                line=self.line,
                machine=Machine(hosts=tuple(Host(name=host) for host in self.hosts if host), host_of=(), launcher=""),
                measurements=tuple(series.measurement() for series in self.series.values()),
                options={key: text for key, text in options.items() if text},
                created=utc(self.began / 1e6),
            )
        self.clear()


def _read(source: Source) -> Iterator[Found | Problem]:
    job, decode = _Job(source.name), msgspec.json.Decoder(_Line).decode
    for number, raw in source.raw_lines():
        if b'_perf"' not in raw and b'"dump_stats"' not in raw:
            continue
        start = raw.find(b"{")
        try:
            line = decode(raw[start:] if start >= 0 else raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield source.problem(number, f"no record of NCCL Inspector: {error}")
            continue
        except RecursionError:
            yield source.problem(number, "JSON that is nested too deeply")
            continue
        job.context(line)
        for perf in (line.coll_perf, line.p2p_perf):
            if perf is not None and (reason := job.take(perf)):
                yield source.problem(number, reason)
        if job.samples >= _MOST_SAMPLES:
            yield from job.found()
            job.line = number + 1
    yield from job.found()


READER = Reader(
    says="NCCL Inspector JSON lines",
    signatures=(b'"coll_perf"', b'"p2p_perf"'),
    read=_read,
)
