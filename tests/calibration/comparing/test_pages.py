import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from calibration.comparing import compare
from calibration.comparing.figure import comparison_figure
from calibration.comparing.pages import THRESHOLDS, caution, headline, render_page, render_table, write_comparison
from calibration.comparing.published import published_for
from tests.calibration import browser
from tests.calibration.defence_samples import attack, defence, many
from tests.calibration.report.test_browser import CONTRASTS, PAGE_WIDTH, SMALLEST_CONTRAST

HOSTILE = "<script>alert(1)</script> | **x** {{ 7 }}"


def realistic():
    rows = [
        many("hardened", 0.05),
        many("pgd", 0.12),
        many("trades", 0.15, 200),
        many("cmt", 0.9),
        many("none", 1.02, 200),
        replace(many("ccat", 0.3, 200), command=HOSTILE, complete=False),
    ]
    found = compare(
        [(f"{number}.json", one) for number, one in enumerate(rows)], awaited=["magnet"], command="cmt compare"
    )
    return replace(found, published=published_for("data/MNIST/"))


@pytest.fixture(scope="module")
def comparison():
    return realistic()


def test_table_has_one_row_a_defence_and_every_figure(comparison):
    lines = render_table(comparison).splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| defence | clean"))
    rows = lines[head + 2 : head + 2 + len(comparison.defences) + 1]
    assert [re.split(r"<br>| \|", row)[0] for row in rows[:2]] == ["| hardened", "| pgd"]
    assert {row.count("|") for row in rows} == {11}
    for words in ("wrong or rejected", "wrong label", "RErr", "1000 images, 5 starts", "calibrated to 99 %"):
        assert words in rows[0]
    assert "not run: decision-only Square" in next(row for row in rows if row.startswith("| trades"))
    assert "unfinished" in next(row for row in rows if row.startswith("| ccat"))
    assert rows[-1].startswith("| magnet | not run yet")


def test_what_others_published_stands_apart(comparison):
    text = render_table(comparison)
    measured, published = text.split("## Published by others, not measured here")
    assert "Gowal" not in measured
    assert re.search(
        r"\| CCAT \| ε = 0\.3 \| RErr at 99 % \| 7\.4 % \|.*could not be checked", published.replace("\xa0", " ")
    )
    assert re.search(r"3\.66 %.*checked there", published)
    assert published_for("digits") == published_for("mnist-c") == published_for("/tmp/mnistm") == ()


def test_a_threshold_that_was_not_attacked_is_said_everywhere():
    found = compare([("a", defence("none", attack({0}), calibration=None))])
    assert THRESHOLDS["re-chosen"] in render_table(found)
    assert THRESHOLDS["re-chosen"] in render_page(found)


@pytest.mark.parametrize("render", [render_table, render_page], ids=["table", "page"])
def test_hostile_names_stay_text(render):
    made = defence("cmt", attack({0}))
    made = replace(made, model=replace(made.model, recipe={"name": HOSTILE}, file=HOSTILE))
    text = render(compare([("a", made)]))
    assert "<script>" not in text
    assert "alert(1)" in text


def test_headline_names_the_first_row_and_its_worst_budget(comparison):
    assert headline(comparison).startswith("First of 6 defences is hardened: accepted and wrong on 4.8")
    assert caution(comparison) == ""
    alone = compare([("a", defence("cmt", attack({0})))])
    assert headline(alone).startswith("cmt: accepted and wrong on 10")


def test_whose_distance_chance_may_explain_stands_everywhere():
    rows = [defence("a", attack({0})), defence("b", attack({0, 1})), defence("c", attack({0, 1, 2}))]
    rows += [defence("d", attack({0, 1, 2, 3})), defence("e", attack(range(10)))]
    found = compare([(one.model.file, one) for one in rows])
    assert caution(found) == "Chance may explain its lead over b, c and d."
    assert caution(found) in render_table(found)
    assert caution(found) in render_page(found)
    assert caution(compare([("a", rows[0]), ("b", rows[1])])) == "Chance may explain its lead over b."
    assert caution(compare([("e", rows[4]), ("a", rows[0])], order="given")) == ""


@pytest.mark.parametrize("page", [False, True], ids=["file", "page"])
def test_figure_names_every_defence_and_repeats(comparison, page):
    drawn = comparison_figure(comparison, page=page)
    assert drawn == comparison_figure(comparison, page=page)
    text = " ".join(
        "".join(element.itertext()) for element in ET.fromstring(drawn).iter() if element.tag.endswith("text")
    )
    for row in comparison.defences:
        assert row.name in text
    assert ("var(--line-0)" in drawn) is page
    assert comparison_figure(compare([("a", defence("none"))]), page=page) == ""


@pytest.fixture(scope="module")
def tab(tmp_path_factory, comparison):
    program = browser.find()
    if program is None:
        pytest.fail(f"expected {' or '.join(browser.NAMES)} on PATH, got none; apt-get install chromium")
    opened = browser.Tab(program, tmp_path_factory.mktemp("profile"))
    *_, page = write_comparison(comparison, tmp_path_factory.mktemp("defences"))
    opened.open(page.as_uri())
    yield opened
    opened.close()


def test_page_in_a_browser(tab):
    """One visit: it loads nothing, never scrolls sideways, reads well in both schemes, and prints on white."""
    assert tab.complaints() == []
    assert tab.run("document.scripts.length") == 0
    assert len(tab.requests()) == 1
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    for width in (320, 360, 768, 1089, 1280):
        tab.look(width=width)
        content, window = tab.run(PAGE_WIDTH)
        assert content <= window == width
    for scheme in ("light", "dark"):
        tab.look(scheme=scheme)
        poor = {name: value for name, value in tab.run(CONTRASTS).items() if value < SMALLEST_CONTRAST}
        assert poor == {}
    tab.look(width=700, scheme="dark", media="print")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.look()
    assert tab.run("[...document.querySelectorAll('a[href^=\"#\"]')].every((a) => document.querySelector(a.hash))")
    reachable = "[...document.querySelectorAll('.scroll')].every((one) => one.tabIndex === 0 && one.ariaLabel)"
    assert tab.run(reachable)
    assert tab.run("document.querySelectorAll('.wide-plot svg path').length") > 20
