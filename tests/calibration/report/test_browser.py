"""The report in a real browser: what it loads, how it fits, what can be read, reached and printed."""

import itertools
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from calibration.report import write_report
from tests.calibration import browser
from tests.calibration.report_samples import CLASSES, cell, examples, realistic, results, with_model

SMALLEST_CONTRAST = 4.5

# Text against what lies behind it, as WCAG 2 counts it; every element that holds text of its own, shades composed.
CONTRASTS = r"""
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, element.parentElement ? behind(element.parentElement) : [255, 255, 255, 1]);
  };
  const luminance = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const c = colour[i] / 255;
    return sum + weight * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  }, 0);
  const worst = {};
  for (const element of document.querySelectorAll("body *:not(svg, svg *)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const ground = behind(element), ink = over(parse(getComputedStyle(element).color), ground);
    const [low, high] = [luminance(ground), luminance(ink)].sort((a, b) => a - b);
    const name = element.tagName.toLowerCase() + "." + element.className;
    worst[name] = Math.min(worst[name] ?? 99, (high + 0.05) / (low + 0.05));
  }
  return worst;
})()
"""
WIDTHS = (320, 360, 600, 768, 1024, 1088, 1089, 1280, 2560)
PAGE_WIDTH = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    program = browser.find()
    if program is None:
        pytest.fail(f"expected {' or '.join(browser.NAMES)} on PATH, got none; apt-get install chromium")
    opened = browser.Tab(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def long_names():
    """Class names, a file name and a command without one place to break a line."""
    names = tuple(f"{label}{'W' * 300}" for label in range(10))
    return with_model(results(cell(examples=examples(0.3)), cell(epsilon=0.1)), classes=names, file="f" * 300)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    found = {"realistic": realistic(), "long names": long_names(), "nothing tried": results()}
    for name, one in found.items():
        write_report(one, folder / f"{name}.html")
    return {name: (folder / f"{name}.html").as_uri() for name in found}


@pytest.fixture
def realistic_page(tab, pages):
    tab.look()
    tab.open(pages["realistic"])
    return tab


@pytest.mark.parametrize("name", ["realistic", "long names", "nothing tried"])
def test_page_asks_for_nothing_and_breaks_no_rule(tab, pages, name):
    tab.look()
    tab.open(pages[name])
    assert [address for address in tab.requests() if not address.startswith("data:image/png;")] == [pages[name]]
    assert tab.complaints() == []
    assert tab.run("document.scripts.length") == 0
    assert tab.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize(
    "tampering",
    [
        "<script>document.title = 'run'</script>",
        "<p style='color: red'>x</p>",
        "<img src='http://127.0.0.1:9/x.png'>",
        "<style>p { color: red }</style>",
        "<img src='data:image/png;base64,AAAA' onerror=\"document.title = 'run'\">",
    ],
    ids=["script", "style attribute", "picture from elsewhere", "style sheet", "handler"],
)
def test_its_policy_stops_what_escaping_should_have_stopped(tab, pages, tmp_path, tampering):
    file = tmp_path / "tampered.html"
    page = Path(unquote(urlsplit(pages["nothing tried"]).path)).read_text(encoding="utf-8")
    file.write_text(page.replace("<main", tampering + "<main", 1), encoding="utf-8")
    tab.open(file.as_uri())
    tab.run("new Promise((done) => setTimeout(done, 50))")
    assert "Content Security Policy" in " ".join(tab.complaints())
    assert tab.run("document.title") != "run"


@pytest.mark.parametrize("name", ["realistic", "long names", "nothing tried"])
def test_page_never_scrolls_sideways(tab, pages, name):
    tab.look()
    tab.open(pages[name])
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    found = {}
    for width in WIDTHS:
        tab.look(width=width)
        content, window = tab.run(PAGE_WIDTH)
        assert window == width
        found[width] = content
    assert {width: content for width, content in found.items() if content > width} == {}


def test_nothing_is_cut_off_on_a_phone(tab, pages):
    tab.look(width=360)
    tab.open(pages["realistic"])
    outside = """[...document.querySelectorAll("body *")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 1 && (box.right > 360.5 || box.left < -0.5)
        && !element.closest(".scroll, .skip, .hidden, thead, clipPath, defs");
    }).map((element) => element.outerHTML.slice(0, 80))"""
    assert tab.run(outside) == []
    assert tab.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    text_height = (
        "Math.min(...[...document.querySelectorAll('.plots text')].map((t) => t.getBoundingClientRect().height))"
    )
    assert tab.run(text_height) >= 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(tab, pages, scheme):
    tab.look(scheme=scheme)
    tab.open(pages["realistic"])
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    contrasts = tab.run(CONTRASTS)
    assert len(contrasts) > 30
    assert {name: value for name, value in contrasts.items() if value < SMALLEST_CONTRAST} == {}


def test_dark_mode_turns_page_and_curves(realistic_page):
    grounds, inks = [], []
    for scheme in ("light", "dark"):
        realistic_page.look(scheme=scheme)
        grounds.append(realistic_page.run("getComputedStyle(document.body).backgroundColor"))
        inks.append(realistic_page.run("getComputedStyle(document.querySelector('.plots text')).fill"))
    brightness = [[int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in grounds + inks]
    light_ground, dark_ground, light_ink, dark_ink = map(sum, brightness)
    assert light_ground > 700 > 150 > dark_ground
    assert dark_ink > 600 > 150 > light_ink


def test_keyboard_reaches_everything_and_shows_where_it_is(realistic_page):
    stops = []
    for _ in range(80):
        realistic_page.press("Tab", 9)
        name, visible, outline = realistic_page.run("""(() => {
          const at = document.activeElement, box = at.getBoundingClientRect();
          const style = getComputedStyle(at);
          return [at.tagName + " " + (at.textContent.trim() || at.getAttribute("aria-label")).slice(0, 30),
            box.right > 0 && box.left >= 0 && box.bottom > 0 && box.top < innerHeight, style.outlineStyle];
        })()""")
        if name.startswith("BODY"):
            break
        stops.append(name)
        assert visible, name
        assert outline != "none", name
    assert stops[0] == "A Skip to the figures"
    assert sum(stop.startswith("A ") for stop in stops) == 12
    assert sum(stop.startswith("SUMMARY ") for stop in stops) == 4
    assert sum(stop.startswith("PRE ") for stop in stops) >= 3


def test_skip_link_and_sections_are_reached(realistic_page):
    realistic_page.press("Tab", 9)
    realistic_page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
    assert realistic_page.run("location.hash") == "#outcomes"
    targets = "[...document.querySelectorAll('a[href^=\"#\"]')].every((a) => document.querySelector(a.hash))"
    assert realistic_page.run(targets)


def test_summary_opens_with_a_key(realistic_page):
    realistic_page.run("document.querySelectorAll('summary')[1].focus()")
    realistic_page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
    assert realistic_page.run("document.querySelectorAll('details')[1].open") is True


@pytest.mark.parametrize("width", [360, 1280], ids=["phone", "desk"])
def test_screen_readers_get_landmarks_headings_and_a_table(tab, pages, width):
    tab.look(width=width)
    tab.open(pages["realistic"])
    nodes = [node for node in tab.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = [node["role"]["value"] for node in nodes]
    assert [roles.count(role) for role in ("banner", "main", "navigation", "contentinfo")] == [1, 1, 1, 1]
    levels = [
        next(part["value"]["value"] for part in node["properties"] if part["name"] == "level")
        for node in nodes
        if node["role"]["value"] == "heading"
    ]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    names = {
        role: [n["name"]["value"] for n in nodes if n["role"]["value"] == role] for role in ("image", "table", "row")
    }
    assert all(names["image"])
    assert any(name.startswith("What became of 1000 images") for name in names["table"])
    assert len(names["row"]) >= len(realistic().cells) + 2
    assert roles.count("rowheader") >= len(realistic().cells) + 1


def test_a_click_selects_the_whole_command(realistic_page):
    realistic_page.run("document.querySelectorAll('.command')[1].scrollIntoView({block: 'center'})")
    box = realistic_page.run("document.querySelectorAll('.command')[1].getBoundingClientRect().toJSON()")
    where = {"x": box["x"] + 40, "y": box["y"] + 20, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        realistic_page.call("Input.dispatchMouseEvent", type=kind, **where)
    assert realistic_page.run("getSelection().toString().trim()") == realistic().command


def test_print_shows_pictures_that_the_screen_folds_away(realistic_page):
    height = "document.querySelectorAll('details')[1].getBoundingClientRect().height"
    folded = realistic_page.run(height)
    realistic_page.look(width=700, scheme="dark", media="print")
    assert realistic_page.run(height) > 2 * folded
    assert realistic_page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert realistic_page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    content, window = realistic_page.run(PAGE_WIDTH)
    assert content <= window


def test_hostile_names_are_read_as_they_are(realistic_page):
    shown = realistic_page.run("[...document.querySelectorAll('.heat tbody th bdi')].map((name) => name.textContent)")
    assert tuple(shown) == CLASSES
    assert realistic_page.run("document.querySelectorAll('[onmouseover]').length") == 0
