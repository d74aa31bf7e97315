import re
from dataclasses import replace

import pytest

from calibration.metrics import Counts, rate
from calibration.outcome_table import HEADINGS, outcome_rows, print_outcomes
from calibration.results import Score
from tests.calibration.small_results import cell, results


def test_rows_begin_with_the_benign_images_and_keep_the_order_of_the_cells():
    rows = outcome_rows(results(cell(strength=10), cell(strength=30, fooled=5, epsilon=8 / 255)))
    assert [row[:2] for row in rows] == [
        ("nobody", "none"),
        ("grey-box z-star", "IGS at ε = 8/255"),
        ("grey-box z-star", "IGS at ε = 0.1"),
    ]
    assert all(len(row) == len(HEADINGS) for row in rows)
    assert dict(zip(HEADINGS, rows[1], strict=True))["fooled"] == "50.0 % (18.7\N{EN DASH}81.3 %)"
    assert rows[1][-1] == "50.0 % of 10"


def test_error_of_a_rule_that_rejects_everything_is_undefined():
    nothing = Counts(n=8, correct=0, rejected=8, fooled=0, right_label=2)
    rows = outcome_rows(replace(results(), benign=Score(counts=nothing, rates=rate(nothing))))
    assert rows[0][-1] == "undefined of 0"


def test_plain_lines_are_aligned_and_warnings_go_to_standard_error(capsys):
    print_outcomes(results(cell(fooled=7), complete=False))
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("Falls: grey-box z-star IGS at ε = 0.1 gets 70 %")
    assert "No attack that knows the rule was run" in lines[1]
    heading, benign, attacked, legend = lines[2:]
    assert legend == "10 images; in brackets 95 % intervals"
    assert heading.index("fooled") == benign.index("0 %") == attacked.index("70.0 %")
    assert "warning: The evaluation was stopped early" in captured.err
    assert all(sign.isprintable() for line in (captured.out + captured.err).splitlines() for sign in line)


def test_names_cannot_steer_a_terminal(capsys):
    print_outcomes(results(replace(cell(fooled=7), threat="\x1b[2J[red]", attack="\x07")))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize("columns", [80, 200])
def test_table_on_a_terminal_breaks_no_number(monkeypatch, capsys, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    print_outcomes(results(cell(fooled=7), cell(fooled=10, epsilon=8 / 255)))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for text in (
        "70.0 %",
        "34.8\N{EN DASH}93.3",
        "grey-box z-star",
        "IGS at ε = 8/255",
        "of 10",
        "10 images",
        "accepted",
    ):
        assert text in shown
    assert max(map(len, shown.splitlines()[2:])) <= columns
