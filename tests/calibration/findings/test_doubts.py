import pytest

from calibration.findings import FALLS_ABOVE
from calibration.findings.doubts import warnings
from calibration.results.records import Source
from tests.calibration.findings.test_conclusion import WRONG_GRADIENT
from tests.calibration.report_samples import cell, results, with_model
from tests.calibration.results.test_phrasing import spaced


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
            "q.onnx rounds on the way: gradients pass straight through its roundings",
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
