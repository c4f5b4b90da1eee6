"""The surroundings: who ran, where, on what; allow-listed facts only."""

from typing import Any

import msgspec

from commbench.records.fabric import Fabric


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One host: its name, and the facts in which it differs from rank 0's host."""

    name: str
    differs: dict[str, str] = {}


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hosts, the ranks on them, and what was found there.

    host_of[rank] is the index of the rank's host in `hosts`. `environment` holds the allow-listed variables
    of rank 0; `hidden` the names of those with an interesting prefix whose value may be a secret. `fabric` is the
    network between the hosts, where it is known (None: it is not); its hosts have the names of `hosts`.
    """

    hosts: tuple[Host, ...]
    host_of: tuple[int, ...]
    launcher: str
    facts: dict[str, str] = {}
    environment: dict[str, str] = {}
    hidden: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fabric: Fabric | None = None

    @property
    def size(self) -> int:
        """Ranks in the world."""
        return len(self.host_of)


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The file of another tool that a run was read from.

    tool     program and version as far as the file tells it: `nccl-tests 2.17.4`, `OSU 7.4`
    options  what the file tells about how it was made, in the tool's own words
    results  what the tool itself concluded: {"Avg bus bandwidth": "21.5"}
    unread   lines that looked like data and could not be read
    dated    where `Run.created` comes from: `file` (the file tells it) or `mtime` (when the file was last changed)
    """

    path: str
    nbytes: int
    sha256: str
    tool: str
    options: dict[str, str] = {}
    results: dict[str, str] = {}
    unread: int = 0
    dated: str = "mtime"


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """run.json: everything that is known before the first measurement.

    `spec` is the validated spec in its canonical form: the same spec gives the same value. `resumed` has
    one entry for every `--resume`: when, and which machine facts were different. A run that was imported has
    an `origin`, an empty spec, and a machine of which only what the file tells is known.
    """

    format: int
    name: str
    created: str
    commbench: str
    seed: int
    spec: dict[str, Any]
    machine: Machine
    command: tuple[str, ...] = ()
    resumed: tuple[dict[str, str], ...] = ()
    origin: Origin | None = None

    @property
    def confidence(self) -> float:
        """Of the intervals that its spec asks for."""
        stop = self.spec.get("stop")
        return float(stop.get("confidence", 0.95)) if isinstance(stop, dict) else 0.95
