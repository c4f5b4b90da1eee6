"""The question: which collective, how many bytes, on which ranks, under which settings."""

import hashlib
from typing import Literal

import msgspec

Mode = Literal["latency", "throughput"]


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One thing to measure.

    `nbytes` is the size asked for, in nccl-tests' convention (all_gather and reduce_scatter count the
    rank-scaled total); what the ranks could really move is in the Measurement. `groups` is the symbol of a
    layout (see commbench.layouts); rank lists never enter a record. `mode` `latency` synchronises before
    every call, `throughput` calls back to back: the two are never compared with each other.
    """

    op: str
    backend: str
    nbytes: int
    dtype: str = "float32"
    redop: str = "sum"
    groups: str = "world"
    mode: Mode = "throughput"
    in_place: bool = False
    root: int = 0
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """16 hex digits that are the same for the same question, in any run."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]
