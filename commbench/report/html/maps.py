"""A heat map of pairs with all that its picture and its table need."""

from collections.abc import Sequence
from typing import NamedTuple

from commbench.report.html.examined import listed
from commbench.report.html.pairs import Heat
from commbench.report.view import figure

_LABEL = 20  # characters of a name on an axis


class Map(NamedTuple):
    """A heat map with what its picture needs.

    marked  nodes that a reason of the verdict points at; tags: (place between nodes, numbers of the reasons)
    cells   (column, row, colour, text, which pair)
    """

    id: str
    title: str
    heat: Heat
    labels: Sequence[str]
    marked: frozenset[int]
    tags: Sequence[tuple[float, str]]
    cells: Sequence[tuple[int, int, int, str, int]]
    steps: Sequence[str]
    told: str
    silent: str
    value_name: str
    lines: Sequence[Sequence[str]]


def heat_map(name: str, heat: Heat) -> Map:
    """Both halves: a pair is found from either of its ranks."""
    texts = [figure(pair.value, pair.digits) for pair in heat.pairs]
    cells = [
        (x, y, heat.colour(pair.value), text, which)
        for which, (pair, text) in enumerate(zip(heat.pairs, texts, strict=True))
        for x, y in ((pair.a, pair.b), (pair.b, pair.a))
    ]
    names = [f"{node} ({place})" if place else node for node, place in zip(heat.nodes, heat.places, strict=True)]
    worst, best = heat.pairs[0], heat.pairs[-1]
    told = (
        f"Slowest: {names[worst.a]} with {names[worst.b]}, {texts[0]} {heat.unit}. "
        f"Fastest: {names[best.a]} with {names[best.b]}, {texts[-1]} {heat.unit}."
    )
    lines = [(f"{names[p.a]} - {names[p.b]}", text, *p.told) for p, text in zip(heat.pairs, texts, strict=True)]
    steps = [figure(heat.low + (heat.high - heat.low) * step, 2) for step in (0, 0.5, 1)]
    return Map(
        id=name,
        title=" · ".join(filter(None, (heat.title, heat.what if heat.unit == "%" else ""))),
        heat=heat,
        labels=_labels(heat.nodes),
        marked=frozenset(k for rim in heat.rims for k in range(rim.rows[0], rim.rows[1] + 1)),
        tags=_tags(heat),
        cells=cells,
        steps=steps,
        told=told,
        silent=listed((f"{names[a]} - {names[b]} {word}" for a, b, word in heat.silent), 8),
        value_name={"Bus bandwidth": "busbw", "Time": "time"}.get(heat.what, "rate"),
        lines=lines,
    )


def _tags(heat: Heat) -> Sequence[tuple[float, str]]:
    found: dict[float, dict[str, None]] = {}
    for rim in heat.rims:
        found.setdefault((rim.rows[0] + rim.rows[1] + 1) / 2, {})[rim.label] = None
    return [(at, ",".join(labels)) for at, labels in found.items()]


def _labels(names: Sequence[str]) -> Sequence[str]:
    """Short forms for the axes: without the domain that all have in common; of a long name both ends."""
    parts = [name.split(".") for name in names]
    while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    short = [".".join(part) for part in parts]
    return [one if len(one) <= _LABEL else f"{one[: _LABEL // 2]}…{one[-_LABEL // 2 :]}" for one in short]
