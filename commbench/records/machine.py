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


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """run.json: everything that is known before the first measurement.

    `spec` is the validated spec in its canonical form: the same spec gives the same value. `resumed` has
    one entry for every `--resume`: when, and which machine facts were different.
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
