"""What a training job sends in a step: which messages, how often, how much of their time nothing hides. Pure.

From here a search learns which sizes to measure (`sizes`), where its budget is to go (`weights`), and the user what a
setting is worth (commbench.tune.explain).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from commbench.errors import ReadError
from commbench.model.buckets import assign
from commbench.records import Case, Workload
from commbench.records.workload import Call

_ALIKE = 1.1  # sizes nearer to each other than this factor are measured as one


class Message(NamedTuple):
    """What a job sends again and again; nbytes as in a Case."""

    op: str
    ranks: int
    nbytes: int


class Use(NamedTuple):
    """Of one kind of message, in a step of one rank: calls, the share of their time that nothing hides, and the time
    of a call in the job (microseconds, with waiting for the last rank; None: not told)."""

    calls: float
    exposed: float = 1.0
    time_us: float | None = None


class Job(NamedTuple):
    """A job's communication.

    messages    of one step and one rank, in the mean over the steps and ranks that are known
    step_us     the time of a step; None: not known
    source      from what this was taken
    exposed_us  of all communication of a step together, where the job tells it as one figure
    notes       what was left out, and what that means
    """

    messages: dict[Message, Use]
    step_us: float | None
    source: str
    exposed_us: float | None = None
    notes: tuple[str, ...] = ()


# ---- from what a job tells ----------------------------------------------------------------------------------


def of_workload(workload: Workload, source: str, ranks: int | None = None) -> Job:
    """The messages of profiler traces: calls of all ranks that are there, over their number and their steps.

    Marked steps count whole, and only what was called in them; means, not medians, so that calls and time of a step
    stay of the same steps. Without marks the whole trace is one step of unknown length. `ranks`: of groups that the
    trace does not tell. ReadError: no call of which op, size and group are known.
    """
    steps = [step for rank in workload.ranks for step in rank.steps]
    marked = any(step.number is not None for step in steps)
    all_calls = [call for rank in workload.ranks for call in rank.calls]
    calls = [call for call in all_calls if call.step is not None or not marked]
    kinds: dict[Message, list[Call]] = {}
    for call in calls:
        group = None if call.group is None else workload.groups[call.group]
        size = (group.size or len(group.ranks) or None if group else None) or ranks
        if call.op and call.nbytes is not None and size is not None:
            kinds.setdefault(Message(call.op, size, call.nbytes), []).append(call)
    named = sum(map(len, kinds.values()))
    if not named:
        raise ReadError(f"{source}: {_nameless(calls, all_calls)}")
    notes = []
    if named < len(calls):
        notes.append(f"{len(calls) - named} of {len(calls)} calls are not counted: op, size or group is not told")
    if len(calls) < len(all_calls):
        notes.append(f"{len(all_calls) - len(calls)} calls outside of the marked steps are not counted")
    if not marked:
        notes.append("no steps are marked: all of the trace counts as one, of unknown length")
    count = len(steps) if marked else max(len(workload.ranks), 1)
    length = sum(step.end_us - step.start_us for step in steps) / count if marked else 0.0
    carried = {message: _use(each, count) for message, each in kinds.items() if message.ranks > 1}
    return Job(carried, length or None, source, None, tuple(notes))


def _use(calls: Sequence[Call], steps: int) -> Use:
    """Where the trace has no times all of a call counts as exposed: the gain is then the most that it can be."""
    timed = [(call.time_us, call.exposed_us) for call in calls if call.time_us is not None]
    time = sum(one for one, _ in timed)
    both = [(one, exposed) for one, exposed in timed if exposed is not None]
    known = sum(one for one, _ in both)
    share = min(1.0, sum(exposed for _, exposed in both) / known) if known > 0 else 1.0
    return Use(len(calls) / steps, share, time / len(timed) if timed else None)


def _nameless(calls: Sequence[Call], all_calls: Sequence[Call]) -> str:
    if not all_calls:
        return "the trace holds no communication; record steps in which the job communicates"
    if not calls:
        return "no communication call lies in a marked step; record whole steps"
    group = any(call.op and call.nbytes is not None for call in calls)
    what = "how many ranks its group has" if group else "what it carries"
    do = "say how many it has" if group else "record it with record_shapes=True"
    return f"none of the {len(calls)} communication calls tells {what}; {do}, or take a trace of PyTorch 2.3 or newer"


def of_buckets(nbytes: Iterable[int], ranks: int) -> dict[Message, Use]:
    """DDP's: each bucket is reduced once a step. How much of that is hidden it does not tell."""
    found: dict[Message, Use] = {}
    for size in nbytes:
        message = Message("all_reduce", ranks, size)
        found[message] = Use(found.get(message, Use(0.0)).calls + 1)
    return found


