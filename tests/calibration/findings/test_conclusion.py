from dataclasses import replace

import numpy as np
import pytest

from calibration.findings import conclude
from calibration.results.image_columns import pack, pack_labels
from calibration.results.records import Probe, SelfCheck
from calibration.results.worst_case import worst_cases
from tests.calibration.report_samples import availability, cell, realistic, results
from tests.calibration.results.test_phrasing import spaced


def together(*rows):
    """Two attacks that fool different images."""
    whole = results(*(cell(f"a{place}", fooled=len(fooled)) for place, fooled in enumerate(rows)), benign=(0, 3))
    ones = []
    for one, fooled in zip(whole.cells, rows, strict=True):
        labels = whole.data.truth.copy()
        labels[list(fooled)] = (labels[list(fooled)] + 1) % 10
        accepted = np.zeros(1000, np.bool_)
        accepted[list(fooled)] = True
        said = replace(
            one.verdicts, labels=pack_labels(labels), accepted=pack(accepted, "u1"), passes=pack(accepted, "u1")
        )
        ones.append(replace(one, verdicts=said))
    return replace(whole, cells=tuple(ones), worst_cases=worst_cases(whole.benign.verdicts, whole.data.truth, ones))


def far():
    """An attack within an L2 ball."""
    one = cell("apgd", 2.0)
    return replace(one, parameters={**one.parameters, "norm": "l2"})


ASKED = {"probes": (Probe(purpose="decisions", of="IGS", cell=cell("square", 0.3)),)}
ADAPTIVE = {"adaptive": True, "threat": "nearly-white-box", "reading": "pair"}
WRONG_GRADIENT = (SelfCheck(file="guard.onnx", of=("logits",), relative_error=0.97, images=8, seed=0),)


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        pytest.param(results(), "untested", "Nothing was tried", id="no attack"),
        pytest.param(
            results(cell(fooled=420, rejected=500)),
            "falls",
            "Falls: grey-box z-star IGS at ε = 0.3 gets 42 % (39-45 %) of images accepted and wrong.",
            id="fooled",
        ),
        pytest.param(results(cell(fooled=51, rejected=900)), "falls", "Falls: ", id="just above"),
        pytest.param(
            results(cell(fooled=50, rejected=900), benign=(0, 3)),
            "undecided",
            "the interval reaches above 5 %",
            id="just not above",
        ),
        pytest.param(
            results(cell(fooled=0, rejected=20, n=20), n=20, benign=(0, 1)), "undecided", "0 % (0-16.8 %)", id="few"
        ),
        pytest.param(
            results(cell("fgs", fooled=0, zero_gradients=51), cell(fooled=9)),
            "undecided",
            "a sanity check failed, “every image has a gradient”: grey-box z-star FGS at ε = 0.3 found none for 51 of",
            id="no gradients",
        ),
        pytest.param(
            results(cell(), self_check=WRONG_GRADIENT), "undecided", "guard.onnx is off by 97.0 %", id="gradient"
        ),
        pytest.param(
            results(cell(fooled=10), cell("fgs", fooled=2)),
            "undecided",
            "Undecided: at most 1.0 % (0.5-1.8 %) of images accepted and wrong, by grey-box z-star IGS at ε = 0.3, but "
            "masked gradients would look the same: “gradients beat decisions” needs decision-only beside",
            id="nobody asked",
        ),
        pytest.param(
            results(cell(fooled=10), cell("fgs", fooled=2), **ASKED),
            "holds",
            "Holds against what was tried (up to ε = 0.3): at most 1.0 % (0.5-1.8 %) of images accepted and wrong, "
            "by grey-box z-star IGS at ε = 0.3",
            id="holds",
        ),
        pytest.param(
            results(cell(), far(), cell("pgd", 0.1), benign=(0, 3), **ASKED),
            "holds",
            "Holds against what was tried (up to ε = 0.3 and ε = 2 (L2)): at most",
            id="holds within the largest budget of each norm",
        ),
        pytest.param(
            results(cell(fooled=2, rejected=998), benign=(2, 998)),
            "undecided",
            "Undecided: without an attack 99.8 % (99.3-> 99.9 %) of 1000 images are rejected; a file that hardly",
            id="rejects everything",
        ),
        pytest.param(results(cell(), benign=(0, 500), **ASKED), "holds", "Holds", id="rejects no more than half"),
        pytest.param(
            results(cell("pgd", 0.0), cell("igs", 0.0), benign=(0, 3)),
            "undecided",
            "Undecided: ε = 0 allows no change at all; attack it within a larger one.",
            id="no budget to change anything",
        ),
        pytest.param(
            results(cell(), cell("fgs"), benign=(0, 3), **ASKED),
            "holds",
            "by any attack below",
            id="nothing fooled at all",
        ),
        pytest.param(
            results(cell(fooled=10), availability=availability(1000, one=0.9)),
            "undecided",
            "a sanity check failed, “harmless changes are accepted”: one grey level brighter: 90 % (88-92 %) accepted",
            id="rejects what is near",
        ),
        pytest.param(
            results(cell("cw", None, 1000, 0), cell(fooled=10), benign=(0, 3), **ASKED),
            "holds",
            "at most 2.5 % (1.6-3.7 %) of images accepted and wrong, by all attacks together within ε = 0.3.",
            id="an unbounded attack counts within the budgets of others",
        ),
        pytest.param(results(cell("cw", None, 300, 0)), "falls", "C&W L2 at κ = 40 gets 30 %", id="unbounded alone"),
        pytest.param(realistic(), "falls", "Falls: nearly-white-box pair PGD at ε = 0.3 gets 78 %", id="realistic"),
    ],
)
def test_verdict(found, kind, words):
    finding = conclude(found)
    assert finding.kind == kind
    assert words in spaced(finding.sentence)


