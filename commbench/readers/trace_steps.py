"""From a trace's events to calls and steps: which kernel belongs to which call, and what computing hides."""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from itertools import chain, pairwise

import msgspec
import numpy as np

from commbench.readers import trace_calls as words
from commbench.readers.timeline import Cover, Floats, cover, holder
from commbench.readers.trace_calls import Args
from commbench.readers.trace_events import Gathered, Said, Spans
from commbench.records.workload import Call, Group, Rank, Step

_OPERATOR, _RECORD, _RANGE = range(3)  # of events that begin together, the outer first


class Made(msgspec.Struct, kw_only=True):
    """One call, with all events that tell of it."""

    outer: Said | None = None  # the first of record and range
    record: Said | None = None
    ranged: Said | None = None
    operator: Said | None = None
    on_host: bool = False
    kernels: list[Said] = []

    @property
    def args(self) -> Args | None:
        """The arguments that name the collective, where the trace is new enough to have them."""
        told = (said.args for said in (self.record, *self.kernels) if said and isinstance(said.args.said, str))
        return next(told, None)

    @property
    def said(self) -> str:
        if self.on_host and self.operator:
            return self.operator.name.removeprefix("c10d::")
        named = words.word(self.args.said) if self.args else ""
        found = words.range_of(self.ranged.name) if self.ranged else None
        return named or (found[1] if found else "") or (words.word(self.kernels[0].name) if self.kernels else "")

    @property
    def op(self) -> str | None:
        ops = [words.op_of(self.said)] if self.outer or self.args else [words.kernel_op(self.said)]
        if self.ranged and not self.on_host:
            ops.append(words.op_of(self.ranged.name))
        return "barrier" if "barrier" in ops else ops[0]


def began_us(gathered: Gathered) -> float:
    """The earliest time in the trace."""
    spans = (gathered.computing, gathered.copying, gathered.operating)
    said = chain(gathered.operators, gathered.records, gathered.ranges, gathered.kernels)
    firsts = [min(one.starts) for one in spans if one.starts]
    firsts += [start for _, start, _ in gathered.steps] + [one.start for one in said]
    return min(firsts, default=0.0)


def rank_of(gathered: Gathered, listed: Sequence[Group]) -> tuple[Rank, tuple[Group, ...]]:
    """The steps and calls of the rank, and the groups that the calls refer to by index."""
    zero = began_us(gathered)
    made = _joined(_on_device(gathered), _on_host(gathered))
    made += _launched(gathered, made)
    index: dict[Group, int] = {}
    for group in listed:
        index.setdefault(group, len(index))
    calls = [_call(one, gathered, {group.name: group for group in listed}, index, zero) for one in made]
    calls.sort(key=lambda call: call.launch_us if call.start_us is None else call.start_us)  # type: ignore[arg-type, return-value]
    steps, calls = _steps(gathered, calls, zero)
    return Rank(steps=tuple(steps), calls=tuple(calls)), tuple(index)


# ---- calls ------------------------------------------------------------------------------------------------


def _within(inner: Said, outer: Said | None) -> bool:
    return outer is not None and inner.thread == outer.thread and outer.start <= inner.start and inner.end <= outer.end


def _library(said: Said) -> str:
    found = words.range_of(said.name)
    return found[0] if found else ""


def _on_device(gathered: Gathered) -> list[Made]:
    """Calls of libraries that only launch on the host: records and ranges, the inner ones with the outermost."""
    events = [(_OPERATOR, said) for said in gathered.operators] + [(_RECORD, said) for said in gathered.records]
    events += [(_RANGE, said) for said in gathered.ranges if _library(said) in words.ON_THE_DEVICE]
    events.sort(key=lambda event: (event[1].thread, event[1].start, -event[1].end, event[0]))
    made: list[Made] = []
    operator: Said | None = None
    for kind, said in events:
        if kind == _OPERATOR:
            operator = said
            continue
        if not made or not _within(said, made[-1].outer):
            made.append(Made(outer=said, operator=operator if _within(said, operator) else None))
        if kind == _RECORD:
            made[-1].record = made[-1].record or said
        else:
            made[-1].ranged = made[-1].ranged or said
    made = [one for one in made if one.said and words.carries(one.said)]
    used = Counter(id(one.operator) for one in made)
    for one in made:
        if used[id(one.operator)] > 1:  # its shapes are those of several calls
            one.operator = None
    return made


