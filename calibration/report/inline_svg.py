"""A matplotlib figure as an SVG element that a strict page takes: no style, no clashing identifier, its colours."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from matplotlib.figure import Figure

_DROPPED = ("metadata", "style")


def inline_svg(figure: Figure, *, colours: Mapping[str, str]) -> str:
    """Return one ``<svg>`` element without size, hidden from screen readers, as wide as its place on the page.

    A page whose Content-Security-Policy names its style sheet ignores style attributes, so each becomes presentation
    attributes. Identifiers nothing refers to are dropped; the others are hashes of content and ``svg.hashsalt``.

    Args:
        figure: What to draw. With ``svg.fonttype`` set to ``none`` its text stays text.
        colours: What the page calls the figure's colours, from ``#rrggbb`` to any CSS colour.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    root = ET.fromstring(text)
    referred = set(re.findall(r'#([^")]+)["\)]', text))
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        _simplify(element, referred, colours)
    for name in ("width", "height"):
        root.attrib.pop(name)
    root.set("aria-hidden", "true")
    return ET.tostring(root, encoding="unicode")


def _simplify(element: ET.Element, referred: set[str], colours: Mapping[str, str]) -> None:
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if attributes.get("id") not in referred:
        attributes.pop("id", None)
    for declaration in attributes.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        attributes |= _presentation(name.strip(), value.strip())
    if element.tag == "text":
        attributes.setdefault("fill", "currentColor")
    element.attrib.clear()
    element.attrib.update({name: colours.get(value, value) for name, value in attributes.items()})


def _presentation(name: str, value: str) -> dict[str, str]:
    """Return a declaration as attributes; of the shorthand `font`, which is none, only the size is kept."""
    if name != "font":
        return {name: value} if name else {}
    size = re.search(r"[\d.]+px", value)
    return {"font-size": size.group()} if size else {}


def _local(name: str) -> str:
    return name.rpartition("}")[2]
