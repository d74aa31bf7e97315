import numpy as np
import pytest

from calibration.golden import choose_golden, margin, with_golden
from calibration.judge import Judge
from calibration.stamping import set_threshold
from runtime.artifact import read_artifact
from runtime.errors import ModelError
from runtime.guard import Guard
from runtime.verdicts import Verdicts
from tests.calibration.guards import CLASSES, dataset, guard_file

OPTIONS = {"device": "cpu", "threads": 1}
RECORD = {
    "data": "a" * 64,
    "images": 120,
    "acceptance": 0.9,
    "per_class": False,
    "reached": 0.95,
    "interval": (0.9, 0.98),
}


def verdicts_of(confidence, logits, robust=None, accepted=None):
    logits = np.array(logits, np.float32)
    return Verdicts(
        labels=logits.argmax(axis=1).astype(np.int32),
        accepted=np.ones(len(logits), bool) if accepted is None else np.array(accepted),
        confidence=np.array(confidence, np.float32),
        logits=logits,
        robust_logits=None if robust is None else np.array(robust, np.float32),
        classes=CLASSES[: logits.shape[1]],
    )


def test_margin_is_the_nearest_edge_in_nats():
    logits = [[9, 0], [9, 0], [3, 1], [9, 0], [9, 0]]
    robust = [[0, 9], [0, 4], [0, 9], [0, 9], [0, 9]]
    confidence = [1 / (1 + np.exp(-2.5)), 1 - 1e-5, 1 - 1e-5, 0.5, 1 - 1e-5]
    verdicts = verdicts_of(confidence, logits, robust, accepted=[True] * 4 + [False])
    assert margin(verdicts, threshold=0.5) == pytest.approx([2.5, 4, 2, 0, -1], abs=1e-4)


def test_threshold_zero_leaves_the_argmax_edges():
    verdicts = verdicts_of([0.9, 0.9], [[3, 1], [9, 0]])
    assert margin(verdicts, threshold=0.0) == pytest.approx([2, 9])


def test_accepted_image_with_the_widest_margin_is_chosen():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    verdicts = verdicts_of([0.5, 0.99, 0.995, 0.2], [[4, 0], [5, 0], [9, 0], [9, 0]])
    golden = choose_golden(images, verdicts, threshold=0.9)
    assert (golden.image, golden.label, golden.accepted) == (b"\x02", 0, True)
    assert golden.confidence == float(np.float32(0.995))


def test_rejected_image_is_chosen_where_every_accepted_one_is_near_the_threshold():
    images = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
    verdicts = verdicts_of([0.9991, 0.5], [[9, 0], [9, 0]])
    golden = choose_golden(images, verdicts, threshold=0.999)
    assert (golden.image, golden.accepted) == (b"\x01", False)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
def test_file_with_any_threshold_loads_once_its_golden_image_fits(quantile):
    images = dataset().test.images
    model = guard_file()
    verdicts = Judge(read_artifact(model), source="images", **OPTIONS).verdicts(images)
    threshold = float(np.quantile(verdicts.confidence, quantile, method="nearest"))
    golden = choose_golden(images, verdicts, threshold=threshold)
    calibrated = with_golden(set_threshold(model, threshold, **RECORD), golden)
    with Guard(calibrated, **OPTIONS) as guard:
        accepted = verdicts.accepted & (verdicts.confidence >= np.float32(threshold))
        np.testing.assert_array_equal(guard.classify(images).accepted, accepted)
        assert guard.spec.golden == golden
        assert guard.spec.threshold == threshold


def test_golden_image_of_another_size():
    golden = choose_golden(np.zeros((1, 2, 2, 1), np.uint8), verdicts_of([0.9], [[3, 1]]), threshold=0.0)
    with pytest.raises(ModelError, match=r"golden\.image: expected 30 bytes, got '4 bytes'"):
        with_golden(guard_file(), golden)
