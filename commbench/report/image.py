"""What all pictures have in common: formats, looks, and a file that is there in full or not at all.

matplotlib is used without pyplot: nothing global changes and no display is needed.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commbench.errors import CommbenchError, SpecError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png", "svg")
# Okabe and Ito's colours, which the colour-blind can tell apart (their yellow is too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "commbench",  # the same rows give the same file
    "text.parse_math": False,  # a $ in a setting is a $
}


def format_of(path: Path) -> str:
    """pdf, png or svg, by the suffix. SpecError: another one."""
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise SpecError(f"{path}: cannot draw {path.suffix or 'a file without suffix'}; {nearest(form, FORMATS)}")
    return form


def save(draw: "Callable[[], Figure]", path: Path) -> None:
    """Draws and writes; the same figure gives the same file. CommbenchError: it cannot be written."""
    import matplotlib as mpl

    form = format_of(path)
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc is made for other pictures
        mpl.rcParams.update(STYLE)
        image = io.BytesIO()
        undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        draw().savefig(image, format=form, dpi=150, metadata=undated.get(form))
    _write(path, image.getvalue())


def _write(path: Path, image: bytes) -> None:
    """The file is there in full or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(image)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CommbenchError(f"{path}: cannot be written: {error.strerror or error}") from None
