"""Worlds of one process: a single real rank, or all ranks of a simulated world."""

import os
from collections.abc import Sequence

from commbench.layouts import Groups
from commbench.world.protocol import Words


class SingleWorld:
    """`size` ranks played by this process."""

    channel = "none"
    rank = 0
    address = "127.0.0.1"

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.ranks: Sequence[int] = tuple(range(size))

    def share(self, data: bytes) -> bytes:
        return data

    def gather(self, data: bytes) -> list[bytes]:
        return [data]

    def reduce_max(self, groups: Groups, words: Words) -> list[Words]:
        return [words for _ in groups]

    def barrier(self) -> None:
        pass

    def abort(self, code: int) -> None:
        os._exit(code)

    def close(self) -> None:
        pass
