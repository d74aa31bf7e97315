import pytest

from calibration.findings import FALLS_ABOVE, conclude, warnings
from calibration.results import SelfCheck, Source
from tests.calibration.report_samples import cell, realistic, results, with_model
from tests.calibration.test_phrasing import spaced

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
            results(cell(fooled=50, rejected=900)), "undecided", "the interval reaches above 5 %", id="just not above"
        ),
        pytest.param(results(cell(fooled=0, rejected=20, n=20), n=20), "undecided", "0 % (0-16.8 %)", id="few images"),
        pytest.param(
            results(cell("fgs", fooled=0, zero_gradients=51), cell(fooled=9)),
            "undecided",
            "FGS at ε = 0.3 found no gradient for 51 of 1000 images, so they were never attacked.",
            id="no gradients",
        ),
        pytest.param(results(cell(), self_check=WRONG_GRADIENT), "undecided", "guard.onnx is wrong", id="gradient"),
        pytest.param(
            results(cell(fooled=10), cell("fgs", fooled=2)),
            "holds",
            "Holds against what was tried: at most 1.0 % (0.5-1.8 %) of images accepted and wrong, by grey-box",
            id="holds",
        ),
        pytest.param(results(cell(), cell("fgs")), "holds", "by any attack below", id="nothing fooled at all"),
        pytest.param(realistic(), "falls", "Falls: nearly-white-box pair PGD at ε = 0.3 gets 78 %", id="realistic"),
    ],
)
def test_verdict(found, kind, words):
    finding = conclude(found)
    assert finding.kind == kind
    assert words in spaced(finding.sentence)


def test_an_attack_that_falls_wins_over_every_doubt():
    found = results(cell(fooled=60, rejected=900), cell("fgs", zero_gradients=900), self_check=WRONG_GRADIENT)
    assert conclude(found).kind == "falls"


@pytest.mark.parametrize(
    ("cells", "scope"),
    [
        pytest.param([], "No attack that knows the rule was run: this says nothing about one.", id="none"),
        pytest.param([cell()], "No attack that knows the rule was run: this says nothing about one.", id="ignorant"),
        pytest.param([cell("pgd", **ADAPTIVE)], "1 of 1 attacks know the rule, this one among them.", id="adaptive"),
        pytest.param(
            [cell("pgd", fooled=300, rejected=0, **ADAPTIVE), cell(fooled=20)],
            "1 of 2 attacks know the rule, this one among them. "
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


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param(results(complete=False), "stopped early", id="incomplete"),
        pytest.param(results(n=99, benign=(1, 1)), "Only 99 images", id="few"),
        pytest.param(
            with_model(results(), rule="confidence", classmap=None, threshold=0.0), "no defence", id="no rule"
        ),
        pytest.param(results(self_check=WRONG_GRADIENT), "off by 97 %", id="gradient"),
        pytest.param(results(cell("fgs", zero_gradients=3)), "zero everywhere for 3 of 1000 images", id="masking"),
        pytest.param(
            results(cell("fgs", zero_gradients=3), cell("igs", zero_gradients=9), cell("pgd")),
            "IGS at ε = 0.3 was zero everywhere for 9 of 1000 images, and of 1 further attacks for no larger share",
            id="masking of several attacks",
        ),
        pytest.param(
            results(cell(source=Source(file="q.onnx", digest="d", sha256="s", tensor="logits", straight_through=True))),
            "q.onnx is quantised: gradients pass straight through its roundings",
            id="quantised",
        ),
        pytest.param(results(benign=(80, 3)), "Without any attack 8.0 %", id="benign errors"),
    ],
)
def test_each_warning_is_raised_by_its_reason_alone(found, words):
    (warning,) = warnings(found)
    assert words in spaced(warning)


def test_sound_results_raise_no_warning():
    assert warnings(results(cell(), benign=(int(FALLS_ABOVE * 1000), 3))) == ()
