import numpy as np
import pytest

from calibration.detection import Scores
from calibration.metrics import share
from calibration.results.detection_figures import detection_figures


def scores(*images):
    confidence, passes, right = zip(*images, strict=True)
    return Scores(confidence=np.array(confidence, np.float32), passes=np.array(passes), right=np.array(right))


BENIGN = [(0.9, True, True)] * 100
REFUSED, FOOLED, SURE = (0.9, False, False), (0.5, True, False), (0.95, True, False)


def test_every_figure_by_hand():
    found = detection_figures(scores(*BENIGN), scores(*[FOOLED] * 30, *[SURE] * 20, *[REFUSED] * 50), threshold=0.4)
    assert found.auroc.value == pytest.approx(0.8)
    assert found.tpr_at_1_fpr == found.tpr_at_5_fpr == share(0, 100)
    assert found.robust_error == share(50, 100)
    assert found.threshold_at_99 == pytest.approx(0.9)
    assert (found.robust_error_at_99, found.benign_error_at_99) == (share(20, 100), share(0, 100))
    assert found.fooled_at_99 == share(20, 100)
    assert (found.precision, found.recall) == (share(50, 50), share(50, 100))
    assert found.wrong_or_rejected == share(100, 100)
    assert found.undefined == {}


def test_a_threshold_decides_as_its_float32_value():
    once = scores((0.1, True, True), (0.9, True, True))
    assert detection_figures(once, once, threshold=0.1).recall == share(0, 2)


@pytest.mark.parametrize(
    ("benign", "attacked", "undefined"),
    [
        pytest.param(
            [*BENIGN, *[(0.9, False, True)] * 2],
            [FOOLED] * 102,
            {"robust_error_at_99", "benign_error_at_99", "fooled_at_99"},
            id="the hard rule rejects more",
        ),
        pytest.param(BENIGN, BENIGN, {"auroc", "tpr_at_1_fpr", "tpr_at_5_fpr", "precision"}, id="in vain"),
        pytest.param(
            [(0.0, False, True)] * 9,
            [REFUSED] * 9,
            {"robust_error", "robust_error_at_99", "benign_error_at_99", "fooled_at_99"},
            id="everything rejected",
        ),
        pytest.param(
            [(0.9, True, False)] * 3,
            [REFUSED] * 3,
            {"auroc", "tpr_at_1_fpr", "tpr_at_5_fpr", "robust_error_at_99", "benign_error_at_99", "fooled_at_99"},
            id="never right",
        ),
    ],
)
def test_what_is_undefined_is_none_and_says_why(benign, attacked, undefined):
    found = detection_figures(scores(*benign), scores(*attacked), threshold=0.0)
    assert set(found.undefined) == undefined
    assert all(found.undefined.values())
    for name in ("auroc", "robust_error", "robust_error_at_99", "fooled_at_99", "precision"):
        assert (getattr(found, name) is None) == (name in undefined)
    assert (found.threshold_at_99 is None) == ("fooled_at_99" in undefined)


def test_the_reason_names_the_highest_reachable_share():
    found = detection_figures(scores(*BENIGN, *[(0.9, False, True)] * 2), scores(*[FOOLED] * 102), threshold=0.0)
    assert "accepts 100 of 102 correctly classified benign images" in found.undefined["robust_error_at_99"]
