"""What the ranks of a stranger's job were given, without a word of theirs: their environment, as /proc shows it.

That is the environment with which a process began; what it changed in itself is not seen. Ranks on other hosts are not
seen either, and then nothing is told.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commbench.errors import LaunchError
from commbench.world.discover import discover

# Of launchers within launchers, the inner one's processes are the ranks.
_INNERMOST = ("torchrun", "openmpi", "mpich", "intel-mpi", "srun")


class Witness:
    """Looks for processes whose environment holds `mark`, and keeps of it the variables that are `watched`."""

    def __init__(self, mark: str, watched: Sequence[str]) -> None:
        self._mark, self._watched = os.fsencode(mark), watched
        self._seen: dict[tuple[str, int], dict[int, set[tuple[str, ...]]]] = {}
        self._own = None  # inherited from where this process was started, it makes nobody a rank of the job
        with contextlib.suppress(LaunchError):
            self._own = discover(os.environ)

    def look(self) -> bool:
        """Whether all ranks of the job have been seen."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, LaunchError):
                data = (entry / "environ").read_bytes()
                if self._mark in data:
                    self._note(_parsed(data))
        return self._whole() is not None

    def _note(self, env: Mapping[str, str]) -> None:
        place = discover(env)
        if place is None or place == self._own:
            return
        ranks = self._seen.setdefault((place.launcher, place.size), {})
        ranks.setdefault(place.rank, set()).add(tuple(env.get(name, "") for name in self._watched))

    def _whole(self) -> tuple[int, list[tuple[str, ...]]] | None:
        """(number of ranks, what each had) of the innermost launcher, once all of its ranks were there.

        None also where processes of one rank have different values: nobody knows which of them computes.
        """
        inner = min((launcher for launcher, _ in self._seen), key=_INNERMOST.index, default="")
        worlds = [(size, ranks) for (launcher, size), ranks in self._seen.items() if launcher == inner]
        if len(worlds) != 1 or len(worlds[0][1]) < worlds[0][0]:
            return None
        size, ranks = worlds[0]
        if any(len(values) > 1 for values in ranks.values()):
            return None
        return size, [next(iter(values)) for values in ranks.values()]

    @property
    def told(self) -> dict[str, Any]:
        """`world` and `seen` of a Restart; {} where not every rank was seen."""
        whole = self._whole()
        if whole is None:
            return {}
        size, rows = whole
        seen = {name: tuple(sorted({row[k] for row in rows})) for k, name in enumerate(self._watched)}
        return {"world": size, "seen": seen}


def _parsed(data: bytes) -> dict[str, str]:
    pairs = (os.fsdecode(part).partition("=") for part in data.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}
