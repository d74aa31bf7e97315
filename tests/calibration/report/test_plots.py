import re
import xml.etree.ElementTree as ET

import pytest

from calibration.metrics import share
from calibration.report.curves import Curve
from calibration.report.plots import draw_curves


def curve(name, *fooled):
    epsilon = tuple(0.1 * (place + 1) for place in range(len(fooled)))
    return Curve(name=name, places=epsilon, shares=tuple(share(part, 100) for part in fooled))


def test_drawing_is_deterministic_and_takes_the_colours_of_the_page():
    curves = [curve("IGS", 0, 10, 90), curve("FGS", 1, 2, 3)]
    drawn = draw_curves(curves, kind="fooled", key="a")
    assert drawn == draw_curves(curves, kind="fooled", key="a")
    assert "var(--fooled)" in drawn
    for kind, colour in (("rejected", "rejected"), ("distance", "fooled"), ("together", "fooled"), ("roc", "heat")):
        assert f"var(--{colour})" in draw_curves(curves, kind=kind, key="a")
    assert "currentColor" in drawn
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)


def test_two_figures_of_one_page_share_no_identifier():
    curves = [curve("IGS", 0, 10, 90)]
    found = [set(re.findall(r'\bid="([^"]*)"', draw_curves(curves, kind="fooled", key=key))) for key in "ab"]
    assert found[0]
    assert not found[0] & found[1]


def test_a_strict_page_can_show_it():
    root = ET.fromstring(draw_curves([curve("IGS", 0, 10, 90)], kind="fooled", key="a"))
    names = {element.tag for element in root.iter()}
    assert root.tag == "svg"
    assert names <= {"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"}
    attributes = {name: value for element in root.iter() for name, value in element.attrib.items()}
    assert not {"style", "width", "height"} & set(root.attrib)
    assert "style" not in attributes
    assert not [name for name in attributes if name.startswith(("on", "{"))]
    identifiers = {element.get("id") for element in root.iter()} - {None}
    referred = {element.get("href", "").lstrip("#") for element in root.iter("use")}
    assert referred <= identifiers


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "$x",
        r"\frac{1}",
        "a\x00b",
        "\N{RIGHT-TO-LEFT OVERRIDE}x",
        "_hidden",
        "_",
        '" onload="x',
    ],
    ids=["tag", "dollar", "tex", "nul", "bidi", "underscore", "only underscore", "quote"],
)
def test_names_are_shown_as_text_whatever_they_hold(name):
    root = ET.fromstring(draw_curves([curve(name, 1, 2)], kind="fooled", key="a"))
    shown = ["".join(element.itertext()).strip() for element in root.iter("text")]
    expected = "".join(letter if letter.isprintable() else "?" for letter in name).lstrip("_") or "?"
    assert expected in shown


def test_spaces_that_do_not_break_are_spaces():
    drawn = draw_curves([curve("PGD at ε\xa0=\xa00.3", 1, 2)], kind="roc", key="a")
    assert "PGD at ε = 0.3" in "".join(ET.fromstring(drawn).itertext())


def test_many_curves_and_extreme_shares_fit():
    curves = [curve(f"attack {number}", 0, 100, 50) for number in range(12)]
    root = ET.fromstring(draw_curves(curves, kind="rejected", key="a"))
    assert sum("attack" in "".join(element.itertext()) for element in root.iter("text")) == 12
