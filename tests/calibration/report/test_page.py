import base64
import hashlib
import itertools
import re
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from calibration.report import render_report, write_report
from calibration.results import Results
from calibration.results.joining import join
from calibration.results.records import Probe
from calibration.sanity import CHECKS, check_sanity
from runtime.errors import CmtError, UsageError
from tests.calibration.report_samples import CLASSES, HOSTILE, cell, examples, realistic, results, with_model
from tests.calibration.results.test_phrasing import spaced

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Every element with its attributes and text; fails on tags that do not nest."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack = [], []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = {"tag": tag, "text": "", **{f"@{name}": value for name, value in attrs}}
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **{f"@{name}": value for name, value in attrs}})

    def handle_endtag(self, tag):
        assert self.stack.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.stack:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    def texts(self, tag):
        return [" ".join(spaced(element["text"]).split()) for element in self.all(tag)]

    def attributes(self):
        return [(name[1:], value) for element in self.elements for name, value in element.items() if name[0] == "@"]


VARIANTS = {
    "realistic": realistic(),
    "nothing tried": results(),
    "one attack": results(cell()),
    "no rule": with_model(results(cell(fooled=900, rejected=0)), rule="confidence", classmap=None, threshold=0.0),
    "everything rejected": results(cell(fooled=0, rejected=1000), benign=(0, 1000)),
    "no matrix": with_model(results(cell()), training={"data": "0" * 64}),
    "colourless names": with_model(results(cell()), classes=tuple("\N{SPACE}" * (1 + label) for label in range(10))),
}


@pytest.fixture(scope="module")
def page():
    return Page(render_report(realistic()))


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def html(request):
    return render_report(request.param)


def test_nothing_on_the_page_can_load_or_run(html):
    found = Page(html)
    assert not {"script", "iframe", "object", "embed", "base", "form", "foreignobject"} & {
        e["tag"] for e in found.elements
    }
    for name, value in found.attributes():
        assert not name.startswith("on")
        assert name != "style"
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value == "data:," or value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", html)


def test_the_policy_allows_this_style_sheet_and_nothing_else(html):
    found = Page(html)
    (policy,) = [e["@content"] for e in found.all("meta") if e.get("@http-equiv") == "Content-Security-Policy"]
    (style,) = found.texts("style")
    digest = base64.b64encode(
        hashlib.sha256(re.search("<style>(.*?)</style>", html, re.S)[1].encode()).digest()
    ).decode()
    assert style
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_references_and_headings_are_sound(html):
    found = Page(html)
    identifiers = Counter(value for name, value in found.attributes() if name == "id")
    assert max(identifiers.values()) == 1
    for name, value in found.attributes():
        if name == "aria-labelledby" or (name == "href" and value.startswith("#")):
            assert value.lstrip("#") in identifiers
        for reference in re.findall(r"url\(#([^)]*)\)", value or ""):
            assert reference in identifiers
    levels = [int(e["tag"][1]) for e in found.elements if re.fullmatch("h[1-6]", e["tag"])]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tables_and_pictures_have_words(html):
    found = Page(html)
    assert len(found.all("caption")) == len(found.all("table")) > 0
    assert all("@scope" in e for e in found.all("th"))
    assert all(e.get("@alt") for e in found.all("img"))
    assert all(e.get("@aria-label") or e.get("@aria-hidden") == "true" for e in found.all("svg"))
    assert found.all("html")[0]["@lang"] == "en"


def test_the_first_words_are_the_verdict(page):
    assert page.texts("h1") == [
        "Falls: nearly-white-box pair PGD at ε = 0.3 gets 78 % (75-81 %) of images accepted and wrong."
    ]
    assert page.texts("title")[0].startswith("Falls: ")
    text = " ".join(page.texts("main"))
    assert "3 of 13 attacks know the rule" in text
    assert "stopped early" in text
    assert "zero everywhere for 31 of 1000 images" in text


ASKED = Probe(purpose="decisions", of="IGS", cell=cell("square"))


