"""The catalogue of collectives: all that differs between them is in one row of one table.

Sizes follow nccl-tests (its `src/*.cu` *GetBw): `nbytes` is the larger of the bytes sent and received by one
rank, so all_gather, reduce_scatter, all_to_all, gather and scatter count the rank-scaled total. The bus
factor is a ring model: it turns bytes / time into the rate a ring's links would carry, and says nothing
about what an in-network reduction (NVLS, SHARP) really moved.

The second half makes data whose result is known exactly, for any number of ranks and any order of
summation: small integers whose partial sums stay inside what the dtype represents without rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from commbench.errors import Unsupported

if TYPE_CHECKING:  # numpy costs 0.1 s: the command line reads this table without it
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Collective:
    """What is special about one collective.

    send, recv    chunks of the message that a rank gives and gets: 1, or n (one for every rank)
    factor        busbw = algbw * factor(n); None where there is nothing to carry
    reduces       combines values with a redop
    rooted        one rank gives or gets for all
    one_buffer    has a single buffer by definition, so it is always in place
    """

    send: str = "1"
    recv: str = "1"
    factor: Callable[[int], float] | None = None
    reduces: bool = False
    rooted: bool = False
    one_buffer: bool = False

    def chunks(self, n: int) -> int:
        """Into how many equal parts the message is cut."""
        return n if "n" in (self.send, self.recv) else 1


def _all_but_own(n: int) -> float:
    return (n - 1) / n


def _once(_: int) -> float:
    return 1.0


COLLECTIVES: dict[str, Collective] = {
    "all_reduce": Collective(factor=lambda n: 2 * (n - 1) / n, reduces=True),
    "all_gather": Collective(recv="n", factor=_all_but_own),
    "reduce_scatter": Collective(send="n", factor=_all_but_own, reduces=True),
    "broadcast": Collective(factor=_once, rooted=True, one_buffer=True),
    "reduce": Collective(factor=_once, reduces=True, rooted=True),
    "all_to_all": Collective(send="n", recv="n", factor=_all_but_own),
    "gather": Collective(recv="n", factor=_all_but_own, rooted=True),
    "scatter": Collective(send="n", factor=_all_but_own, rooted=True),
    "send_recv": Collective(factor=_once),  # each rank to the next one, as a ring
    "barrier": Collective(send="0", recv="0"),
}

# What other tools measure besides: never asked for here, but read, shown and compared.
_FOREIGN: dict[str, Collective] = {
    "all_gather_v": Collective(recv="n", factor=_all_but_own),
    "reduce_scatter_v": Collective(send="n", factor=_all_but_own, reduces=True),
    "all_to_all_v": Collective(send="n", recv="n", factor=_all_but_own),
    "hypercube": Collective(factor=_once),
}


def catalogue(op: str) -> Collective:
    """The row of the catalogue; of an operation that is not in it, nothing is known."""
    return COLLECTIVES.get(op) or _FOREIGN.get(op) or Collective()


REDOPS = ("sum", "prod", "min", "max", "avg")


class Dtype(NamedTuple):
    """itemsize in bytes; `exact`: integers up to this magnitude are represented without rounding."""

    itemsize: int
    exact: int
    numpy: str  # storage; bfloat16 is kept as its 16 bits
    floating: bool


DTYPES: dict[str, Dtype] = {
    "float16": Dtype(2, 2**11, "float16", True),
    "bfloat16": Dtype(2, 2**8, "uint16", True),
    "float32": Dtype(4, 2**24, "float32", True),
    "float64": Dtype(8, 2**53, "float64", True),
    "int8": Dtype(1, 127, "int8", False),
    "int32": Dtype(4, 2**31 - 1, "int32", False),
    "int64": Dtype(8, 2**53, "int64", False),
}


def elements(op: str, nbytes: int, dtype: str, n: int) -> int:
    """Elements in one chunk when `nbytes` is rounded to whole elements on each of n ranks (down, at least one)."""
    collective = COLLECTIVES[op]
    if collective.send == "0":
        return 0
    return max(1, nbytes // (DTYPES[dtype].itemsize * collective.chunks(n)))


def moved(op: str, nbytes: int, dtype: str, n: int) -> int:
    """`nbytes` after that rounding; what a Measurement records."""
    return elements(op, nbytes, dtype, n) * DTYPES[dtype].itemsize * COLLECTIVES[op].chunks(n)


def bandwidths(op: str, nbytes: int, n: int, seconds: float) -> tuple[float | None, float | None]:
    """(algbw, busbw) in GB/s (1e9 bytes/s); None where the collective moves nothing, or n is 1 (busbw).

    With n = 0, not known, there is no busbw, and no algbw either where the size counts the ranks.
    """
    collective = catalogue(op)
    factor = collective.factor
    if factor is None or seconds <= 0 or (n == 0 and "n" in (collective.send, collective.recv)):
        return None, None
    algbw = nbytes / seconds / 1e9
    return algbw, algbw * factor(n) if n > 1 else None


# ---- data whose result is known exactly -------------------------------------------------------------------

POISON = 113  # fills what is to be received; no pattern below ever gives it
_PRIME = 97
_PAGE = 4096


class Check(NamedTuple):
    """Outcome on one rank: elements that differ from the known result, and the first of them (-1: none)."""

    wrong: int
    first: int


@dataclass(frozen=True)
class Data:
    """The known data of one rank in one collective: what it gives, and what it must get.

    n ranks, `count` elements a chunk; `rank` and `root` count inside the group.
    """

    op: str
    dtype: str
    redop: str
    n: int
    rank: int
    count: int
    root: int = 0

    def __post_init__(self) -> None:
        if COLLECTIVES[self.op].reduces and self.redop == "avg" and not DTYPES[self.dtype].floating:
            raise Unsupported(f"avg of {self.dtype}: the average of integers is not an integer")

    @property
    def send_count(self) -> int:
        return self._count(COLLECTIVES[self.op].send)

    @property
    def recv_count(self) -> int:
        return self._count(COLLECTIVES[self.op].recv)

    def _count(self, chunks: str) -> int:
        return self.count * {"0": 0, "1": 1, "n": self.n}[chunks]

    def receives(self) -> bool:
        """False where this rank's receive buffer is not defined afterwards (all but the root of reduce, gather)."""
        return self.op not in ("reduce", "gather", "barrier") or self.rank == self.root

    def given(self, start: int, stop: int) -> "Floats":
        """Elements [start, stop) of what this rank sends."""
        import numpy as np

        index = np.arange(start, stop, dtype=np.int64)
        if not COLLECTIVES[self.op].reduces:
            return _mixed(self.rank, index)
        period = self._period()
        return self._contribution(np.arange(period), np.full(period, self.rank))[index % period]

    def expected(self, start: int, stop: int) -> "Floats":
        """Elements [start, stop) of what this rank must hold afterwards (before any rounding by avg)."""
        import numpy as np

        index = np.arange(start, stop, dtype=np.int64)
        own = self.rank * self.count
        if COLLECTIVES[self.op].reduces:
            return self._reduced[(index + (own if self.op == "reduce_scatter" else 0)) % self._period()]
        chunk, inside = np.divmod(index, max(self.count, 1))
        match self.op:
            case "broadcast":
                return _mixed(self.root, index)
            case "scatter":
                return _mixed(self.root, index + own)
            case "send_recv":
                return _mixed((self.rank - 1) % self.n, index)
            case "all_to_all":
                return _mixed(chunk, inside + own)
        return _mixed(chunk, inside)  # all_gather, gather

    def compare(self, start: int, got: "Floats") -> Check:
        """Counts differing elements in `got`, which begins at element `start`. Exact, but 2 ulp for avg."""
        import numpy as np

        want = self.expected(start, start + len(got))
        if COLLECTIVES[self.op].reduces and self.redop == "avg":
            ulp = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}.get(self.dtype, 2.0**-52)
            bad = ~(np.abs(got - want) <= 2 * ulp * np.abs(want))
        else:
            bad = (got != want) | (np.signbit(got) != np.signbit(want))  # no known result is -0.0
        return Check(int(bad.sum()), start + int(bad.argmax()) if bad.any() else -1)

    def verify(self, read: "Callable[[int, int], NDArray[Any]]") -> Check:
        """Compares the whole result, piece by piece; `read(start, stop)` gives its elements as stored."""
        total, first = 0, -1
        for start, stop in spans(self.recv_count if self.receives() else 0):
            wrong, where = self.compare(start, decode(read(start, stop), self.dtype))
            total, first = total + wrong, where if first < 0 else first
        return Check(total, first)

    # -- patterns of the reductions: repeat after _period() elements, so the known result is a small table

    def _stride(self) -> int:
        """Every _stride()-th rank contributes something else than the neutral element to an element."""
        if self.redop == "prod":
            return -(-self.n // 6)  # at most six factors of two: 64 fits in an int8
        if self.redop in ("min", "max"):
            return -(-self.n // _PRIME)  # ranks that meet in an element all give different values
        # avg: at most three contributions, so that their roundings stay below 2 ulp
        most = 9 if self.redop == "avg" else DTYPES[self.dtype].exact - 8
        stride = -(-self.n * 3 // most)
        return stride + (stride % 7 == 0)  # or a rank's values would be the same at all its turns

    def _period(self) -> int:
        return {"prod": 15, "min": _PRIME, "max": _PRIME, "avg": 7}.get(self.redop, 77) * self._stride()

    def _contribution(self, index: Any, rank: Any) -> "Floats":
        """What `rank` gives at `index` (broadcast against each other)."""
        import numpy as np

        here = (index + rank) % self._stride() == 0
        if self.redop == "prod":
            values = np.where(here, 2, 1) * np.where((index + rank) % 3 == 0, -1, 1)
            values = values * np.where((rank == 0) & (index % 5 == 0), -1, 1)  # else constant for 3, 6, .. ranks
        elif self.redop in ("min", "max"):
            never = _PRIME // 2 if self.redop == "min" else -(_PRIME // 2)
            values = np.where(here, (index + 3 * rank) % _PRIME - _PRIME // 2, never)
        elif self.redop == "avg":  # of one sign: a library that scales first loses nothing by cancellation
            values = np.where(here, (index + 2 * rank) % 7 + 1, 0)
        else:
            values = np.where(here, (index + 2 * rank) % 7 - 3, 0) + np.where(rank == 0, index % 11 - 5, 0)
        return values.astype(np.float64)

    @cached_property
    def _reduced(self) -> "Floats":
        import numpy as np

        combine = {"prod": np.multiply, "min": np.minimum, "max": np.maximum}.get(self.redop, np.add)
        index = np.arange(self._period())
        total = self._contribution(index, np.zeros_like(index))
        for rank in range(1, self.n):
            total = combine(total, self._contribution(index, np.full_like(index, rank)))
        return total / self.n if self.redop == "avg" else total


def _mixed(rank: Any, index: Any) -> "Floats":
    """Values 0..96 that tell ranks and positions apart, also at distances of 97."""
    import numpy as np

    far = rank // _PRIME * (index % 5 + 1) * 3
    return np.asarray((rank * 31 + index * 7 + index // _PRIME * 13 + far) % _PRIME, dtype=np.float64)


def encode(values: "Floats", dtype: str) -> "NDArray[Any]":
    """Values as stored: numpy's dtype, bfloat16 as its upper 16 bits (exact for the integers used here)."""
    import numpy as np

    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(DTYPES[dtype].numpy)


def decode(stored: "NDArray[Any]", dtype: str) -> "Floats":
    """The inverse of encode."""
    import numpy as np

    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def spans(count: int, length: int = 2**20) -> list[tuple[int, int]]:
    """[start, stop) pieces of a buffer, so that checking 8 GiB needs no second 8 GiB."""
    return [(k * length, min((k + 1) * length, count)) for k in range(math.ceil(count / length))]


def at_page(count: int, kind: Dtype, offset: int = 0) -> "NDArray[Any]":
    """`count` zeros that begin `offset` bytes into a page, wherever the allocator's memory happens to lie.

    Buffers that fall differently into cache sets differ by several percent, run by run. OSU's lie at a page;
    large tensors of a fresh torch process 64 bytes into one.
    """
    import numpy as np

    nbytes = count * kind.itemsize
    room = np.zeros(nbytes + _PAGE + offset, np.uint8)
    start = -room.ctypes.data % _PAGE + offset
    return room[start : start + nbytes].view(kind.numpy)