def test_attacks_that_fail_one_by_one_may_succeed_together():
    found = conclude(together(range(30), range(30, 60)))
    assert found.kind == "falls"
    assert spaced(found.sentence).startswith("Falls: all attacks together within ε = 0.3 get 6.0 %")


def test_a_probe_that_fools_counts_unless_it_was_unbounded():
    weak, strong = cell(fooled=10), cell(fooled=200, rejected=800)
    for purpose, kind in (("doubled", "falls"), ("unbounded", "undecided")):
        found = conclude(results(weak, probes=(Probe(purpose=purpose, of="IGS", cell=strong),)))
        assert found.kind == kind
    doubled = conclude(results(weak, probes=(Probe(purpose="doubled", of="IGS", cell=strong),)))
    assert "IGS at ε = 0.3 with steps and restarts doubled gets 20 %" in spaced(doubled.sentence)


@pytest.mark.parametrize(
    ("found", "cost"),
    [
        pytest.param(
            results(availability=()),
            "Without an attack 0.3 % (0.1-0.9 %) of the images are rejected; "
            "what harmless changes do was not measured.",
            id="not measured",
        ),
        pytest.param(
            results(availability=availability(1000, one=0.003)),
            "Without an attack 0.3 % (0.1-0.9 %) of the images are rejected, "
            "and 99.7 % (99.1-99.9 %) after a harmless change (one grey level brighter).",
            id="measured",
        ),
    ],
)
def test_what_the_defence_costs(found, cost):
    assert spaced(conclude(found).cost) == cost


def test_an_attack_that_falls_wins_over_every_doubt():
    found = results(cell(fooled=60, rejected=900), cell("fgs", zero_gradients=900), self_check=WRONG_GRADIENT)
    assert conclude(found).kind == "falls"


@pytest.mark.parametrize(
    ("cells", "scope"),
    [
        pytest.param([], "No attack that knows the rule was run: this says nothing about one.", id="none"),
        pytest.param([cell()], "No attack that knows the rule was run: this says nothing about one.", id="ignorant"),
        pytest.param(
            [cell("pgd", **ADAPTIVE)], "1 of 1 attacks know the rule, the strongest among them.", id="adaptive"
        ),
        pytest.param(
            [cell("pgd", fooled=300, rejected=0, **ADAPTIVE), cell(fooled=20)],
            "1 of 2 attacks know the rule, the strongest among them. "
            "Attacks that ignore the rule get 2.0 % (1.2-3.1 %) at most.",
            id="adaptive is worst",
        ),
        pytest.param(
            [cell("pgd", fooled=2, **ADAPTIVE), cell(fooled=20)],
            "1 of 2 attacks know the rule; the best of them, nearly-white-box pair PGD at ε = 0.3, "
            "gets 0.2 % (< 0.1-0.7 %). Attacks that ignore the rule get 2.0 % (1.2-3.1 %) at most.",
            id="adaptive is weaker",
        ),
    ],
)
def test_scope_always_says_whether_an_attack_knew_the_rule(cells, scope):
    assert spaced(conclude(results(*cells)).scope) == scope