@pytest.mark.parametrize(
    "found", [results(), results(cell(), probes=(ASKED,))], ids=["no attack", "no adaptive attack"]
)
def test_a_page_without_adaptive_attack_says_so_and_is_not_green(found):
    shown = Page(render_report(found))
    assert "No attack that knows the rule was run: this says nothing about one." in " ".join(shown.texts("section"))
    (verdict,) = [e["@class"] for e in shown.all("div") if e.get("@class", "").startswith("verdict")]
    assert {"untested", "unproven"} & set(verdict.split())


def test_every_row_shows_counts_intervals_and_coverage(page):
    rows = [row for row in page.texts("tr") if row.startswith(("No attack", "PGD", "IGS", "FGS", "C&W"))]
    assert len(rows) == 1 + len(realistic().cells)
    assert rows[0] == (
        "No attack 0.6 %0.2-1.3 % 0.3 %0.1-0.9 % 99.1 %98.3-99.6 % 0.6 %of the 99.7 % accepted 99.3 %98.6-99.7 % none"
    )
    (rejecting,) = [row for row in rows if row.startswith("C&W L2 at κ = 40")]
    assert "undefinednothing was accepted" in rejecting
    bars = [e["@aria-label"] for e in page.all("svg") if e.get("@role") == "img"]
    assert spaced(bars[1]) == "accepted and wrong 78.0 %, rejected 21.5 %, correct 0.5 %"


def test_what_a_manager_needs_stands_on_the_first_screen(page):
    sections = page.texts("section")
    first = sections[0]
    order = [
        "Does not withstand",
        "Withstands",
        "Costs benign users",
        "Failed sanity checks",
        "Read the figures with care",
    ]
    assert [first.index(words) for words in order] == sorted(first.index(words) for words in order)
    assert "nearly-white-box pair, knows the rulePGD at ε = 0.3 fools 78 % (75-81 %)" in first
    assert "99.7 % (99.1-99.9 %) after a harmless change (one grey level brighter)" in first
    assert "Expected: harmless changes are accepted. Got: one grey level brighter: 0.3 %" in first
    assert sections[1].startswith("All attacks together")


def test_all_attacks_together_stand_before_each(page):
    found = realistic()
    rows = [row for row in page.texts("tr") if re.match(r"(ε = [\d/.]+|any change)(any|knowing the rule)", row)]
    assert len(rows) == len(found.worst_cases)
    assert rows[0].startswith("ε = 0.3any1378.0 %75.3-80.5 %")


def test_figures_of_detection_are_there_with_coverage_and_reasons(page):
    rows = [row for row in page.texts("tr") if row.startswith("nearly-white-box pair PGD at ε = 0.3")]
    (row,) = [row for row in rows if "of attacks accepted" in row]
    assert "78.5 % of attacks accepted" in row
    vain = Page(render_report(results(cell("fgs", fooled=0, rejected=0))))
    (row,) = [row for row in vain.texts("tr") if row.startswith("grey-box z-star FGS at ε = 0.3 undefined")]
    assert "undefinedno attacked image has a wrong label" in row


def test_sanity_checks_have_a_verdict_each(page):
    (section,) = [text for text in page.texts("section") if text.startswith("Sanity checks")]
    verdicts = [one.verdict.capitalize() for one in check_sanity(realistic())]
    assert Counter(verdicts) == Counter(re.findall("(Passed|Failed|Not run) ?(?=[A-Z])", section))
    for check in CHECKS:
        assert check.explanation in section


def test_availability_is_a_table(page):
    rows = [row for row in page.texts("tr") if row.startswith("JPEG, quality 95")]
    assert rows == ["JPEG, quality 95harmless99.7 %99.1-99.9 %99.0 %98.2-99.5 %"]


def test_several_results_stand_on_one_page():
    first, second = results(cell()), results(cell("fgs", fooled=3), command="cmt attack again")
    found = Page(render_report(join([first, second]), parts=(first, second)))
    commands = [e["text"] for e in found.all("pre") if e.get("@class") == "command"]
    assert commands[1:3] == [first.command, "cmt attack again"]
    assert "Where a row has another number of images, it says so." in " ".join(found.texts("caption"))


def test_rows_on_fewer_images_say_so():
    many, few = results(cell()), results(cell("fgs", rejected=490, n=500), n=500)
    found = Page(render_report(join([many, few]), parts=(many, few)))
    assert any(row.startswith("FGS at ε = 0.3500 images") for row in found.texts("tr"))


