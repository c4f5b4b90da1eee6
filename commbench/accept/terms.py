"""The words in which faults of pairs are told: what was seen, what is asked for, what was found."""

from typing import Literal, NamedTuple

from commbench.accept.pairtests import Fleet, Seen

__all__ = ["DEFAULT", "Fleet", "Found", "FoundKind", "Key", "Located", "Options", "Seen"]

FoundKind = Literal["host", "nic", "uplink", "path", "fabric"]


class Options(NamedTuple):
    """slowdown      the smallest loss of rate that must be found (0.1: a tenth); up to 0.4 of it blames nobody
    alpha         chance that an innocent component is accused, over all components of a run
    beta          chance that a fault of `slowdown` is missed, for each component
    spread        rounds of pairs for everybody, inside racks and across them
    most_confirm  rounds of confirmation at most
    least         share of what the wire allows below which the whole fabric is slow
    lag           how much less of its wire one kind of pairs may reach than another (a tenth and a half by default)
    """

    slowdown: float = 0.1
    alpha: float = 0.01
    beta: float = 0.01
    spread: int = 3
    seed: int = 0
    most_confirm: int = 14
    least: float = 0.5
    lag: float = 0.15


DEFAULT = Options()


class Key(NamedTuple):
    """A component. host: hosts (one); nic: and rail; uplink: rack, and rail where it is that of one rail; path: hosts
    (two); fabric: everything between hosts, of one rail where rail is told."""

    kind: FoundKind
    hosts: tuple[int, ...] = ()
    rail: int | None = None
    rack: int | None = None


class Found(NamedTuple):
    """A component that is slow.

    ties       others that explain the same tests as well
    slowdown   share of the rate that is lost
    odds       base-10 logarithm of how much likelier the tests are with this fault than without
    seen       evidence: (index of Seen, index of the group in it), slow tests that it explains
    """

    kind: FoundKind
    hosts: tuple[int, ...]
    rail: int | None
    rack: int | None
    ties: tuple[Key, ...]
    slowdown: float
    odds: float
    seen: tuple[tuple[int, int], ...]

    @property
    def key(self) -> Key:
        """The component alone."""
        return Key(self.kind, self.hosts, self.rail, self.rack)


class Located(NamedTuple):
    """found       slow components, most certain first
    cleared     hosts that were measured and are fine
    undecided   the others that take part: not measured enough, or neither slow nor fine for certain
    noise       standard deviation of the log of a test's time
    congestion  share of tests that were slow and not again
    detectable  the smallest slowdown that this run could have found; None: none
    rounds      meetings by purpose: spread, confirm
    """

    found: tuple[Found, ...]
    cleared: tuple[int, ...]
    undecided: tuple[int, ...]
    noise: float
    congestion: float
    detectable: float | None
    rounds: dict[str, int]
    notes: tuple[str, ...]
