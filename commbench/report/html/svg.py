"""matplotlib's figure as an inline SVG for a page: small, without ids that meet others, in the colours of the page.

matplotlib writes an SVG for a file of its own: with fonts, a background, six decimals and ids that another plot may
have too. Here colours become variables of the page's style sheet (so that light and dark both read well), text stays
text, and positions are kept to a tenth of a unit.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

from commbench.report.image import COLOURS, GREY, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the style sheet calls the colours of the pictures.
_VARIABLES: dict[str, str] = {
    **{colour.lower(): f"var(--c{k})" for k, colour in enumerate(COLOURS)},
    GREY: "var(--muted)",
    "#000000": "var(--ink)",
    "#333333": "var(--ink)",
    "#e3e3e3": "var(--grid)",
    "#ffffff": "var(--paper)",
    "#e4eef6": "var(--soft)",
}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_NUMBER = re.compile(r"-?\d+\.\d+")
_COMMAND = re.compile(r"\s*([A-Za-z])\s*")
_REFERENCE = re.compile(r"#([\w-]+)")
_POSITIONS = ("d", "x", "y", "width", "height", "transform", "points")
_KEPT = ("font-size", "font-weight", "text-anchor")  # of the style of a text


class Swatch(NamedTuple):
    """How a line looks, for a legend: the style of the stroke; the marker (an id on the page) and its style."""

    stroke: str
    marker: str
    marker_style: str


class Drawing(NamedTuple):
    """What is inside `<svg viewBox=...>`, and how each line looks."""

    width: float
    height: float
    inside: str
    swatches: Mapping[int, Swatch]


def drawing(draw: "Callable[[], Figure]", prefix: str) -> Drawing:
    """Draws. `prefix` comes before every id; a `gid` like `line-3` is kept as `data-line`."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc is made for other pictures
        mpl.rcParams.update({**STYLE, "svg.fonttype": "none"})
        image = io.BytesIO()
        figure = draw()
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        figure.savefig(image, format="svg", metadata={"Date": None})
    root = ET.fromstring(image.getvalue())
    _plain(root)
    _small(root, prefix)
    width, height = (float(root.attrib[name].removesuffix("pt")) for name in ("width", "height"))
    swatches = {
        int(group.attrib["data-line"].split("-")[1]): _swatch(group)
        for group in root.iter("g")
        if "data-line" in group.attrib
    }
    inside = "".join(ET.tostring(child, encoding="unicode").replace(" />", "/>") for child in root)
    return Drawing(width, height, inside, swatches)


def _plain(root: ET.Element) -> None:
    """Without namespaces: in HTML they go without saying. Without metadata and styles."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.attrib[name.rpartition("}")[2]] = element.attrib.pop(name)
        if element.tag != "text":
            element.text = None
        element.tail = None
    _without(root, {"metadata", "style"})


def _without(element: ET.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags or (child.tag == "defs" and all(grandchild.tag in tags for grandchild in child)):
            element.remove(child)
        else:
            _without(child, tags)


def _small(root: ET.Element, prefix: str) -> None:
    used = dict.fromkeys(
        found for one in root.iter() for value in one.attrib.values() for found in _REFERENCE.findall(value)
    )
    names = {name: f"{prefix}{k}" for k, name in enumerate(used)}
    shapes = {id(one) for defs in root.iter("defs") for one in defs.iter()}
    for element in root.iter():
        own = element.attrib
        name = own.pop("id", "")
        if name in names:
            own["id"] = names[name]
        elif name.startswith("line-"):
            own["data-line"] = name
        if "style" in own:
            own["style"] = _style(own["style"], element.tag == "text")
        for where in ("href", "clip-path"):
            if where in own:
                own[where] = _REFERENCE.sub(lambda found: "#" + names[found[1]], own[where])
        if own.get("transform", "").startswith("rotate(-0 "):
            del own["transform"]
        for where in _POSITIONS:
            if where in own:
                own[where] = _short(own[where], 2 if id(element) in shapes else 1)
    _flat(root)
    for group in root.iter("g"):
        _shared_style(group)


def _shared_style(group: ET.Element) -> None:
    """The markers of a line all look alike: said once."""
    styles = {child.attrib.get("style", "") for child in group}
    if len(styles) == 1 and all(child.tag == "use" for child in group) and "style" not in group.attrib:
        group.attrib["style"] = styles.pop()
        for child in group:
            child.attrib.pop("style", None)


def _style(text: str, is_text: bool) -> str:
    parts = (part.strip() for part in text.split(";"))
    if is_text:
        parts = (part for part in parts if part.startswith(("fill", "opacity", *_KEPT)))
    joined = ";".join(part.replace(": ", ":") for part in parts if part)
    return _COLOUR.sub(lambda found: _VARIABLES.get(found[0].lower(), found[0]), joined)


def _short(text: str, decimals: int) -> str:
    rounded = _NUMBER.sub(lambda found: f"{float(found[0]):.{decimals}f}".rstrip("0").rstrip("."), text)
    return _COMMAND.sub(r"\1", rounded) if "(" not in rounded else rounded


def _flat(element: ET.Element) -> None:
    """Takes out groups that say nothing."""
    for child in list(element):
        _flat(child)
        if child.tag == "g" and not child.attrib:
            at = list(element).index(child)
            element.remove(child)
            for k, grandchild in enumerate(child):
                element.insert(at + k, grandchild)


def _swatch(group: ET.Element) -> Swatch:
    path = next((one for one in group.iter("path") if "clip-path" in one.attrib), None)
    stroke = path.attrib.get("style", "") if path is not None else ""
    for within in group.iter("g"):
        if (marker := within.find("use")) is not None:
            return Swatch(stroke, marker.attrib["href"], within.attrib.get("style", ""))
    return Swatch(stroke, "", "")