def test_results_of_schema_1_make_a_page():
    one = replace(cell(), verdicts=None, changes=None, detection=None)
    old = replace(results(), cells=(one,), worst_cases=(), availability=(), logits_checks=(), repetition=None)
    old = replace(old, benign=replace(old.benign, verdicts=None), data=replace(old.data, labels=None))
    found = Page(render_report(old))
    assert "what harmless changes do was not measured" in " ".join(found.texts("section"))
    assert "Detection" not in found.texts("h2")


def test_bars_are_whole(html):
    for bar in re.findall(r'<svg class="bar".*?</svg>', html, re.S):
        widths = [
            float(width) for width in re.findall(r'class="(?!hatch)\w+" x="[\d.]+%" y="0" width="([\d.]+)%"', bar)
        ]
        assert sum(widths) == pytest.approx(100, abs=0.01)


def test_adaptive_attacks_come_first(page):
    groups = [e["text"] for e in page.all("th") if e.get("@scope") == "rowgroup"]
    assert [group.split(" ")[0] for group in groups] == ["nearly-white-box", "grey-box", "grey-box", "black-box"]
    assert "does not know" not in groups[0]
    assert all("does not know the rule" in group for group in groups[1:])
    assert "The guard itself, its logits Z*" in groups[1]


def test_hostile_names_are_text(page):
    html = render_report(realistic())
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10
    names = set(page.texts("bdi"))
    assert {" ".join(name.split()) for name in CLASSES} <= names
    assert "out/<b>guard</b> it's.onnx" in names


def test_lone_surrogates_and_controls_still_make_a_file(tmp_path):
    found = with_model(results(cell()), classes=("\ud800", "\x00", "\x1b[31m", *CLASSES[3:]))
    write_report(found, tmp_path / "report.html")
    assert "\\ud800" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_commands_repeat_it(page, tmp_path):
    check, attack, report = [e["text"] for e in page.all("pre") if e.get("@class") == "command"]
    assert attack == realistic().command
    assert report.startswith("cmt report ")
    file = tmp_path / realistic().model.file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"the file")
    real = check.replace(realistic().model.sha256, hashlib.sha256(b"the file").hexdigest())
    assert subprocess.run(["bash", "-c", real], cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert subprocess.run(["bash", "-c", check], cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_settings_are_complete(page):
    text = " ".join(page.texts("main"))
    found = realistic()
    for value in (found.model.sha256, found.model.digest, found.model.graph, found.data.digest, "1.32.0", "0.731"):
        assert value in text
    assert "random_start = False, seed = 0, step_size = 0.0375, steps = 20" in text
    assert " ".join(map(str, found.data.sample)) in text
    assert '"lock": "trained"' in text


def test_gallery_shows_every_example_with_its_outcome(page):
    captions = [caption for caption in page.texts("figcaption") if "It shows" in caption]
    assert len(captions) == sum(len(one.examples) for one in realistic().cells)
    assert Counter(caption.split(":")[0] for caption in captions) == {"Fooled": 4, "Rejected": 8, "Correct": 4}
    assert [e for e in page.all("details") if "@open" in e] == page.all("details")[:1]


def test_same_results_same_page():
    found = results(cell(epsilon=0.1), cell(epsilon=0.3, fooled=20), cell("cw", None, 5, 0))
    assert render_report(found) == render_report(Results.from_json(found.to_json()))


@pytest.mark.parametrize("label", [10, -2], ids=["too large", "too small"])
def test_labels_without_a_class_are_refused(label):
    bad = replace(examples(0.3)[0], label=label)
    with pytest.raises(UsageError, match=f"expected labels from -1 to 9, got {label}"):
        render_report(results(cell(examples=(bad,))))


def test_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "report.html"
    write_report(results(cell()), path)
    assert path.read_text(encoding="utf-8") == render_report(results(cell()))
    before = path.read_bytes()
    bad = replace(examples(0.3)[0], attacked_image="%")
    with pytest.raises(UsageError, match="expected a PNG"):
        write_report(results(cell(examples=(bad,))), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(CmtError, match="expected to write it, got: No such file or directory"):
        write_report(results(), tmp_path / "no" / "report.html")
