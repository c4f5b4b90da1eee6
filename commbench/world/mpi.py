"""The control channel over MPI, on communicators of its own."""

import os
from collections.abc import Sequence

import mpi4py

# The roll call's thread never calls MPI, so funneled is the honest level (and spares MPI its locks, which
# would cost a good part of an 8-byte call).
mpi4py.rc.thread_level = "funneled"

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402

from commbench.errors import LaunchError  # noqa: E402
from commbench.layouts import Groups  # noqa: E402
from commbench.world.discover import Place  # noqa: E402
from commbench.world.protocol import Words  # noqa: E402

_ADVICE = {"srun": "start with srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH), or leave backend mpi out"}
_INLINE = 248  # bytes that travel with the length, in one broadcast


class MpiWorld:
    """Raises LaunchError where MPI and the launcher's environment disagree about the world."""

    channel = "mpi"

    def __init__(self, place: Place) -> None:
        self._comm = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self.ranks: Sequence[int] = (self.rank,)
        self.address = ""
        self._subs: dict[tuple[int, ...], MPI.Comm] = {}
        library = MPI.Get_library_version().split(",")[0].splitlines()[0].strip("\0 ")
        if self.size == 1 and place.size > 1:
            raise LaunchError(
                f"{place.launcher} started {place.size} processes ({place.source}), but MPI sees {place.size} worlds "
                f"of one rank: mpi4py here uses {library}, which {place.launcher} did not start as one job; "
                + _ADVICE.get(place.launcher, "start with the mpirun of the same MPI")
            )
        if (self.rank, self.size) != (place.rank, place.size):
            raise LaunchError(
                f"{place.launcher} says {place.source}, but MPI ({library}) says rank {self.rank} of {self.size}"
            )

    def share(self, data: bytes) -> bytes:
        head = np.zeros(8 + _INLINE, np.uint8)
        if self.rank == 0:
            head[:8] = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
            inline = np.frombuffer(data[:_INLINE], np.uint8)
            head[8 : 8 + len(inline)] = inline
        self._comm.Bcast(head, 0)
        length = int.from_bytes(head[:8].tobytes(), "little")
        if length <= _INLINE:
            return head[8 : 8 + length].tobytes()
        rest = (
            np.frombuffer(data[_INLINE:], np.uint8).copy() if self.rank == 0 else np.zeros(length - _INLINE, np.uint8)
        )
        self._comm.Bcast(rest, 0)
        return head[8:].tobytes() + rest.tobytes()

    def gather(self, data: bytes) -> list[bytes]:
        lengths = np.zeros(self.size if self.rank == 0 else 0, np.int64)
        self._comm.Gather(np.array([len(data)], np.int64), lengths, 0)
        mine = np.frombuffer(data, np.uint8)
        if self.rank != 0:
            self._comm.Gatherv(mine, None, 0)
            return []
        everything = np.zeros(int(lengths.sum()), np.uint8)
        self._comm.Gatherv(mine, [everything, lengths], 0)
        ends = np.cumsum(lengths)
        return [everything[end - n : end].tobytes() for end, n in zip(ends, lengths, strict=True)]

    def reduce_max(self, groups: Groups, words: Words) -> list[Words]:
        mine = next((group for group in groups if self.rank in group), None)
        out = np.zeros_like(words)
        if mine:
            self._sub(mine).Reduce(words, out, MPI.MAX, 0)
        if len(groups) == 1 and groups[0][0] == 0:
            return [out] if self.rank == 0 else []
        parts = self.gather(out.tobytes() if mine and mine[0] == self.rank else b"")
        return [np.frombuffer(parts[group[0]], np.int64) for group in groups] if self.rank == 0 else []

    def _sub(self, mine: tuple[int, ...]) -> MPI.Comm:
        if len(mine) == self.size:
            return self._comm
        if mine not in self._subs:
            everybody = self._comm.Get_group()
            group = everybody.Incl(list(mine))
            everybody.Free()
            self._subs[mine] = self._comm.Create_group(group, tag=2)
            group.Free()
        return self._subs[mine]

    def barrier(self) -> None:
        self._comm.Barrier()

    def abort(self, code: int) -> None:
        # Not MPI_Abort: it may be the MPI library itself that hangs. The launcher ends the others when one
        # process leaves without MPI_Finalize.
        os._exit(code)

    def close(self) -> None:
        self._comm.Barrier()
