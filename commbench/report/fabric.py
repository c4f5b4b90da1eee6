"""A fabric for people: as a tree of text, and as a picture."""

import math
import textwrap
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commbench.records import Fabric, FabricHost, Link
from commbench.report.image import COLOURS, GREY, format_of, save
from commbench.report.view import one_line
from commbench.units import format_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MTU = 9000  # what goes without saying
_MANY = 16  # hosts: above, equal ones share a line of text, and the picture has no room for boxes

_Place = tuple[float, float]


def _levels(fabric: Fabric) -> dict[str, int]:
    """Links between a node and the nearest host: 0 are hosts, 1 leaves, the most spines."""
    level = {host.name: 0 for host in fabric.hosts}
    queue = deque(level)
    while queue:
        node = queue.popleft()
        for link in fabric.links_of[node]:
            if link.other(node) not in level:
                level[link.other(node)] = level[node] + 1
                queue.append(link.other(node))
    top = max(level.values(), default=0)
    return level | {switch: top for switch in fabric.switches if switch not in level}


def _told(link: Link) -> str:
    return format_rate(link.rate) + (f", mtu {link.mtu}" if link.mtu != _MTU else "")


def _ranks(host: FabricHost) -> str:
    return f"{host.ranks} rank{'s' * (host.ranks != 1)}"


def summary(fabric: Fabric) -> str:
    """`4 hosts, 1 rank each · 1 switch · 4 links`."""
    counts = {host.ranks for host in fabric.hosts}
    each = f"{_ranks(fabric.hosts[0])} each" if len(counts) == 1 else f"{sum(h.ranks for h in fabric.hosts)} ranks"
    words = [(len(fabric.hosts), "host"), (len(fabric.switches), "switch"), (len(fabric.links), "link")]
    hosts, *rest = (f"{n} {word}{('es' if word.endswith('ch') else 's') * (n != 1)}" for n, word in words)
    return " · ".join([f"{hosts}, {each}", *rest])


# ---- text --------------------------------------------------------------------------------------------------