def _on_host(gathered: Gathered) -> list[Made]:
    """Calls of libraries that work on a thread of their own, each with the operator that asked for it.

    Both are in the order of asking. Gloo has no reduce_scatter: it makes an all_reduce of it.
    """
    asked: dict[str | None, deque[Said]] = defaultdict(deque)
    for operator in sorted(gathered.operators, key=lambda said: said.start):
        op = words.op_of(operator.name)
        asked["all_reduce" if op == "reduce_scatter" else op].append(operator)
    made = []
    for said in sorted(gathered.ranges, key=lambda said: said.start):
        if _library(said) in words.ON_THE_HOST:
            waiting = asked[words.op_of(said.name)]
            operator_ = waiting.popleft() if waiting and waiting[0].start <= said.start else None
            made.append(Made(outer=said, ranged=said, operator=operator_, on_host=True))
    return made


def _joined(device: list[Made], host: list[Made]) -> list[Made]:
    """A record without a range, in an operator whose work a thread of the host did, tells of that work."""
    worked = {id(one.operator): one for one in host if one.operator}
    alone = []
    for one in device:
        if one.operator and not one.ranged and id(one.operator) in worked:
            worked[id(one.operator)].record = one.record
        else:
            alone.append(one)
    return alone + host


def _launched(gathered: Gathered, made: list[Made]) -> list[Made]:
    """Give the kernels to their calls; what is left over becomes calls of its own, which are returned.

    A kernel's launch lies inside its call. Its `External id` names the call too, except in versions that
    write the correlation there.
    """
    device = [one for one in made if not one.on_host and one.outer]
    by_id = {
        said.args.external: one
        for one in device
        for said in (one.operator, one.ranged, one.record)
        if said and isinstance(said.args.external, int)
    }
    left: list[Made] = []
    for kernel, call in zip(gathered.kernels, _by_launch(gathered, device), strict=True):
        external = kernel.args.external
        if call is None and isinstance(external, int) and external != kernel.args.correlation:
            call = by_id.get(external)
        if call is None:
            call = Made()
            left.append(call)
            if isinstance(kernel.args.said, str) and isinstance(external, int):
                by_id[external] = call
        call.kernels.append(kernel)
    return left


def _by_launch(gathered: Gathered, device: list[Made]) -> list[Made | None]:
    """For each kernel the call in which the program launched it."""
    of_thread: dict[int, list[tuple[Said, Made]]] = defaultdict(list)
    for one in device:
        if one.outer:
            of_thread[one.outer.thread].append((one.outer, one))
    asked: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for k, kernel in enumerate(gathered.kernels):
        if launch := gathered.launches.get(words.count(kernel.args.correlation) or -1):
            asked[launch[0]].append((k, launch[1]))
    found: list[Made | None] = [None] * len(gathered.kernels)
    for thread in asked.keys() & of_thread.keys():
        outer = [said for said, _ in of_thread[thread]]
        times = np.array([time for _, time in asked[thread]])
        held = holder(np.array([said.start for said in outer]), np.array([said.end for said in outer]), times)
        for (k, _), index in zip(asked[thread], held, strict=True):
            found[k] = of_thread[thread][index][1] if index >= 0 else None
    return found


def _args(said: Said | None) -> Args | None:
    return said.args if said else None


def _call(made: Made, gathered: Gathered, listed: dict[str, Group], index: dict[Group, int], zero: float) -> Call:
    args, op = made.args, made.op
    group = words.group_of(args, listed) if args else None
    if group is None and len(listed) == 1:  # the job has no other
        (group,) = listed.values()
    payload = words.told(args, op) if args else words.Payload()
    if payload.nbytes is None:
        size = group.size if group else None
        shaped = words.shaped(op, _args(made.operator), _args(made.ranged), size)
        payload = shaped if shaped.nbytes is not None or not payload.dtype else payload
    if group is None and payload.ranks:
        group = Group(size=payload.ranks)
    timed = made.kernels or ([made.ranged] if made.on_host and made.ranged else [])
    first = made.kernels[0] if made.kernels else None
    asked = made.operator if made.on_host else made.outer
    launch = asked.start if asked else None
    if launch is None and first:
        launch = gathered.launches.get(words.count(first.args.correlation) or -1, (0, None))[1]
    return Call(
        op=op,
        said=made.said,
        nbytes=payload.nbytes,
        dtype=payload.dtype,
        group=None if group is None else index.setdefault(group, len(index)),
        clock="host" if made.on_host else "device",
        stream=words.count(first.args.stream) if first else None,
        kernels=len(made.kernels),
        launch_us=None if launch is None else launch - zero,
        start_us=min(said.start for said in timed) - zero if timed else None,
        end_us=max(said.end for said in timed) - zero if timed else None,
    )


# ---- steps ------------------------------------------------------------------------------------------------


class Timed(msgspec.Struct):
    """Intervals, and for each the time that says to which step it belongs."""

    starts: Floats
    ends: Floats
    asked: Floats


