"""A training job's communication: the ranks' traces joined, its histogram of sizes, and who waited for whom."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby

import msgspec

from commbench.errors import ReadError
from commbench.records.workload import Call, Group, Workload


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of one kind and size, over ranks and steps; the times are sums over those that have one (`timed`)."""

    op: str | None
    nbytes: int | None
    dtype: str
    ranks: int | None
    calls: int
    timed: int
    time_us: float
    exposed_us: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One collective as all ranks of its group made it.

    time_us   of the rank that came last, which waited for nobody: the shortest
    waits_us  per rank: how much longer the call took there
    """

    op: str
    nbytes: int | None
    group: int
    step: int | None
    time_us: float
    waits_us: dict[int, float]


def merge(workloads: Sequence[Workload]) -> Workload:
    """One job of what its ranks tell, by ascending rank. ReadError says why they are not ranks of one job."""
    sizes = {one.world_size for one in workloads} - {None}
    if len(sizes) > 1:
        raise ReadError(
            f"these traces are not of one job: world sizes {', '.join(map(str, sorted(filter(None, sizes))))}"
        )
    ranks = [rank.rank for one in workloads for rank in one.ranks]
    if len(ranks) > 1 and None in ranks:
        raise ReadError("a trace that does not tell its rank cannot be joined with others")
    twice = sorted(rank for rank, count in Counter(ranks).items() if count > 1 and rank is not None)
    if twice:
        raise ReadError(
            f"two traces are of rank {twice[0]}: these are not ranks of one run, or one of them is there twice"
        )
    steps = {tuple(step.number for step in rank.steps) for one in workloads for rank in one.ranks}
    if len({len(numbers) for numbers in steps}) > 1:
        counts = sorted({len(numbers) for numbers in steps})
        raise ReadError(f"these traces are not of one run: they have {', '.join(map(str, counts))} steps")
    groups = {group: None for one in workloads for group in one.groups}
    index = {group: k for k, group in enumerate(groups)}
    moved = [
        msgspec.structs.replace(rank, calls=tuple(_moved(call, one.groups, index) for call in rank.calls))
        for one in workloads
        for rank in one.ranks
    ]
    return Workload(
        world_size=next(iter(sizes), None),
        backend=next((one.backend for one in workloads if one.backend), ""),
        library=next((one.library for one in workloads if one.library), ""),
        groups=tuple(groups),
        ranks=tuple(sorted(moved, key=lambda rank: -1 if rank.rank is None else rank.rank)),
    )


def _moved(call: Call, groups: tuple[Group, ...], index: dict[Group, int]) -> Call:
    return call if call.group is None else msgspec.structs.replace(call, group=index[groups[call.group]])


def traffic(workload: Workload) -> tuple[Traffic, ...]:
    """The job's size histogram, the longest exposed time first."""
    kinds: dict[tuple[str | None, int | None, str, int | None], list[Call]] = defaultdict(list)
    for rank in workload.ranks:
        for call in rank.calls:
            size = None if call.group is None else workload.groups[call.group].size
            kinds[call.op, call.nbytes, call.dtype, size].append(call)
    rows = [
        Traffic(
            op=op,
            nbytes=nbytes,
            dtype=dtype,
            ranks=size,
            calls=len(calls),
            timed=sum(call.time_us is not None for call in calls),
            time_us=sum(call.time_us or 0.0 for call in calls),
            exposed_us=sum(call.exposed_us or 0.0 for call in calls),
        )
        for (op, nbytes, dtype, size), calls in kinds.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.exposed_us, -row.time_us, row.op or "", row.nbytes or 0)))


def rounds(workload: Workload) -> tuple[Round, ...]:
    """The collectives of groups of which every rank's trace is there, matched by their order within a step.

    A step in which the ranks of a group disagree about what they called is left out. Taking the shortest as
    the time of the transfer follows TraceLens and param's trace tools: a kernel of a rank that came early
    runs, and waits, until the last one comes.
    """
    found = []
    for group, about in enumerate(workload.groups):
        by_step: dict[int | None, dict[int, list[Call]]] = defaultdict(dict)
        for rank in workload.ranks:
            if rank.rank is None or rank.rank not in about.ranks:
                continue
            mine = [call for call in rank.calls if call.group == group and call.op not in (None, "send_recv")]
            mine.sort(key=lambda call: (-1 if call.step is None else call.step, call.launch_us or call.start_us or 0.0))
            for step, calls in groupby(mine, key=lambda call: call.step):
                by_step[step][rank.rank] = list(calls)
        for step, of_rank in by_step.items():
            if step is None or len(of_rank) != len(about.ranks) or len(of_rank) < 2:
                continue
            kinds = {tuple((call.op, call.nbytes) for call in calls) for calls in of_rank.values()}
            if len(kinds) == 1:
                found += [
                    one
                    for calls in zip(*of_rank.values(), strict=True)
                    if (one := _round(dict(zip(of_rank, calls, strict=True))))
                ]
    return tuple(found)


def _round(calls: dict[int, Call]) -> Round | None:
    times = {rank: call.time_us for rank, call in calls.items() if call.time_us is not None}
    first = next(iter(calls.values()))
    if len(times) != len(calls) or first.op is None or first.group is None:
        return None
    fastest = min(times.values())
    return Round(
        op=first.op,
        nbytes=first.nbytes,
        group=first.group,
        step=first.step,
        time_us=fastest,
        waits_us={rank: time - fastest for rank, time in sorted(times.items())},
    )