def ddp_buckets(nbytes: Sequence[int], caps: Sequence[int], dtypes: Sequence[str] = ()) -> tuple[int, ...]:
    """Bytes of the buckets that DDP makes of a model's gradients, given in the order of its parameters.

    They are taken from the end, which is about the order in which a backward pass finishes them.
    """
    order = list(reversed(nbytes))
    buckets = assign(order, caps, list(reversed(dtypes)))
    return tuple(sum(order[place] for place in bucket) for bucket in buckets)


# ---- what a search makes of it ------------------------------------------------------------------------------


def sizes(
    messages: Mapping[Message, Use], op: str, ranks: int | None = None, *, most: int = 12, cover: float = 0.95
) -> tuple[int, ...]:
    """Sizes of `op` that a search should measure, ascending: at most `most` of the job's own, one below, one above.

    The largest shares of the bytes first, until `cover` of them are there; sizes within 10 % of a chosen one need no
    trial of their own. Where these are too many, some are taken that cut the bytes into equal parts, the smallest and
    the largest among them: what lies between is interpolated. One more below (half) and above (twice), because rules
    end at the last measured size. `ranks`: of groups of this size alone. Empty: the job does not call `op`.
    """
    bytes_of: dict[int, float] = {}
    for message, use in messages.items():
        if message.op == op and message.nbytes > 0 and ranks in (None, message.ranks):
            bytes_of[message.nbytes] = bytes_of.get(message.nbytes, 0.0) + use.calls * message.nbytes
    total, covered = sum(bytes_of.values()), 0.0
    chosen: dict[int, float] = {}
    for size, share in sorted(bytes_of.items(), key=lambda one: (-one[1], one[0])):
        if covered >= cover * total:
            break
        covered += share
        near = next((one for one in chosen if 1 / _ALIKE < one / size < _ALIKE), size)
        chosen[near] = chosen.get(near, 0.0) + share
    if not chosen:
        return ()
    kept = _spread(sorted(chosen.items()), most)
    return tuple(sorted({max(1, kept[0] // 2), *kept, 2 * kept[-1]}))


def _spread(weighed: Sequence[tuple[int, float]], most: int) -> list[int]:
    """At most `most` of the sizes: the ends, and those at which equal parts of the weight end."""
    if len(weighed) <= most:
        return [size for size, _ in weighed]
    inner = max(most, 2) - 1
    total, held, kept = sum(weight for _, weight in weighed), 0.0, [weighed[0][0]]
    for size, weight in weighed[1:-1]:
        held += weight
        if held >= total * len(kept) / inner and len(kept) < inner:
            kept.append(size)
    return [*kept, weighed[-1][0]]


def weights(cases: Sequence[Case], messages: Mapping[Message, Use], ranks: int | None = None) -> dict[Case, float]:
    """Case (without settings) -> the share of the job's exposed time for which it stands; 0: the job has no such size.

    A message between two sizes counts for both, as far as it is near; one outside of all sizes counts for none, since
    no rule will reach it. Where the job's times are not known for all messages, bytes stand for them. `ranks`: of
    groups of this size alone.
    """
    timed = all(use.time_us is not None for use in messages.values())
    whole = {m: use.calls * use.exposed * ((use.time_us or 0.0) if timed else m.nbytes) for m, use in messages.items()}
    total = sum(whole.values())
    plain = dict.fromkeys(msgspec.structs.replace(case, settings=()) for case in cases)
    found = dict.fromkeys(plain, 0.0)
    series: dict[Case, list[Case]] = {}
    for case in sorted(plain, key=lambda one: one.nbytes):
        series.setdefault(msgspec.structs.replace(case, nbytes=0), []).append(case)
    for about, line in series.items():
        at = [math.log(max(case.nbytes, 1)) for case in line]
        for message, weight in whole.items():
            if message.op != about.op or ranks not in (None, message.ranks) or not total:
                continue
            for k, share in between(at, math.log(max(message.nbytes, 1))):
                found[line[k]] += share * weight / total
    return found


def between(ascending: Sequence[float], value: float) -> tuple[tuple[int, float], ...]:
    """(place, how much it counts) of the neighbours between which a value lies; empty outside of all."""
    if not ascending or not ascending[0] - 1e-9 <= value <= ascending[-1] + 1e-9:
        return ()
    above = min(bisect_left(ascending, value - 1e-9), len(ascending) - 1)
    if above == 0 or abs(ascending[above] - value) < 1e-9:
        return ((above, 1.0),)
    share = (value - ascending[above - 1]) / (ascending[above] - ascending[above - 1])
    return ((above - 1, 1 - share), (above, share))
