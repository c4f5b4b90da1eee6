"""Figures that others published, by system: orientation beside one's own, never a pass mark.

The rows are in `data/reference.csv`. None has an interval, most are a single run, and some are rules of thumb or gates
that a provider chose (`kind`): what is a good figure on one's own machine is told by one's own runs.
"""

import csv
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from math import log2
from typing import Literal, NamedTuple

import msgspec

from commbench.errors import SpecError
from commbench.errors import nearest as guess

Kind = Literal["measured", "threshold", "rule"]
Placement = Literal["", "in-place", "out-of-place"]
# Beside the collectives: what a link or a card gives to one pair.
LINKS = ("host_to_device", "ib_write_bw", "ib_write_lat", "link", "nic", "p2p")
STATISTICS = {
    "busbw": "GB/s",
    "busbw_low": "GB/s",  # published as a range: its ends
    "busbw_high": "GB/s",
    "mean_busbw": "GB/s",  # over the sizes of a run: says nothing about any of them
    "algbw": "GB/s",
    "time": "us",
    "bandwidth": "GB/s",
    "bidirectional_bandwidth": "GB/s",
    "nominal": "GB/s",
    "latency": "us",
    "p99_latency": "us",
}
# What people call a system beside its name.
ALIASES = {
    "a100": "a100-sxm",
    "a3-highgpu": "gcp-a3",
    "a3-megagpu": "gcp-a3mega",
    "a3-ultragpu": "gcp-a3ultra",
    "a4-highgpu": "gcp-a4",
    "a4x": "gcp-a4x",
    "alps": "alps-gh200",
    "b200": "aws-p6-b200",
    "coreweave-gb200": "coreweave-gb200-nvl72",
    "gb200": "gb200-nvl72",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "nd-h100-v5": "azure-nd-h100-v5",
    "nd-h200-v5": "azure-nd-h200-v5",
    "nd96asr-v4": "azure-nd-a100-v4",
    "nd96amsr-a100-v4": "azure-nd-a100-v4",
    "nd96isr-h100-v5": "azure-nd-h100-v5",
    "nd96isr-h200-v5": "azure-nd-h200-v5",
    "nd96isr-mi300x-v5": "azure-nd-mi300x-v5",
    "p4de": "aws-p4de",
    "p4de.24xlarge": "aws-p4de",
    "p5": "aws-p5",
    "p5.48xlarge": "aws-p5",
    "p5en": "aws-p5en",
    "p5en.48xlarge": "aws-p5en",
    "p6-b200": "aws-p6-b200",
    "p6-b200.48xlarge": "aws-p6-b200",
    "polaris": "polaris-a100",
}


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One published figure. What its source does not tell is None or "".

    system           machine or shape, lower case
    nodes, ranks     of the run
    collective       commbench's name, or one of LINKS
    nbytes           message size in the convention of nccl-tests
    placement        in-place, out-of-place; "": not told
    statistic        one of STATISTICS; a time or a bandwidth of nccl-tests is a mean over its iterations
    value            in `unit`: GB/s (1e9 bytes), Gbit/s, us
    library_version  `NCCL 2.26.2`
    algorithm        or another condition of the figure: `ring`, `NVLS`, `MNNVL off`
    source           where it was published: repository:path@commit, or what to look for
    date             of the run, ISO 8601
    kind             measured; threshold: a provider's gate; rule: a rule of thumb
    """

    system: str
    nodes: int | None
    ranks: int | None
    collective: str
    nbytes: int | None
    placement: Placement
    statistic: str
    value: float
    unit: Literal["GB/s", "Gbit/s", "us"]
    library_version: str
    algorithm: str
    source: str
    date: str
    kind: Kind


class Nearest(NamedTuple):
    """The reference for one row, and the sizes for which the system has one (ascending)."""

    row: Reference | None
    sizes: tuple[int, ...]


@cache
def load() -> tuple[Reference, ...]:
    """All rows, in the order of the file."""
    text = files("commbench").joinpath("data/reference.csv").read_text(encoding="utf-8")
    blank = {"nodes": None, "ranks": None, "nbytes": None}
    rows = (
        {key: value or blank.get(key, "") for key, value in row.items()} for row in csv.DictReader(text.splitlines())
    )
    return tuple(msgspec.convert(row, Reference, strict=False) for row in rows)


def systems() -> tuple[str, ...]:
    """The names that `find` takes as they are, in alphabetical order."""
    return tuple(sorted({row.system for row in load()}))


def find(system: str) -> tuple[Reference, ...]:
    """All rows of a system by its name or an alias, in any case. SpecError offers the nearest name."""
    asked = system.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("standard-")
    found = tuple(row for row in load() if row.system == ALIASES.get(asked, asked))
    if not found:
        raise SpecError(f"no reference numbers for {system!r}: {guess(asked, systems())}")
    return found


def nearest(
    system: str, op: str, nbytes: int, ranks: int, in_place: bool | None = None, statistic: str = "busbw"
) -> Nearest:
    """The measured figure of that size, on the number of ranks nearest to `ranks`; never one of another size.

    Of several, the one with the same placement (None: it does not matter), then without a special condition,
    then the first of the file. `row.ranks` tells on how many ranks it was measured. SpecError: unknown system.
    """
    rows = [row for row in find(system) if (row.collective, row.statistic, row.kind) == (op, statistic, "measured")]
    sizes = tuple(sorted({row.nbytes for row in rows if row.nbytes is not None}))
    wanted = {None: "", True: "in-place", False: "out-of-place"}[in_place]

    def distance(row: Reference) -> tuple[float, bool, bool]:
        away = abs(log2(row.ranks / ranks)) if row.ranks and ranks > 0 else float("inf")
        return away, row.placement not in ("", wanted) if wanted else False, bool(row.algorithm)

    return Nearest(min((row for row in rows if row.nbytes == nbytes), key=distance, default=None), sizes)


def gates(rows: Iterable[Reference]) -> tuple[Reference, ...]:
    """The thresholds and rules of thumb among them."""
    return tuple(row for row in rows if row.kind != "measured")
