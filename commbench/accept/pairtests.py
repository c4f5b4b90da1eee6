"""Tests of pairs as columns: who met whom, on which rail, and the logarithm of how long it took. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from commbench.matchings import Meeting

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Columns = tuple[np.ndarray[Any, Any], ...]


class Fleet(NamedTuple):
    """hosts: how many the run's machine has. rack_of: a rack index each (all 0 where unknown). rails: NICs a host."""

    hosts: int
    rack_of: tuple[int, ...]
    rails: int = 1


class Seen(NamedTuple):
    """One meeting that took place.

    seconds    one a group of the meeting, in the order of matchings.groups; NaN: not measured
    expected   seconds that the wire allows, in the same order; None: unknown
    """

    meeting: Meeting
    seconds: FloatArray
    expected: FloatArray | None = None


class Tests(NamedTuple):
    """Columns, one row a test: one pair on one rail in one meeting. Tests that were not measured are left out.

    seen, group   where it was seen: index of the meeting, index of the group in it
    a, b, rail    the hosts (indices) and the rail
    together      all rails of the pair were busy at once
    across        the hosts are in different racks
    wire          y is relative to what the wire allows
    crowd         pairs across racks in this meeting: they share what joins the racks
    event         number of the pair's test in its meeting: with all rails together its rails have one event
    y             log(seconds), or log(seconds / expected) where the wire's expectation is known
    """

    seen: IntArray
    group: IntArray
    a: IntArray
    b: IntArray
    rail: IntArray
    together: BoolArray
    across: BoolArray
    wire: BoolArray
    crowd: IntArray
    event: IntArray
    y: FloatArray


def columns(fleet: Fleet, seen: Sequence[Seen], here: BoolArray) -> Tests:
    """Every measured test whose two hosts take part (here: one a host).

    ValueError: numbers of seconds and groups that differ, a host or a rail that the fleet does not have.
    """
    rack = np.asarray(fleet.rack_of, dtype=np.int64)
    parts: list[Columns] = []
    events = 0
    for number, one in enumerate(seen):
        if one.meeting.pairs:
            parts.append(_one(number, one, fleet, rack, events))
            events += len(one.meeting.pairs)
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        off = np.zeros(0, dtype=np.bool_)
        return Tests(none, none, none, none, none, off, off, off, none, none, np.zeros(0))
    all_ = Tests(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    kept = np.isfinite(all_.y) & here[all_.a] & here[all_.b]
    return Tests._make(column[kept] for column in all_)


def _one(number: int, one: Seen, fleet: Fleet, rack: IntArray, events: int) -> Columns:
    pairs = np.asarray(one.meeting.pairs, dtype=np.int64)
    alone = one.meeting.rail
    rails = np.arange(fleet.rails) if alone is None else np.array([alone])
    seconds = np.asarray(one.seconds, dtype=np.float64)
    if pairs.max() >= fleet.hosts or rails.max() >= fleet.rails:
        raise ValueError(f"meeting {number}: a host or a rail that is not in this fleet")
    if seconds.shape != (len(pairs) * len(rails),):
        raise ValueError(f"meeting {number}: {seconds.size} times of {len(pairs) * len(rails)} groups")
    known = one.expected is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(np.where(seconds > 0, seconds, np.nan))
        if one.expected is not None:
            y = y - np.log(np.asarray(one.expected, dtype=np.float64))
    a, b = (np.repeat(pairs[:, end], len(rails)) for end in (0, 1))
    across = rack[a] != rack[b]
    count = len(y)
    return (
        np.full(count, number),
        np.arange(count),
        a,
        b,
        np.tile(rails, len(pairs)).astype(np.int64),
        np.full(count, alone is None and fleet.rails > 1),
        across,
        np.full(count, known),
        np.full(count, int(across.sum()) // len(rails)),
        events + np.repeat(np.arange(len(pairs)), len(rails)),
        y,
    )


def quantile(y: FloatArray, key: IntArray, share: float, between: bool = False) -> tuple[IntArray, FloatArray]:
    """(the keys that occur, ascending; of each the value at place (n - 1) share of its sorted y).

    between: interpolated; else the next lower value that occurs, so that of two the smaller is the middle.
    """
    if not len(y):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    order = np.lexsort((y, key))
    sorted_, values = key[order], y[order]
    starts = np.empty(len(y), dtype=np.bool_)
    starts[0] = True
    np.not_equal(sorted_[1:], sorted_[:-1], out=starts[1:])
    first = np.flatnonzero(starts)
    count = np.empty_like(first)
    np.subtract(first[1:], first[:-1], out=count[:-1])
    count[-1] = len(y) - first[-1]
    place = (count - 1) * share
    low = np.floor(place + 1e-9).astype(np.int64)
    found = values[first + low]
    if between:
        found = found + (place - low) * (values[first + np.minimum(low + 1, count - 1)] - found)
    return sorted_[first], found
