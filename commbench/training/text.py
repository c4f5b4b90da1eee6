"""Real text without a download: the sources of Python's own standard library, byte by byte, in an order by seed."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commbench.errors import CommbenchError

VOCABULARY = 256  # bytes
# Parts that distributions leave out or pack differently, and what pip put there.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "config"}


class Text(NamedTuple):
    """The bytes, and what tells whether all ranks have the same."""

    data: NDArray[np.uint8]
    sha256: str
    files: int


def standard_library(nbytes: int, folder: Path | None = None) -> Text:
    """At most `nbytes` of the library's sources, whole files in the order of their names.

    Raises CommbenchError where this Python came without its sources.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    parts: list[bytes] = []
    size = 0
    for path in _sources(root):
        parts.append(path.read_bytes()[: nbytes - size])
        size += len(parts[-1])
        if size >= nbytes:
            break
    if size == 0:
        raise CommbenchError(f"{root} holds no Python sources to train on; use a Python that came with them")
    data = b"".join(parts)
    return Text(np.frombuffer(data, np.uint8), hashlib.sha256(data).hexdigest(), len(parts))


def _sources(root: Path) -> Iterator[Path]:
    """In the order of their names."""
    for path in sorted(root.iterdir() if root.is_dir() else ()):
        if path.name not in _LEFT_OUT and path.is_dir():
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


class Batches:
    """Windows of `context` + 1 bytes, each rank its own. A function of (seed, step, rank, size) alone.

    Raises CommbenchError where the text is too short for one step of all ranks.
    """

    def __init__(self, text: Text, context: int, batch: int, rank: int, size: int, seed: int) -> None:
        self._text, self._context, self._batch = text.data, context, batch
        self._rank, self._size, self._seed = rank, size, seed
        self._windows = (len(text.data) - 1) // context
        self._steps = self._windows // (batch * size)  # of an epoch; what is left over is not used in it
        self._epoch, self._order = -1, np.empty(0, np.int64)
        if self._steps == 0:
            raise CommbenchError(
                f"the text has {self._windows} windows of {context} bytes, one step of {size} ranks needs "
                f"{batch * size}; write a larger text, or a smaller batch or context"
            )

    def indices(self, step: int) -> NDArray[np.int64]:
        """(batch,) windows of this rank: no window is seen twice in an epoch by any rank."""
        epoch, place = divmod(step, self._steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._windows)
        begin = (place * self._size + self._rank) * self._batch
        return self._order[begin : begin + self._batch]

    def __call__(self, step: int) -> NDArray[np.int64]:
        """(batch, context + 1) bytes; the last of a window is the first of the next one."""
        starts = self.indices(step)[:, None] * self._context
        found: NDArray[np.int64] = self._text[starts + np.arange(self._context + 1)].astype(np.int64)
        return found
