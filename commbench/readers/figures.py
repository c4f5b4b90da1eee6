"""What the readers of MPI-style tables share: checked numbers, names of types, sizes, launches."""

import re
from collections import Counter
from math import isfinite

from commbench.errors import ReadError
from commbench.records import Case

# What a launcher puts before every line: `3: ` (srun -l), `[1,0]<stdout>: ` (Open MPI --tag-output).
_PREFIX = re.compile(r"(?:\d{1,7}: ?|\[\d{1,7},\d{1,7}\]<std\w{2,4}>: ?)")
_DTYPES = {
    "char": "int8",
    "byte": "int8",
    "signed_char": "int8",
    "int8_t": "int8",
    "int": "int32",
    "int32_t": "int32",
    "long": "int64",
    "long_long": "int64",
    "int64_t": "int64",
    "float": "float32",
    "double": "float64",
}
_MOST = 2**18  # different cases of one file: far more than any program measures
LARGEST = 2**53  # bytes: above this a number is damage, not a size


def stripped(line: str) -> str:
    """The line without the prefix of a launcher."""
    found = _PREFIX.match(line)
    return line[found.end() :] if found else line


def number(text: str) -> float | None:
    """A finite decimal number; None for everything else, also for `nan`, `1_000` and hexadecimal."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and "_" not in text and text.isascii() else None


def sane(seconds: float) -> bool:
    """Whether a call can have taken that long: more than nothing, less than thirty years."""
    return 0 < seconds < 1e9


def meant(text: str) -> bool:
    """Whether it is meant as a number: `number` or not, as `nan` and `inf`."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def whole(text: str) -> int | None:
    """A number of bytes, ranks or calls, in decimal digits."""
    return int(text) if len(text) < 17 and text.isascii() and text.isdigit() and int(text) <= LARGEST else None


# What OSU and Intel's MPI benchmarks call the collectives, in small letters.
MPI_COLLECTIVES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "allgatherv": "all_gather_v",
    "alltoall": "all_to_all",
    "alltoallv": "all_to_all_v",
    "bcast": "broadcast",
    "reduce": "reduce",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_block": "reduce_scatter",
    "gather": "gather",
    "gatherv": "gather_v",
    "scatter": "scatter",
    "scatterv": "scatter_v",
    "barrier": "barrier",
}
BLOCKS = ("all_gather", "all_to_all", "gather", "scatter")  # and their variants: one rank's block is printed


def nbytes_of(text: str) -> int | str:
    """The size in a row, or what is wrong with it. An empty message has a latency, and is a row."""
    size = whole(text)
    if size is None:
        return f"not a size: {text[:40]}"
    return size


def utc(epoch: float) -> str:
    """Seconds since 1970 in ISO 8601; "" for what is no time of these centuries."""
    import numpy as np

    return f"{np.datetime64(int(epoch), 's')}+00:00" if 0 < epoch < 2**33 else ""


def dtype(mpi: str) -> str:
    """MPI_FLOAT -> float32; a type that commbench has no name for keeps its own, in small letters."""
    name = re.sub(r"[^\w.:-]", "", mpi.strip().rstrip(".").removeprefix("MPI_").lower(), flags=re.ASCII)[:40]
    return _DTYPES.get(name, f"mpi_{name}" if name else "unknown")


def sized(printed: int, ranks: int) -> tuple[int, tuple[tuple[str, str], ...]]:
    """(bytes, settings) of a size that was printed for one rank's block; ranks 0: not known.

    Without the number of ranks the size stays as it was printed, under a setting that keeps the case from being
    compared with whole messages.
    """
    known = 0 < ranks <= LARGEST // max(printed, 1)
    return (printed * ranks, ()) if known else (printed, (("size", "per rank"),))


class Launches:
    """Numbers the repetitions of a case in one file: 0 for the first one. Raises ReadError beyond any real file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: Counter[tuple[Case, int, int, str]] = Counter()

    def next(self, case: Case, ranks: int, group: int = 0, world: str = "") -> int:
        """`world`: what else must be the same for it to be a repetition."""
        key = (case, ranks, group, world)
        self._seen[key] += 1
        if len(self._seen) > _MOST:
            raise ReadError(f"{self._name}: more than {_MOST} different cases, which no benchmark measures")
        return self._seen[key] - 1