def _steps(gathered: Gathered, calls: list[Call], zero: float) -> tuple[list[Step], list[Call]]:
    on_device = bool(gathered.computing.starts or gathered.kernels)
    launches_only = bool(gathered.launches) or any(call.clock == "device" for call in calls)
    computing = copying = None  # not known
    if on_device:
        computing, copying = _timed(gathered.computing, gathered, zero), _timed(gathered.copying, gathered, zero)
    elif not launches_only:
        computing = _operators(gathered, zero)
    hiding = cover(computing.starts, computing.ends) if computing else None
    calls = [_exposed(call, hiding) for call in calls]
    known = [call for call in calls if call.start_us is not None]
    talking = Timed(*(np.array(column, dtype=float) for column in _columns(known))) if known or computing else None
    marks = _marks(gathered, [one for one in (computing, copying, talking) if one], zero)
    starts, ends = np.array([mark[1] for mark in marks]), np.array([mark[2] for mark in marks])
    asked = np.array([call.start_us if call.launch_us is None else call.launch_us for call in calls], dtype=float)
    of_call = holder(starts, ends, asked)
    calls = [
        msgspec.structs.replace(call, step=None if step < 0 else int(step))
        for call, step in zip(calls, of_call, strict=True)
    ]
    parts = [_by_step(one, starts, ends) for one in (computing, copying, talking)]
    steps = []
    for k, (number, start, end) in enumerate(marks):
        compute, copy, comm = (part[k] if part else None for part in parts)
        steps.append(
            Step(
                number=number,
                start_us=start,
                end_us=end,
                compute_us=None if compute is None else compute.length,
                copy_us=None if copy is None else copy.length,
                comm_us=None if comm is None else comm.length,
                exposed_us=None
                if comm is None or hiding is None
                else comm.length - float(hiding.within(comm.starts, comm.ends).sum()),
            )
        )
    return steps, calls


def _columns(calls: list[Call]) -> tuple[list[float | None], list[float | None], list[float | None]]:
    asked = [call.start_us if call.launch_us is None else call.launch_us for call in calls]
    return [call.start_us for call in calls], [call.end_us for call in calls], asked


def _exposed(call: Call, hiding: Cover | None) -> Call:
    if hiding is None or call.start_us is None or call.end_us is None:
        return call
    hidden = hiding.within(np.array([call.start_us]), np.array([call.end_us]))[0]
    return msgspec.structs.replace(call, exposed_us=max(0.0, call.end_us - call.start_us - float(hidden)))


def _marks(gathered: Gathered, timed: list[Timed], zero: float) -> list[tuple[int | None, float, float]]:
    """(number, start, end) of the steps; without any, all of the trace is one."""
    if gathered.steps:
        return [
            (number, start - zero, end - zero)
            for number, start, end in sorted(set(gathered.steps), key=lambda mark: mark[1:])
        ]
    said = chain(gathered.operators, gathered.records, gathered.ranges)
    last = max(
        chain((float(one.ends.max()) for one in timed if len(one.ends)), (one.end - zero for one in said)), default=0.0
    )
    return [(None, 0.0, last)]


def _timed(spans: Spans, gathered: Gathered, zero: float) -> Timed:
    starts = np.array(spans.starts, dtype=float)
    launches = gathered.launches
    asked = np.array(
        [launches[tag][1] if tag in launches else start for tag, start in zip(spans.tags, spans.starts, strict=True)],
        dtype=float,
    )
    return Timed(starts - zero, np.array(spans.ends, dtype=float) - zero, asked - zero)


def _operators(gathered: Gathered, zero: float) -> Timed:
    """Operators that compute: not those that the communication library runs in a range of its own."""
    spans = gathered.operating
    starts, ends = np.array(spans.starts, dtype=float), np.array(spans.ends, dtype=float)
    threads, kept = np.array(spans.tags, dtype=np.int64), np.ones(len(starts), dtype=bool)
    ranges: dict[int, list[Said]] = defaultdict(list)
    for said in gathered.ranges:
        ranges[said.thread].append(said)
    for thread, inside in ranges.items():
        mine = threads == thread
        held = holder(np.array([said.start for said in inside]), np.array([said.end for said in inside]), starts[mine])
        kept[mine] = held < 0
    return Timed(starts[kept] - zero, ends[kept] - zero, starts[kept] - zero)


def _by_step(timed: Timed | None, starts: Floats, ends: Floats) -> list[Cover] | None:
    if timed is None:
        return None
    of = holder(starts, ends, timed.asked)
    order = np.argsort(of, kind="stable")
    edges = np.searchsorted(of[order], np.arange(len(starts) + 1))
    return [
        cover(timed.starts[part], timed.ends[part]) for part in (order[begin:end] for begin, end in pairwise(edges))
    ]
