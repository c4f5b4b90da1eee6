"""What algorithms cost on a network that is told by alpha and beta: to order candidates, never to judge them.

A message of m bytes takes alpha + m * beta seconds, with other constants beyond the size where a library changes its
protocol (Hockney 1994, The communication challenge for MPP, Parallel Computing 20; in pieces as in Thakur,
Rabenseifner and Gropp 2005, Optimization of collective communication operations in MPICH, IJHPCA 19, whose formulas
are used below). Contention, memory and overlap are left out, so the figures may be wrong by factors. Where two
algorithms differ by less than that, so is their order.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple


class Piece(NamedTuple):
    """Messages up to `upto` bytes take alpha seconds and beta seconds a byte."""

    upto: float
    alpha: float
    beta: float


class Network(NamedTuple):
    """Pieces by ascending size; the last one holds for everything beyond."""

    pieces: tuple[Piece, ...]

    def message(self, nbytes: float) -> float:
        """Seconds of one message."""
        at = bisect_left(self.pieces, nbytes, key=lambda piece: piece.upto)
        piece = self.pieces[min(at, len(self.pieces) - 1)]
        return piece.alpha + nbytes * piece.beta


def network(latency: float, rate: float, eager: float = 64 * 1024) -> Network:
    """Beyond `eager` bytes a message asks first, which is two latencies more. Latency in seconds, rate in bytes/s."""
    return Network((Piece(eager, latency, 1 / rate), Piece(math.inf, 3 * latency, 1 / rate)))


# Order needs constants of some size only: a call between hosts over TCP at 10 Gbit/s.
ANY = network(30e-6, 1.25e9)


class _Question(NamedTuple):
    net: Network
    n: int
    nbytes: float
    segment: float  # bytes of a segment; 0: not cut

    @property
    def part(self) -> float:
        return self.nbytes / self.n

    @property
    def rounds(self) -> int:
        return math.ceil(math.log2(self.n)) if self.n > 1 else 0

    @property
    def folded(self) -> int:
        """Rounds more where n is no power of two: the ranks beyond one hand over and get back."""
        return 0 if self.n & (self.n - 1) == 0 else 2

    def steps(self, count: float, nbytes: float) -> float:
        return count * self.net.message(nbytes)

    def halving(self) -> float:
        """Messages of a half, a quarter, ... of the whole; backwards it is a doubling."""
        return sum(self.net.message(self.nbytes / 2**k) for k in range(1, self.rounds + 1))

    def fold(self) -> float:
        return self.steps(self.folded, self.nbytes)

    def chain(self, hops: float) -> float:
        """`hops` messages one after another, cut into segments that follow each other."""
        cut = min(self.segment or self.nbytes, self.nbytes) or 1.0
        return self.steps(hops - 1 + math.ceil(self.nbytes / cut), cut)

    def scatter(self) -> float:
        return self.halving()


def _ring_reduce(q: _Question) -> float:
    """2(n - 1) steps of a part; a segmented ring sends every part in segments."""
    cut = min(q.segment or q.part, q.part) or 1.0
    return q.steps(2 * (q.n - 1) * math.ceil(q.part / cut), cut)


# (collective, algorithm) -> seconds. `linear`: one rank talks to all others, one after another.
_COSTS: dict[tuple[str, str], Callable[[_Question], float]] = {
    ("all_reduce", "linear"): lambda q: q.steps(2 * (q.n - 1), q.nbytes),
    ("all_reduce", "tree"): lambda q: 2 * q.steps(q.rounds, q.nbytes),
    ("all_reduce", "recursive_doubling"): lambda q: q.steps(q.rounds, q.nbytes) + q.fold(),
    ("all_reduce", "ring"): _ring_reduce,
    ("all_reduce", "rabenseifner"): lambda q: 2 * q.halving() + q.fold(),
    ("all_gather", "linear"): lambda q: q.steps(q.n - 1, q.part) + q.chain(q.rounds),
    ("all_gather", "bruck"): lambda q: q.halving(),
    ("all_gather", "recursive_doubling"): lambda q: q.halving() + q.fold(),
    ("all_gather", "ring"): lambda q: q.steps(q.n - 1, q.part),
    ("all_gather", "neighbor"): lambda q: q.steps(q.n / 2, 2 * q.part),
    ("reduce_scatter", "linear"): lambda q: q.steps(q.rounds, q.nbytes) + q.scatter(),
    ("reduce_scatter", "recursive_doubling"): lambda q: q.steps(q.rounds, q.nbytes) + q.fold(),
    ("reduce_scatter", "recursive_halving"): lambda q: q.halving() + q.fold(),
    ("reduce_scatter", "ring"): lambda q: q.steps(q.n - 1, q.part),
    ("broadcast", "linear"): lambda q: q.steps(q.n - 1, q.nbytes),
    ("broadcast", "tree"): lambda q: q.chain(q.rounds),
    ("broadcast", "chain"): lambda q: q.chain(q.n - 1),
    ("broadcast", "scatter_ring"): lambda q: q.scatter() + q.steps(q.n - 1, q.part),
    ("broadcast", "scatter_doubling"): lambda q: q.scatter() + q.halving(),
    ("reduce", "linear"): lambda q: q.steps(q.n - 1, q.nbytes),
    ("reduce", "tree"): lambda q: q.chain(q.rounds),
    ("reduce", "chain"): lambda q: q.chain(q.n - 1),
    ("reduce", "rabenseifner"): lambda q: 2 * q.halving() + q.fold(),
    ("all_to_all", "linear"): lambda q: q.steps(q.n - 1, q.part),
    ("all_to_all", "bruck"): lambda q: q.steps(q.rounds, q.nbytes / 2),
    ("gather", "linear"): lambda q: q.steps(q.n - 1, q.part),
    ("gather", "tree"): lambda q: q.halving(),
    ("scatter", "linear"): lambda q: q.steps(q.n - 1, q.part),
    ("scatter", "tree"): lambda q: q.halving(),
}


def cost(net: Network, op: str, algorithm: str, ranks: int, nbytes: int, segment: int = 0) -> float | None:
    """Seconds of a call (nbytes as in Case); None for an algorithm without a formula."""
    formula = _COSTS.get((op, algorithm))
    return formula(_Question(net, ranks, float(nbytes), float(segment))) if formula else None
