"""The network between hosts: who is linked to whom, and how fast."""

from functools import cached_property
from typing import Literal

import msgspec

Routing = Literal["bridge", "shortest"]


class FabricHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A host: how many ranks it is meant to carry, and which share of the machine's cores it may use (None: all)."""

    name: str
    ranks: int = 1
    cpu: float | None = None


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A full-duplex cable between two nodes (hosts or switches).

    rate   bytes per second in each direction
    mtu    bytes of the largest packet
    """

    name: str
    ends: tuple[str, str]
    rate: float
    mtu: int = 9000

    def other(self, node: str) -> str:
        """The node at the other end."""
        return self.ends[1] if self.ends[0] == node else self.ends[0]


class Fabric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, dict=True):
    """Hosts, switches and the links between them.

    The k-th link of a host in the order of `links` is its NIC `ethK`. With `routing` `bridge` switches forward
    by learning, and there is one way between any two nodes; with `shortest` they route over all shortest ways.
    """

    name: str
    hosts: tuple[FabricHost, ...]
    switches: tuple[str, ...]
    links: tuple[Link, ...]
    routing: Routing = "bridge"

    @cached_property
    def links_of(self) -> dict[str, tuple[Link, ...]]:
        """node -> its links, in order."""
        found: dict[str, list[Link]] = {node: [] for node in (*(host.name for host in self.hosts), *self.switches)}
        for link in self.links:
            for end in link.ends:
                found[end].append(link)
        return {node: tuple(links) for node, links in found.items()}

    def leaf(self, host: str) -> str:
        """The switch on the host's first link."""
        return self.links_of[host][0].other(host)