class _Item(NamedTuple):
    """One line below a switch: a host, a lower switch with what is below it, or a node that another line describes."""

    link: Link
    name: str
    host: FabricHost | None
    arrow: bool
    below: "tuple[_Item, ...]" = ()

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for hosts that differ in nothing but their name."""
        alike = (self.host.ranks, self.host.cpu, self.link.rate, self.link.mtu, self.arrow) if self.host else ()
        return (*alike, "" if self.host else self.name)


def text(fabric: Fabric, plan_names: Mapping[str, str] = {}) -> Iterator[str]:
    """Lines of a tree: switches farthest from hosts first, below each what is nearer to hosts, every link once.

    A node with a line of its own elsewhere is an arrow (`-> leaf2`). `plan_names` is what nodes are called
    elsewhere (the address of a host): it stands behind the name. Above 16 hosts equal neighbours share a line.
    """
    names = {node: one_line(node) for node in fabric.links_of}
    names |= {node: f"{names[node]} [{one_line(called)}]" for node, called in plan_names.items() if node in names}
    yield f"{one_line(fabric.name)}: {summary(fabric)}"
    for root, below in _forest(fabric):
        yield names[root]
        yield from _branches(below, names, "", len(fabric.hosts) > _MANY)


def _forest(fabric: Fabric) -> Iterator[tuple[str, tuple[_Item, ...]]]:
    level, hosts = _levels(fabric), {host.name: host for host in fabric.hosts}
    drawn: set[str] = set()
    shown: set[str] = set()

    def below(node: str) -> Iterator[_Item]:
        drawn.add(node)
        for link in fabric.links_of[node]:
            other = link.other(node)
            if link.name in shown or level[other] > level[node]:
                continue
            shown.add(link.name)
            arrow = other in drawn or (level[other] == level[node] and other not in hosts)
            drawn.update((other,) if other in hosts else ())
            deeper = () if arrow or other in hosts else tuple(below(other))
            yield _Item(link, other, hosts.get(other), arrow, deeper)

    for switch in sorted(fabric.switches, key=lambda switch: -level[switch]):
        if switch not in drawn:
            yield switch, tuple(below(switch))
    for host in hosts:  # cabled to each other without a switch, or to nothing
        if host not in drawn or any(link.name not in shown for link in fabric.links_of[host]):
            yield host, tuple(below(host))


def _branches(items: Sequence[_Item], names: Mapping[str, str], indent: str, many: bool) -> Iterator[str]:
    runs = [list(run) for _, run in groupby(items, key=lambda item: item.kind)] if many else [[one] for one in items]
    for k, run in enumerate(runs):
        last = k == len(runs) - 1
        yield f"{indent}{'└── ' if last else '├── '}{_line(run, names)}"
        yield from _branches(run[0].below, names, indent + ("    " if last else "│   "), many)


def _line(run: Sequence[_Item], names: Mapping[str, str]) -> str:
    first, several = run[0], len(run) > 1
    ends = [one_line(item.name) if item.arrow else names[item.name] for item in (first, run[-1])]
    between = f"{ends[0]}..{ends[1]}" if several else ends[0]
    links = f"link{'s' * several} {one_line(first.link.name)}{f'..{one_line(run[-1].link.name)}' * several}"
    how = f"({links}, {_told(first.link)})"
    if first.arrow or first.host is None:
        return f"{'-> ' * first.arrow}{between} {how}"
    cpu = f", {first.host.cpu:g} of the cores" if first.host.cpu is not None else ""
    return f"{between}: {_ranks(first.host)}{' each' * several}{cpu} {how}"


# ---- picture -----------------------------------------------------------------------------------------------

_GAP = 1.35  # inches between layers
_BESIDE = 0.3  # inches from a switch to the label of its bundle


class _Scene(NamedTuple):
    """Where nodes are, in inches (the y of hosts is 0 in layers), and how far from them anything is drawn."""

    places: dict[str, _Place]
    ring: bool
    many: bool
    room: tuple[float, float, float, float]  # left, right, bottom, top: of the whole drawing


def draw(fabric: Fabric, path: Path) -> None:
    """Draws hosts, switches and links; svg, png or pdf by the suffix.

    SpecError: another suffix. CommbenchError: the file cannot be written.
    """
    format_of(path)
    save(lambda: picture(fabric), path)


class Mark(NamedTuple):
    """Nodes and links (by their names) that stand out in a picture. `sure` False: dashed."""

    label: str
    sure: bool
    nodes: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()


def picture(fabric: Fabric, marks: Sequence[Mark] = (), whole: Fabric | None = None) -> "Figure":
    """Hosts, switches and links; what a mark names has a rim and a label. `fabric` may be a part of `whole`."""
    from matplotlib.figure import Figure

    level = _levels(fabric)
    scene = _scene(fabric, level)
    left, right, bottom, top = scene.room
    width = max(right - left, 5.5)
    over = _oversubscribed(whole, _levels(whole)) if whole else _oversubscribed(fabric, level)
    over = {switch: ratio for switch, ratio in over.items() if switch in fabric.switches}
    head: list[tuple[str, dict[str, Any]]] = [(one_line(fabric.name), {"fontsize": 13, "fontweight": "bold"})]
    count = summary(fabric) + (f" · of {len(whole.hosts)} hosts" if whole else "")
    head += [(line, {"color": GREY}) for line in textwrap.wrap(count, int(width * 12))]
    if over:
        said = f"{next(iter(over.values()))} = rate of the links below a switch to that of those above it"
        head += [(line, {"color": GREY, "fontsize": 8.5}) for line in textwrap.wrap(said, int(width * 14))]
    height = top - bottom + 0.3 + 0.23 * len(head)
    image = Figure(figsize=(width, height))
    axes = image.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    middle = (left + right) / 2
    axes.set(xlim=(middle - width / 2, middle + width / 2), ylim=(bottom, bottom + height))
    for k, (words, look) in enumerate(head):
        image.text(0.15 / width, 1 - (0.2 + 0.23 * k) / height, words, va="center", **look)
    _draw_links(axes, fabric, scene, level)
    _draw_nodes(axes, fabric, scene, over)
    _draw_marks(axes, fabric, scene, level, marks)
    return image


def _oversubscribed(fabric: Fabric, level: Mapping[str, int]) -> dict[str, str]:
    """switch -> `4:1`, where its links to lower nodes carry more than those to higher ones."""
    out = {}
    for switch in fabric.switches:
        above = [level[link.other(switch)] - level[switch] for link in fabric.links_of[switch]]
        rates = [link.rate for link in fabric.links_of[switch]]
        up = sum(rate for rate, by in zip(rates, above, strict=True) if by > 0)
        down = sum(rate for rate, by in zip(rates, above, strict=True) if by < 0)
        if 0 < up < down:
            out[switch] = f"{down / up:.3g}:1"
    return out


def _scene(fabric: Fabric, level: Mapping[str, int]) -> _Scene:
    ring = _ring(fabric, level)
    places = _on_circle(fabric, ring) if ring else _in_layers(fabric, level)
    many = len(fabric.hosts) > _MANY
    longest = max(len(node) for node in fabric.links_of)
    beside = 0.25 + 0.045 * longest
    x, y = zip(*places.values(), strict=True)
    below = 0.3 + 0.085 * longest if many and not ring else 0.4
    above = 0.4 if ring or not _same_level(fabric, level) else 0.9  # room for arcs over the top layer
    room = (min(x) - max(beside, 0.6), max(x) + max(beside, 0.6), min(y) - below, max(y) + above)
    return _Scene(places, bool(ring), many, room)


def _same_level(fabric: Fabric, level: Mapping[str, int]) -> list[Link]:
    return [link for link in fabric.links if level[link.ends[0]] == level[link.ends[1]]]


def _ring(fabric: Fabric, level: Mapping[str, int]) -> list[str]:
    """The switches in their order, where they are all leaves and form one circle; else none."""
    near: dict[str, list[str]] = {node: [] for node in fabric.links_of if level[node]}
    for link in _same_level(fabric, level):
        for node in set(link.ends) & near.keys():
            near[node].append(link.other(node))
    if len(near) < 3 or any(level[switch] != 1 or len(set(near[switch])) != 2 for switch in near):
        return []
    order = [fabric.switches[0]]
    while following := [switch for switch in near[order[-1]] if switch not in order]:
        order.append(following[0])
    return order if len(order) == len(near) else []


def _on_circle(fabric: Fabric, ring: Sequence[str]) -> dict[str, _Place]:
    """Switches on a circle, clockwise from the top; hosts outside, before their switch."""
    inner = max(1.1, len(ring) * 1.2 / math.tau)
    outer = max(inner + 1.1, len(fabric.hosts) * 0.85 / math.tau)
    places = {}
    for k, switch in enumerate(ring):
        hosts = [host.name for host in fabric.hosts if fabric.leaf(host.name) == switch]
        turns = [(switch, inner, 0.5), *((host, outer, (j + 0.5) / len(hosts)) for j, host in enumerate(hosts))]
        for node, radius, share in turns:
            angle = math.pi / 2 - math.tau * (k + (share - 0.5) * 0.9) / len(ring)
            places[node] = (radius * math.cos(angle), radius * math.sin(angle))
    return places


def _in_layers(fabric: Fabric, level: Mapping[str, int]) -> dict[str, _Place]:
    """Hosts below, rack by rack; every switch over the middle of what hangs on it."""
    position = {switch: k for k, switch in enumerate(fabric.switches)} | {host.name: -1 for host in fabric.hosts}
    racks = sorted((host.name for host in fabric.hosts), key=lambda host: position[fabric.leaf(host)])
    longest = max(map(len, racks))
    step = 0.19 if len(racks) > _MANY else max(0.95, 0.09 * longest + 0.4)
    x: dict[str, float] = {}
    at = 0.0
    for rack, hosts in groupby(racks, key=fabric.leaf):
        at += 0.35 * (position[rack] != position[fabric.leaf(racks[0])])
        for host in hosts:
            x[host] = at
            at += step
    width = max(at - step, 0.0)
    for layer in range(1, max(level.values()) + 1):
        switches = [switch for switch in fabric.switches if level[switch] == layer]
        wanted = {switch: _middle(fabric, switch, x, width / 2) for switch in switches}
        x |= _apart(wanted, width, 0.09 * max(map(len, switches), default=0) + 0.8)
    return {node: (x[node], level[node] * _GAP) for node in x}


def _middle(fabric: Fabric, switch: str, x: Mapping[str, float], otherwise: float) -> float:
    below = [x[link.other(switch)] for link in fabric.links_of[switch] if link.other(switch) in x]
    return sum(below) / len(below) if below else otherwise


def _apart(wanted: Mapping[str, float], width: float, least: float) -> dict[str, float]:
    """Places of a layer: as wanted where these are apart, else evenly over the width and in the order wanted."""
    order = sorted(wanted, key=lambda node: wanted[node])
    if all(wanted[b] - wanted[a] >= least for a, b in pairwise(order)):
        return dict(wanted)
    span = max(width * (len(order) - 1) / len(order), least * (len(order) - 1))
    step = span / (len(order) - 1)
    return {node: (width - span) / 2 + k * step for k, node in enumerate(order)}


def _draw_links(axes: "Axes", fabric: Fabric, scene: _Scene, level: Mapping[str, int]) -> None:
    """Lines as wide as links are fast; equal links of a switch to lower nodes share a label."""
    fastest = max((link.rate for link in fabric.links), default=1.0)
    rails = any(len(fabric.links_of[host.name]) > 1 for host in fabric.hosts)
    bundles: dict[tuple[str, str], list[Link]] = {}
    for link in fabric.links:
        upper = max(link.ends, key=lambda node: level[node])
        leaf = fabric.switches.index(upper) if upper in fabric.switches else 0
        look: dict[str, Any] = {
            "color": COLOURS[leaf % len(COLOURS)] if rails and level[upper] == 1 else "#777777",
            "linewidth": 0.8 + (1.8 if scene.many else 3.2) * math.sqrt(link.rate / fastest),
        }
        if level[link.ends[0]] == level[link.ends[1]]:
            _draw_level_link(axes, link, scene, look)
            continue
        (x, y), (u, v) = scene.places[upper], scene.places[link.other(upper)]
        axes.plot((x, u), (y, v), zorder=1, solid_capstyle="round", **look)
        bundles.setdefault((upper, _told(link)), []).append(link)
    stacked: Counter[str] = Counter()
    for (upper, told), links in bundles.items():
        x, y = scene.places[upper]
        if len(links) == 1:
            u, v = scene.places[links[0].other(upper)]
            along = 0.5 if scene.ring else 0.7  # in layers: where lines are apart, and clear of bundles' labels
            _label(axes, x + along * (u - x), y + along * (v - y), told)
            continue
        out = math.hypot(x, y) or 1.0
        right, up = (x / out, y / out) if scene.ring else (0.0, -1.0)
        far = _BESIDE + 0.2 * stacked[upper] + 0.4 * abs(right)
        stacked[upper] += 1
        _label(axes, x + far * right, y + far * up, f"{len(links)} × {told}")


def _draw_level_link(axes: "Axes", link: Link, scene: _Scene, look: Mapping[str, Any]) -> None:
    x, y = _way(link, scene, level=True)
    axes.plot(x, y, zorder=1, **look)
    _label(axes, x[20], y[20], _told(link))


def _way(link: Link, scene: _Scene, level: bool) -> tuple[list[float], list[float]]:
    """41 points of a straight line; between two of the same level an arc where others stand between them."""
    (x, y), (u, v) = sorted(scene.places[end] for end in link.ends)
    between = level and not scene.ring and any(y == b and x < a < u for a, b in scene.places.values())
    lift = 0.55 if between else 0.0
    steps = [k / 40 for k in range(41)]
    return [x + t * (u - x) for t in steps], [y + t * (v - y) + lift * math.sin(math.pi * t) for t in steps]


def _label(axes: "Axes", x: float, y: float, words: str) -> None:
    box = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none"}
    axes.text(x, y, words, ha="center", va="center", fontsize=8, zorder=2, bbox=box)


def _draw_nodes(axes: "Axes", fabric: Fabric, scene: _Scene, over: Mapping[str, str]) -> None:
    alike = len({host.ranks for host in fabric.hosts}) == 1
    for switch in fabric.switches:
        x, y = scene.places[switch]
        box = {"boxstyle": "square,pad=0.45", "facecolor": "#e4eef6", "edgecolor": COLOURS[0], "linewidth": 1.2}
        axes.text(x, y, one_line(switch), ha="center", va="center", fontweight="bold", zorder=3, bbox=box)
        if switch in over:
            aside = 0.22 + 0.05 * len(switch)
            above = [scene.places[link.other(switch)] for link in fabric.links_of[switch]]
            right = sum(u - x for u, v in above if v > y) <= 0  # where the links to higher nodes are not
            look: dict[str, Any] = {"ha": "left" if right else "right", "color": COLOURS[1], "fontweight": "bold"}
            axes.text(x + (aside if right else -aside), y, over[switch], va="center", fontsize=9, **look)
    for host in fabric.hosts:
        x, y = scene.places[host.name]
        name = one_line(host.name) if alike else f"{one_line(host.name)}: {_ranks(host)}"
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#333333"}
        if not scene.many or scene.ring:
            axes.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3, bbox=box)
            continue
        axes.plot([x], [y], "s", markersize=6, markerfacecolor="white", markeredgecolor="#333333", zorder=3)
        axes.text(x, y - 0.12, name, ha="center", va="top", fontsize=7.5, rotation=90, zorder=3)


def _draw_marks(axes: "Axes", fabric: Fabric, scene: _Scene, level: Mapping[str, int], marks: Sequence[Mark]) -> None:
    """Under links and around nodes; the labels of what several marks name stand in one place."""
    labels: dict[_Place, list[str]] = {}
    for mark in marks:
        style: Any = "solid" if mark.sure else (0, (1.5, 1.0))
        for link in (link for link in fabric.links if link.name in mark.links):
            x, y = _way(link, scene, level[link.ends[0]] == level[link.ends[1]])
            axes.plot(x, y, color=COLOURS[1], linewidth=9, linestyle=style, solid_capstyle="butt", zorder=0.9)
            labels.setdefault((x[14], y[14]), []).append(mark.label)
        for node in mark.nodes & scene.places.keys():
            x0, y0 = scene.places[node]
            box = node in fabric.switches or not scene.many or scene.ring
            wide = max(0.28, 0.05 * len(node) + 0.14) if box else 0.1
            high = 0.22 if box else 0.1
            corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
            rim = [(x0 + a * wide, y0 + b * high) for a, b in corners]
            axes.plot(*zip(*rim, strict=True), color=COLOURS[1], linewidth=2.4, linestyle=style, zorder=4)
            labels.setdefault((x0 + wide, y0 + high), []).append(mark.label)
    for (x1, y1), told in labels.items():
        look = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": COLOURS[1], "linewidth": 1.4}
        words = ", ".join(dict.fromkeys(told))
        axes.text(x1, y1, words, ha="center", va="center", fontsize=9, fontweight="bold", zorder=5, bbox=look)
