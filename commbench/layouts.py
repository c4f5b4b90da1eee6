"""Which ranks talk to each other: layouts as symbols, expanded to disjoint groups that run at the same time.

A symbol is short and the same at any scale (a run may have 16,000 ranks), so it is what records hold:

    world             all ranks
    node              the ranks of each host
    rail              the same local rank on every host
    every:k           rank r belongs to group r mod k (every k-th rank together)
    pairs/i           round i of the circle method: disjoint pairs; all rounds together meet every pair once
    mesh(dp=4,tp=2)/dp      all groups of axis dp at once, as in training; the last axis is contiguous
    mesh(dp=4,tp=2)/dp#1    group 1 of that axis alone, for comparison
    racks(..)/in/1, racks(..)/across/1, meet(0-1), only(0-3)    hosts that meet: see commbench.matchings
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from commbench import matchings
from commbench.errors import SpecError

Groups = tuple[tuple[int, ...], ...]
NAMES = ("world", "node", "rail", "pairs", "every", "mesh")


def _by_key(keys: Sequence[int]) -> Groups:
    groups: dict[int, list[int]] = {}
    for rank, key in enumerate(keys):
        groups.setdefault(key, []).append(rank)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def local_ranks(host_of: Sequence[int]) -> tuple[int, ...]:
    """Each rank's position among the ranks of its host."""
    seen: dict[int, int] = {}
    out = []
    for host in host_of:
        out.append(seen.get(host, 0))
        seen[host] = out[-1] + 1
    return tuple(out)


def mesh(axes: Sequence[tuple[str, int]], axis: str) -> Groups:
    """The groups along one axis of a row-major mesh (as torch's init_device_mesh lays ranks out)."""
    names = [name for name, _ in axes]
    stride = math.prod(size for _, size in axes[names.index(axis) + 1 :])
    length = dict(axes)[axis]
    total = math.prod(size for _, size in axes)
    return _by_key([rank - rank // stride % length * stride for rank in range(total)])


def parse_mesh(symbol: str) -> tuple[tuple[tuple[str, int], ...], str, int | None]:
    """(axes, axis, group alone or None) of a mesh symbol."""
    match = re.fullmatch(r"mesh\((\w+=[1-9]\d*(?:,\w+=[1-9]\d*)*)\)/(\w+)(?:#(\d+))?", symbol)
    if not match:
        raise SpecError(f"{symbol!r} is not a layout")
    axes = tuple((name, int(size)) for name, size in re.findall(r"(\w+)=(\d+)", match[1]))
    return axes, match[2], None if match[3] is None else int(match[3])


def expand(symbol: str, host_of: Sequence[int]) -> Groups:
    """Disjoint groups of world ranks, each in ascending order. host_of[rank] is the rank's host index."""
    size = len(host_of)
    simple = {"world": [0] * size, "node": host_of, "rail": local_ranks(host_of)}
    if symbol in simple:
        return _by_key(simple[symbol])
    if match := re.fullmatch(r"every:([1-9]\d*)", symbol):
        return _by_key([rank % int(match[1]) for rank in range(size)])
    if match := re.fullmatch(r"pairs/(\d+)", symbol):
        return matchings.circle(size, int(match[1]))
    if symbol.startswith("mesh("):
        axes, axis, alone = parse_mesh(symbol)
        if axis in dict(axes) and math.prod(length for _, length in axes) == size:
            groups = mesh(axes, axis)
            if alone is None:
                return groups
            if alone < len(groups):
                return (groups[alone],)
    if meeting := matchings.parse(symbol):
        return matchings.groups(meeting, host_of)
    raise SpecError(f"{symbol!r} is not a layout of {size} ranks")


def label(ranks: Sequence[int]) -> str:
    """Ranks for people: `0,5`, `0-7`, `0-14:2` (step), or a count where there is no pattern."""
    if len(ranks) <= 2:
        return ",".join(map(str, ranks))
    step = ranks[1] - ranks[0]
    if all(b - a == step for a, b in pairwise(ranks)):
        return f"{ranks[0]}-{ranks[-1]}" + (f":{step}" if step > 1 else "")
    return f"{ranks[0]},{ranks[1]},..{ranks[-1]}"
