"""What an acceptance test concludes: a word, the reasons for it, what was covered, and how small a fault it could see.

A verdict is a pure function of a run folder and its criteria: the same journal gives the same bytes.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from commbench.errors import FolderError
from commbench.records.formats import refuse_newer

FORMAT = 1
NAME = "verdict.json"  # in the run folder

Word = Literal["PASS", "FAIL", "INCONCLUSIVE"]
EXIT: dict[Word, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}

# What may be at fault. `nic` is one rail of a host, `uplink` what joins a rack to the rest, `path` a pair of hosts,
# `fabric` everything between hosts, `run` the test itself.
Kind = Literal["rank", "host", "nic", "uplink", "path", "fabric", "run"]
# What is wrong with it; classes are never mixed.
Fault = Literal["slow", "hang", "crash", "wrong", "unstable", "not measured", "misconfigured"]
Stage = Literal["preflight", "intra", "spread", "confirm", "full", "stability", "run"]

# code -> what it makes of the run, where it stands for a proved fault (FAIL) or for missing evidence (INCONCLUSIVE)
CODES: dict[str, Word] = {
    "CB-SLOW-HOST": "FAIL",
    "CB-SLOW-RAIL": "FAIL",
    "CB-SLOW-UPLINK": "FAIL",
    "CB-SLOW-PATH": "FAIL",
    "CB-SLOW-FABRIC": "FAIL",
    "CB-HANG": "FAIL",
    "CB-CRASH": "FAIL",
    "CB-WRONG": "FAIL",
    "CB-UNSTABLE": "FAIL",
    "CB-TRANSPORT": "FAIL",
    "CB-THRESHOLD": "FAIL",
    "CB-COVERAGE": "INCONCLUSIVE",
    "CB-LAUNCH": "INCONCLUSIVE",
    "CB-BASELINE": "INCONCLUSIVE",
    "CB-BUDGET": "INCONCLUSIVE",
    "CB-UNDECIDED": "INCONCLUSIVE",
    "CB-CRITERION": "INCONCLUSIVE",
}


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A part of the cluster. id: a host's name; `HOST rail N`; a rack's name; `HOST - HOST`; a rank's number; ""."""

    kind: Kind
    id: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}".strip()


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Why the verdict is what it is: one finding.

    component  what is at fault
    ties       other components that explain the evidence as well; () where the component is certain
    measured, expected, unit    the figure, what it should have been, in which unit (`GB/s`, `us`, `share`, `elements`)
    criterion  the rule that was broken, and `source` where its limit comes from
    odds       base-10 logarithm of how much likelier the evidence is with the fault than without it
    evidence   rows of the journal: `KEY[group] round N`
    next       what to do
    decides    the word that this reason alone makes of the run
    """

    code: str
    component: Component
    fault: Fault
    stage: Stage
    sentence: str
    decides: Word
    ties: tuple[Component, ...] = ()
    measured: float | None = None
    expected: float | None = None
    unit: str = ""
    criterion: str = ""
    source: str = ""
    odds: float | None = None
    evidence: tuple[str, ...] = ()
    next: str = ""


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One criterion of the spec, evaluated. `word` INCONCLUSIVE: it could not be; the sentence says why."""

    criterion: str
    word: Word
    sentence: str
    measured: float | None = None
    limit: float | None = None
    unit: str = ""
    source: str = ""


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What should have been measured and what was. Names of hosts; `missing` are sentences."""

    expected_hosts: int | None = None
    hosts: tuple[str, ...] = ()
    ranks: int = 0
    rails: int = 0
    measured_hosts: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    transport: dict[str, str] = {}
    stages: dict[str, str] = {}
    missing: tuple[str, ...] = ()


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the run could have found.

    alpha        chance that this run accuses an innocent component, over all components
    beta         chance that a fault of `slowdown` is missed
    slowdown     the smallest that matters (spec), as a share of the healthy rate lost
    detectable   the smallest slowdown that this run could have found with these alpha and beta; None: none
    noise        relative scatter (standard deviation of the log of a test's time) that was seen
    congestion   share of tests that were slow once and not again
    rounds       rounds of pairs: spread, confirm
    """

    alpha: float
    beta: float
    slowdown: float
    detectable: float | None = None
    noise: float | None = None
    congestion: float | None = None
    rounds: dict[str, int] = {}


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """verdict.json.

    suspects   hosts that a reason names, first those that are certain; `cleared` hosts that were tested and are fine
    journal_sha256   of the whole lines that it was derived from
    """

    format: int = FORMAT
    name: str
    created: str
    word: Word
    exit_code: int
    reasons: tuple[Reason, ...] = ()
    criteria: tuple[Judged, ...] = ()
    coverage: Coverage
    power: Power
    suspects: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seed: int = 0
    journal_sha256: str = ""
    commbench: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The wire form with every field."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def encode(verdict: Verdict) -> bytes:
    """The content of verdict.json."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=2) + b"\n"


def read(folder: Path) -> Verdict:
    """The verdict of a run folder. FolderError: none, damaged, or newer."""
    path = folder / NAME
    try:
        data = path.read_bytes()
        refuse_newer(data, path, FORMAT)
        return msgspec.json.decode(data, type=Verdict)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}; commbench verdict {folder} makes it") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FolderError(f"{path} is no verdict: {error}; commbench verdict {folder} makes it again") from None
