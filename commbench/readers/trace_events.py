"""The events of a profiler's trace, sorted as they come: what is dropped, what shrinks to times, what stays."""

import re
from array import array
from typing import Any

import msgspec

from commbench.readers import trace_calls as words
from commbench.readers.trace_calls import Args

_STEP = re.compile(r"ProfilerStep#(\d{1,9})")
_KINDS = {
    "kernel": "kernel",
    "gpu_memcpy": "copy",
    "gpu_memset": "copy",
    "memcpy": "copy",
    "memset": "copy",
    "cpu_op": "host",
    "operator": "host",
    "user_annotation": "host",
    "cuda_runtime": "launch",
    "cuda_driver": "launch",
    "hip_runtime": "launch",
    "xpu_runtime": "launch",
    "runtime": "launch",
}
# Operators of these namespaces hold others, or wait; every other one computes.
_NO_COMPUTING = re.compile(r"(?:_?c10d\w*|torch|torch\.distributed.*|autograd|nccl|gloo|mpi|profiler)::")


class Event(msgspec.Struct, kw_only=True):
    """Anything may be in it; the arguments stay text until someone asks."""

    ph: Any = None
    cat: Any = None
    name: Any = None
    ts: Any = None
    dur: Any = None
    pid: Any = None
    tid: Any = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class Said(msgspec.Struct):
    """An event about communication, and where and when."""

    name: str
    start: float
    end: float
    thread: int
    args: Args


class Spans:
    """Many intervals with a number each, in little memory."""

    def __init__(self) -> None:
        self.starts = array("d")
        self.ends = array("d")
        self.tags = array("q")

    def add(self, start: float, end: float, tag: int) -> None:
        self.starts.append(start)
        self.ends.append(end)
        self.tags.append(tag)


class Gathered:
    """What is kept of the events.

    computing, copying   kernels and copies; the tag is the correlation with their launch, -1 without
    operating            operators on the host that compute; the tag is the thread
    launches             calls of the GPU's runtime: correlation -> (thread, time)
    steps                (number, start, end)
    """

    def __init__(self) -> None:
        self.computing, self.copying, self.operating = Spans(), Spans(), Spans()
        self.launches: dict[int, tuple[int, float]] = {}
        self.steps: list[tuple[int, float, float]] = []
        self.operators: list[Said] = []
        self.records: list[Said] = []
        self.ranges: list[Said] = []
        self.kernels: list[Said] = []
        self.seen = 0
        self.without_time = 0
        self._threads: dict[str, int] = {}
        self._args = msgspec.json.Decoder(Args).decode

    def take(self, event: Event) -> None:
        kind = _KINDS.get(event.cat.lower()) if isinstance(event.cat, str) else None
        if kind is None or event.ph != "X" or not isinstance(event.name, str):
            return
        self.seen += 1
        start, length = _number(event.ts), _number(event.dur)
        if start is None or length is None or length < 0:
            self.without_time += 1
        elif kind == "host":
            self._host(event, start, start + length)
        else:
            self._gpu(kind, event, start, start + length)

    def _gpu(self, kind: str, event: Event, start: float, end: float) -> None:
        args = self._arguments(event)
        correlation = words.count(args.correlation)
        tag = -1 if correlation is None else correlation
        if kind == "launch":
            if tag > 0:
                self.launches.setdefault(tag, (self._thread(event), start))
        elif kind == "copy":
            self.copying.add(start, end, tag)
        elif words.is_communication(event.name) or isinstance(args.said, str):
            self.kernels.append(Said(event.name, start, end, -1, args))
        else:
            self.computing.add(start, end, tag)

    def _host(self, event: Event, start: float, end: float) -> None:
        name = event.name
        if step := _STEP.match(name):
            self.steps.append((int(step[1]), start, end))
            return
        if name == "record_param_comms":
            kept = self.records
        elif name.startswith("c10d::"):
            kept = self.operators
        elif words.range_of(name):
            kept = self.ranges
        else:
            if "::" in name and not _NO_COMPUTING.match(name):
                self.operating.add(start, end, self._thread(event))
            return
        kept.append(Said(name, start, end, self._thread(event), self._arguments(event)))

    def _thread(self, event: Event) -> int:
        return self._threads.setdefault(f"{event.pid!s:.40}/{event.tid!s:.40}", len(self._threads))

    def _arguments(self, event: Event) -> Args:
        try:
            return self._args(event.args)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Args()


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and -1e18 < value < 1e18
    return float(value) if good else None
