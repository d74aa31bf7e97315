import re
from dataclasses import replace

import pytest

from calibration.report.model_card import escape, render_card, write_card
from calibration.sanity import CHECKS
from runtime.errors import CmtError
from tests.calibration import small_results
from tests.calibration.report_samples import HOSTILE, cell, realistic, results, with_model
from tests.calibration.results.test_phrasing import spaced


def headings(card):
    return [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]


def tables(card):
    """Every table as a list of rows; each row has as many cells as its heading."""
    found, current = [], []
    for line in [*card.splitlines(), ""]:
        if line.startswith("|"):
            current.append([part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif current:
            assert len({len(row) for row in current}) == 1, current[0]
            assert all(set(part) <= {"-"} for part in current[1])
            found.append(current)
            current = []
    return found


def test_the_verdict_comes_first_and_everything_follows():
    card = render_card(realistic())
    lines = [line for line in card.splitlines() if line]
    assert lines[0].startswith("# out/\\<b\\>guard\\</b\\> it's.onnx")
    assert spaced(lines[1]).startswith("Falls: nearly-white-box pair PGD at ε = 0.3 gets 78 %")
    assert headings(card) == [
        *("Failed sanity checks", "Read the figures with care", "In short", "All attacks together", "Every attack"),
        *("Availability", "Sanity checks", "The file", "Repeat it"),
    ]
    rows = {table[0][0]: len(table) - 2 for table in tables(card)}
    found = realistic()
    assert rows["attacker"] == len(found.cells)
    assert rows["within"] == len(found.worst_cases)
    assert rows["change of benign images"] == len(found.availability)
    assert rows["check"] == len(CHECKS)


def test_hostile_names_are_text():
    card = render_card(realistic())
    outside = "\n".join(line for line in card.splitlines() if not line.startswith("    "))
    assert HOSTILE not in outside
    assert "\\<script\\>alert(1)\\</script\\>" in outside


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("line\nbreak\r\n# heading", "line break  \\# heading"),
        ("<img src=x>", "\\<img src=x\\>"),
        ("[a](b)", "\\[a\\](b)"),
        ("`x` *y* _z_", "\\`x\\` \\*y\\* \\_z\\_"),
        ("\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}\ud800x", "\\[31mx"),
        ("back\\slash", "back\\\\slash"),
    ],
    ids=["pipe", "lines", "tag", "link", "marks", "controls", "backslash"],
)
def test_markdown_shows_text_as_it_is(text, shown):
    assert escape(text) == shown


def test_a_command_cannot_leave_its_block():
    card = render_card(replace(realistic(), command="cmt attack x\n\n# Holds\n```\n<b>"))
    (line,) = [line for line in card.splitlines() if "cmt attack x" in line]
    assert line == "    cmt attack x  # Holds ``` <b>"


@pytest.mark.parametrize(
    "found",
    [
        results(),
        results(cell()),
        results(cell(fooled=0, rejected=1000), benign=(0, 1000)),
        with_model(results(cell()), rule="confidence", classmap=None),
        small_results.results(replace(small_results.cell(), verdicts=None, changes=None, detection=None)),
    ],
    ids=["nothing tried", "one attack", "everything rejected", "single head", "schema 1"],
)
def test_every_kind_of_results_makes_a_card(found):
    card = render_card(found)
    assert tables(card)
    assert "\n\n\n\n" not in card
    assert render_card(found) == card


def test_commands_of_every_part_are_there():
    first, second = results(command="cmt one"), results(command="cmt two")
    card = render_card(first, parts=(first, second))
    assert "    cmt one\n    cmt two\n" in card


def test_file_is_whole_or_absent(tmp_path):
    write_card(realistic(), tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == render_card(realistic())
    with pytest.raises(CmtError, match="expected to write it"):
        write_card(realistic(), tmp_path / "no" / "card.md")
