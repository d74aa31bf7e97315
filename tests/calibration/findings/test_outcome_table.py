import re
from dataclasses import replace

import pytest

from calibration.findings.outcome_table import (
    DETECTION_HEADINGS,
    HEADINGS,
    detection_rows,
    outcome_rows,
    print_outcomes,
)
from calibration.metrics import Counts, rate
from calibration.results.records import Probe, Score
from tests.calibration.small_results import cell, results


def test_rows_begin_with_the_worst_case_then_benign_images_then_cells_in_their_order():
    rows = outcome_rows(results(cell(strength=10), cell(strength=30, fooled=5, epsilon=8 / 255)))
    assert [row[:2] for row in rows] == [
        ("anybody", "all together, ε = 0.1"),
        ("anybody", "all together, ε = 8/255"),
        ("nobody", "none"),
        ("grey-box z-star", "IGS at ε = 8/255"),
        ("grey-box z-star", "IGS at ε = 0.1"),
    ]
    assert all(len(row) == len(HEADINGS) for row in rows)
    assert rows[0][2:] == ("50.0 % (18.7\N{EN DASH}81.3 %)", "-", "50.0 % (18.7\N{EN DASH}81.3 %)", "-", "-")
    assert dict(zip(HEADINGS, rows[3], strict=True))["fooled"] == "50.0 % (18.7\N{EN DASH}81.3 %)"
    assert rows[3][-1] == "50.0 % of 10"


def test_adaptive_attacks_have_a_worst_case_of_their_own():
    rows = outcome_rows(results(cell(), cell(attack="pgd", adaptive=True, fooled=4)))
    assert [row[:1] for row in rows[:3]] == [("anybody",), ("knowing the rule",), ("nobody",)]


def test_detection_has_every_figure_or_says_that_it_is_undefined():
    found = results(cell(fooled=2), cell(fooled=0, epsilon=0.3))
    rows = detection_rows(found)
    assert all(len(row) == len(DETECTION_HEADINGS) for row in rows)
    attacked, in_vain = (dict(zip(DETECTION_HEADINGS, row, strict=True)) for row in rows[2:])
    assert attacked["fooled at 99 %"].startswith("20.0 % (2.5")
    assert attacked["AUROC"].startswith("50.0 % (")
    assert in_vain["AUROC"] == in_vain["TPR at 1 %"] == "undefined"


def test_error_of_a_rule_that_rejects_everything_is_undefined():
    nothing = Counts(n=8, correct=0, rejected=8, fooled=0, right_label=2)
    rows = outcome_rows(replace(results(), benign=Score(counts=nothing, rates=rate(nothing), verdicts=None)))
    assert rows[0][-1] == "undefined of 0"


def test_plain_lines_are_aligned_and_warnings_go_to_standard_error(capsys):
    print_outcomes(results(cell(fooled=7), complete=False))
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("Falls: grey-box z-star IGS at ε = 0.1 gets 70 %")
    assert "No attack that knows the rule was run" in lines[1]
    assert lines[2].startswith("Without an attack 0 % (0\N{EN DASH}30.8 %) of the images are rejected; what")
    assert lines[3].endswith("of 17 sanity checks were not run; --sanity runs most of them.")
    heading, worst, benign, attacked, legend = lines[4:9]
    assert legend == "10 images; in brackets 95 % intervals"
    assert worst.startswith("anybody")
    assert lines[9].split()[:3] == ["attacker", "attack", "fooled"]
    assert lines[-1].startswith("at 99 %")
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
    assert max(map(len, shown.splitlines()[4:])) <= columns


def test_a_failed_sanity_check_is_said_before_the_tables(capsys):
    few, many = cell(fooled=9, epsilon=0.1), cell(fooled=1, epsilon=0.3)
    print_outcomes(results(few, many))
    lines = capsys.readouterr().out.splitlines()
    expected = "Failed sanity check: expected that a larger budget succeeds more, got grey-box z-star IGS at ε = 0.1: 9"
    assert lines[3].startswith(expected)


def test_checks_that_could_still_be_run_are_named(capsys):
    probe = Probe(purpose="doubled", of="x", cell=cell())
    print_outcomes(results(cell(), probes=(probe,)))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "were not run" in line]
    assert "were not run: many steps beat one step, knowing the file beats transfer, " in line


def test_results_without_verdicts_have_one_table(capsys):
    old = replace(cell(), verdicts=None, changes=None, detection=None)
    print_outcomes(results(old))
    assert "AUROC" not in capsys.readouterr().out
