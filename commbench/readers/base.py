"""What a reader is, and what it gives: a Found for each run that a file tells of, a Problem for what it cannot read."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from commbench.readers.source import Problem, Source
from commbench.records import Machine, Measurement, Part

NOWHERE = Machine(hosts=(), host_of=(), launcher="")  # a machine of which the file tells nothing


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One run as a file tells it. What the file does not tell is absent, never guessed.

    tool          program and version: `nccl-tests 2.17.4`; without a version where the file has none
    line          where it begins in the file
    options       how it was made, in the tool's own words: {"iters": "20", "graph": "0"}
    results       what the tool concluded, in its own words: {"Avg bus bandwidth": "21.5"}
    created       ISO 8601 in UTC, "" where the file does not tell
    parts         records beside the measurements
    """

    tool: str
    line: int = 1
    machine: Machine = NOWHERE
    measurements: tuple[Measurement, ...] = ()
    options: dict[str, str] = {}
    results: dict[str, str] = {}
    created: str = ""
    parts: tuple[Part, ...] = ()


class Reader(NamedTuple):
    """One format.

    says         what it reads, for messages
    signatures   byte strings: a file that holds none of them has nothing for this reader
    read         raises nothing but ReadError; several readers may read one file
    """

    says: str
    signatures: tuple[bytes, ...]
    read: Callable[[Source], Iterator[Found | Problem]]
