"""From a figure of matplotlib to the text of an SVG: no dates, no metadata, nothing outside, the same each time.

Text stays text in the fonts of whoever reads, so names in any script are legible and a plot of 100 images stays small.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from mxbridge.report.texts import harmless

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1d2733", "#4f5b67", "#d9dfe5"
"""Colours of text, of what is less important, and of lines between: those of the page."""

STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "mxbridge",
}

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
_SVG = "{http://www.w3.org/2000/svg}"
_DRAWN = {"svg", "g", "defs", "path", "rect", "circle", "line", "polyline", "polygon", "ellipse", "text", "tspan", "use", "image",
          "clipPath", "linearGradient", "stop", "pattern", "mask", "filter", "feColorMatrix"}  # fmt: skip
"""Elements that draw something; any other (scripts, foreign documents, metadata) does not come into a report."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (width, height in inches; 7.2 is the width of the page) in the style of reports, outside of pyplot."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings
        return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure) -> str:
    """The SVG of a figure, for :class:`mxbridge.report.blocks.Plot`; the figure may be thrown away afterwards.

    Draw inside ``with matplotlib.rc_context(STYLE)`` for the look of the page. Labels may hold any names.
    """
    import matplotlib

    as_written(figure)
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]  # names of settings
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts are used, not these
        figure.savefig(stream, format="svg", metadata=nothing, dpi=110)
    return clean_svg(stream.getvalue())


def as_written(figure: Figure) -> Figure:
    """The figure; no text in it is mathematics: names of channels and files may hold ``$``, with anything between two of them."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]  # findobj gives what it was asked for
    return figure


def clean_svg(text: str) -> str:
    """An SVG with drawing elements only, without handlers of events and references to anything outside. Raises ValueError."""
    ElementTree.register_namespace("", _SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    if "<!ENTITY" in text:
        raise ValueError("an SVG with entities of its own")
    try:
        root = ElementTree.fromstring(harmless(text))  # noqa: S314 - entities are refused above
    except ElementTree.ParseError as error:
        raise ValueError(f"not an SVG ({error})") from error
    if root.tag != f"{_SVG}svg":
        raise ValueError("not an SVG")
    _keep_drawing(root)
    root.set("style", f"stroke-linejoin:round;stroke-linecap:butt;font-family:{_FONTS}")
    return ElementTree.tostring(root, encoding="unicode")


def _keep_drawing(element: ElementTree.Element) -> None:
    for name, value in list(element.attrib.items()):
        plain = name.rpartition("}")[2].lower()
        outside = plain == "href" and not value.startswith(("#", "data:image/png;base64,"))
        remote = "url(" in value and "url(#" not in value
        if plain.startswith("on") or outside or remote:
            del element.attrib[name]
        elif plain == "d":
            element.set(name, _rounded(value))
    if element.tag in (f"{_SVG}text", f"{_SVG}tspan") and "style" in element.attrib:
        element.set("style", _without_fonts(element.attrib["style"]))
    for child in list(element):
        if child.tag in {f"{_SVG}{name}" for name in _DRAWN}:
            _keep_drawing(child)
        else:
            element.remove(child)


def _rounded(path: str) -> str:
    """A path with two digits behind the point, which nobody can see, in half the space."""
    return " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path).split())


def _without_fonts(style: str) -> str:
    """Size, weight and alignment of a text; the family is that of the whole picture."""
    kept = []
    for rule in style.split(";"):
        name, _, value = rule.strip().partition(":")
        if name == "font":  # matplotlib: "9px 'DejaVu Sans', ..." or "bold 9px ..."
            size = next((word for word in value.split() if word.endswith("px")), "9px")
            kept += [f"font-size: {size}"] + (["font-weight: bold"] if " bold" in f" {value}" else [])
        elif name and name != "font-family":
            kept.append(rule.strip())
    return "; ".join(kept)
