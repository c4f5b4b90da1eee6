"""The control channel: never the communicator under test, and only buffers of bytes and integers (no pickle)."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from commbench.layouts import Groups

Words: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.float64]


class World(Protocol):
    channel: str  # mpi, gloo or none: what carries the control messages
    rank: int
    size: int
    ranks: Sequence[int]  # those that this process plays: one, or all of a simulated world
    address: str  # by which the other hosts reach rank 0

    def share(self, data: bytes) -> bytes:
        """Rank 0's bytes, on every rank."""

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes in rank order on rank 0; an empty list elsewhere."""

    def reduce_max(self, groups: Groups, words: Words) -> list[Words]:
        """Elementwise maximum over each group, in group order on rank 0; an empty list elsewhere.

        O(log p) inside a group. Ranks outside the groups take part with anything.
        """

    def barrier(self) -> None: ...

    def abort(self, code: int) -> None:
        """Ends the whole job now, without waiting for the others."""

    def close(self) -> None: ...


class GroupTimes(NamedTuple):
    """Per sample of one group: seconds per call on the slowest rank, that rank, and how far it was behind."""

    seconds: Times
    slowest: Words
    skew: Times


_TICK = 1e-10  # 0.1 ns: with 16 bits for the rank, 47 bits hold calls of up to 3.9 hours
_RANK_BITS = 16


def slowest(world: World, groups: Groups, times: Times) -> list[GroupTimes]:
    """Reduces (ranks played here, samples) to the slowest and fastest rank of each group, on rank 0.

    Time and rank travel in one integer, so that a single maximum finds both; the minimum is the maximum of
    the negative. One reduction a batch, whatever the number of ranks.
    """
    ticks = np.rint(times / _TICK).astype(np.int64)
    samples = times.shape[1] if times.size else 0
    rows = dict(zip(world.ranks, ticks, strict=False))
    if len(world.ranks) > 1:  # a simulated world: all ranks are here, in the order of the groups
        rows = dict(zip([rank for group in groups for rank in group], ticks, strict=True))
        packed = [np.stack([_pack(rows[rank], rank) for rank in group]).max(axis=0) for group in groups]
    else:
        mine = _pack(rows[world.rank], world.rank) if rows else np.zeros(2 * samples, np.int64)
        packed = world.reduce_max(groups, mine)
    out = []
    for words in packed:
        half = len(words) // 2
        high, low = words[:half] >> _RANK_BITS, -words[half:]
        out.append(GroupTimes(high * _TICK, words[:half] & (2**_RANK_BITS - 1), (high - low) * _TICK))
    return out


def _pack(ticks: Words, rank: int) -> Words:
    return np.concatenate([(ticks << _RANK_BITS) | rank, -ticks])
