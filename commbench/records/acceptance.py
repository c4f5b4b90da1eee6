"""What rows cannot tell about an acceptance run: who was expected, who was left out, how the test came to its end."""

from pathlib import Path
from typing import Literal

import msgspec

from commbench.errors import FolderError
from commbench.records.formats import refuse_newer

FORMAT = 1
NAME = "accept.json"  # in the run folder

Ended = Literal["done", "budget", "signal", "open"]  # open: it has not ended, or it was killed


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A launch that ended early: what happened, in which round, and the hosts that it is laid to.

    fault    hang (did not answer), crash (died), launch (the ranks never met)
    certain  the hosts were seen to be silent or dead; else they only took part in what stood still
    after    launches that had begun by then, where the supervisor wrote it
    """

    fault: Literal["hang", "crash", "launch"]
    hosts: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    round: int = 0
    what: str = ""
    sentence: str = ""
    certain: bool = True
    after: int = 0


class Acceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """accept.json, replaced as the run goes on.

    excluded   host -> why it takes no part any more (asked for, or lost)
    losses     launches that ended early
    stages     stage -> done, or a sentence why it is not
    transport  host -> what its traffic was seen to go through: `eth0 98 %`
    """

    format: int = FORMAT
    ended: Ended = "open"
    excluded: dict[str, str] = {}
    losses: tuple[Loss, ...] = ()
    stages: dict[str, str] = {}
    transport: dict[str, str] = {}
    launches: int = 0
    spent: float = 0.0  # seconds


def encode(acceptance: Acceptance) -> bytes:
    return msgspec.json.format(msgspec.json.encode(acceptance), indent=2) + b"\n"


def read(folder: Path) -> Acceptance:
    """FolderError: this folder holds no acceptance run, or the file is damaged."""
    path = folder / NAME
    try:
        data = path.read_bytes()
        refuse_newer(data, path, FORMAT)
        return msgspec.json.decode(data, type=Acceptance)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; this is no folder of commbench accept") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FolderError(f"{path} is damaged: {error}") from None
