import numpy as np
import pytest
from onnx import helper

from calibration.attacks import Budget
from calibration.judge import BATCH, Judge, classify, round_to_images
from calibration.pixels import to_pixels
from calibration.stamping import set_threshold, stamp
from runtime.artifact import read_artifact
from runtime.errors import ModelError, UsageError
from runtime.guard import Guard
from tests.calibration.guards import assembled, document, guard_file

OPTIONS = {"device": "cpu", "threads": 1}


def random_images(n):
    return np.random.default_rng(n).integers(0, 256, (n, 6, 5, 1), np.uint8)


def assert_same(found, expected):
    for name in ("labels", "accepted", "confidence", "logits"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert (found.robust_logits is None) == (expected.robust_logits is None)
    assert found.classes == expected.classes


@pytest.mark.parametrize("n", [1, 7, BATCH, BATCH + 1])
@pytest.mark.parametrize("source", ["pixels", "images"])
@pytest.mark.parametrize("pair", [True, False], ids=["pair", "confidence"])
def test_judge_decides_like_the_guard_on_8_bit_images(pair, source, n):
    artifact = read_artifact(guard_file(pair=pair))
    images = random_images(n)
    judged = Judge(artifact, source=source, **OPTIONS).verdicts(to_pixels(images) if source == "pixels" else images)
    with Guard(artifact.model, **OPTIONS) as guard:
        assert_same(judged, guard.classify(images))


@pytest.mark.parametrize("source", ["pixels", "images"])
def test_hard_judge_has_no_threshold(source):
    measured = {"data": "0" * 64, "images": 100, "acceptance": 0.9, "per_class": False}
    strict = read_artifact(
        set_threshold(guard_file(pair=False), 0.9, **measured, reached=0.95, interval=(0.9, 0.99)), stale=True
    )
    images = random_images(20)
    x = to_pixels(images) if source == "pixels" else images
    hard, open_ = (
        Judge(artifact, source=source, hard=hard, **OPTIONS).verdicts(x)
        for artifact, hard in ((strict, True), (read_artifact(guard_file(pair=False)), False))
    )
    assert_same(hard, open_)
    assert hard.accepted.sum() > Judge(strict, source=source, **OPTIONS).verdicts(x).accepted.sum()


def test_judge_sees_what_8_bits_cannot_show():
    artifact = read_artifact(guard_file())
    judge = Judge(artifact, **OPTIONS)
    pixels = to_pixels(random_images(64))
    nudged = np.clip(pixels + np.float32(0.2 / 255), 0, 1)
    assert not np.array_equal(judge.verdicts(nudged).logits, judge.verdicts(pixels).logits)


def test_batches_are_told_of_and_do_not_matter():
    images = random_images(BATCH + 3)
    told = []
    with Guard(guard_file(), **OPTIONS) as guard:
        verdicts = classify(guard, images, told.append)
        assert_same(verdicts, guard.classify(images))
    assert told == [BATCH, BATCH + 3]
    assert len(verdicts) == BATCH + 3


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.zeros((2, 6, 5, 1), np.float32),
            r"pixels: expected float32 \(N, 1, 6, 5\) with N >= 1, got .*\(2, 6, 5, 1\)",
        ),
        (np.zeros((2, 1, 6, 5), np.float64), r"pixels: expected float32 .* got float64"),
        (np.zeros((0, 1, 6, 5), np.float32), r"with N >= 1, got .*\(0, 1, 6, 5\)"),
        (np.full((1, 1, 6, 5), 1.001, np.float32), r"pixels: expected values in \[0, 1\], got 1.001"),
        (np.full((1, 1, 6, 5), np.nan, np.float32), r"pixels: expected values in \[0, 1\], got nan"),
    ],
    ids=["layout", "dtype", "empty", "range", "nan"],
)
def test_pixels_of_another_form(pixels, message):
    with pytest.raises(UsageError, match=message):
        Judge(read_artifact(guard_file()), **OPTIONS).verdicts(pixels)


def without_pixels(model):
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["brightness" if name == "pixels" else name for name in names]
    del model.graph.value_info[:]


def looking_past_pixels(model):
    """Its confidence depends on the images directly, which an attack on pixels would not see."""
    verdict = next(node for node in model.graph.node if "confidence" in node.output)
    verdict.output[0] = "plain_confidence"
    bypass = [
        helper.make_node("Cast", ["images"], ["levels"], to=1),
        helper.make_node("ReduceMax", ["levels"], ["brightest"], keepdims=0),
        helper.make_node("Min", ["plain_confidence", "brightest"], ["confidence"]),
    ]
    position = list(model.graph.node).index(verdict) + 1
    nodes = [*model.graph.node[:position], *bypass, *model.graph.node[position:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_pixels, "expected an inner tensor 'pixels' to attack, got none"),
        (looking_past_pixels, "expected verdicts that follow from 'pixels' alone, got"),
    ],
)
def test_files_that_cannot_be_cut(change, message):
    model = assembled()
    record = document(model)
    change(model)
    artifact = read_artifact(stamp(model, record))
    with pytest.raises(ModelError, match=message):
        Judge(artifact, **OPTIONS)


@pytest.mark.parametrize(
    ("epsilon", "levels"), [(8 / 255, 8), (0.1, 25), (0.3, 76), (0.001, 0), (1.0, 255)], ids=lambda value: f"{value:g}"
)
def test_rounding_keeps_the_budget_and_goes_no_further_than_half_a_level_within_it(epsilon, levels):
    images = random_images(50)
    pixels = to_pixels(images)
    noise = np.random.default_rng(0).choice([-1, -0.4, 0.4, 1], pixels.shape).astype(np.float32)
    x_adv = np.clip(pixels + np.float32(epsilon) * noise, 0, 1)
    rounded = round_to_images(x_adv, images, budget=Budget(epsilon=epsilon))
    change = np.abs(rounded.astype(int) - images)
    assert change.max() == levels
    assert np.abs(to_pixels(rounded) - x_adv).max() <= max(0.5 / 255, epsilon - levels / 255) + 1e-6


def test_rounding_without_a_budget_takes_the_nearest_level():
    images = random_images(9)
    x_adv = np.random.default_rng(0).random((9, 1, 6, 5), dtype=np.float32)
    rounded = round_to_images(x_adv, images, budget=None)
    assert np.abs(to_pixels(rounded) - x_adv).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.4])
def test_rounding_in_an_l2_ball_uses_the_whole_radius_and_no_more(epsilon):
    images = random_images(20)
    pixels = to_pixels(images)
    budget = Budget(epsilon=epsilon, norm="l2")
    x_adv = budget.project(pixels + np.random.default_rng(0).normal(0, 0.2, pixels.shape).astype(np.float32), pixels)
    rounded = to_pixels(round_to_images(x_adv, images, budget=budget))
    lengths = np.linalg.norm((rounded - pixels).reshape(20, -1), axis=1)
    assert lengths.max() <= epsilon + 1e-6
    assert lengths.mean() > 0.95 * epsilon
    assert np.abs(rounded - x_adv).max() <= 1 / 255 + 1e-6
    np.testing.assert_array_equal(to_pixels(round_to_images(rounded, images, budget=budget)), rounded)
