import re
from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from calibration.datasets import make_dataset
from calibration.stamping import stamp
from calibration.thresholds import (
    CalibrationConfig,
    calibrate,
    held_out_images,
    images_needed,
    threshold_at_acceptance,
)
from runtime.artifact import read_artifact
from runtime.errors import ModelError, UsageError
from runtime.guard import Guard
from tests.calibration.guards import assembled, dataset, guard_file

OPTIONS = {"device": "cpu", "threads": 1}
IMAGES = st.lists(
    st.tuples(st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.booleans()),
    min_size=1,
    max_size=50,
)
ACCEPTANCE = st.integers(1, 99).map(lambda percent: percent / 100)
# Many drawn samples cannot reach the drawn share; they say nothing here, and the refusal has a test of its own.
REACHABLE = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def columns(images):
    confidence, correct, passes = zip(*images, strict=True)
    return np.array(confidence, np.float32), np.array(correct), np.array(passes)


def guaranteed(images, threshold):
    """The share of m + 1 images that a threshold accepts if the next one is rejected."""
    confidence, correct, passes = columns(images)
    accepted = int((correct & passes & (confidence >= np.float32(threshold))).sum())
    return Fraction(accepted, int(correct.sum()) + 1)


def enough(images, acceptance):
    return sum(correct for _, correct, _ in images) >= images_needed(acceptance)


@settings(deadline=None)
@given(images=IMAGES, acceptance=ACCEPTANCE)
def test_threshold_is_the_largest_that_guarantees_the_share(images, acceptance):
    wanted = Fraction(str(acceptance))
    if not enough(images, acceptance):
        with pytest.raises(UsageError, match=r"expected at least \d+ correctly classified held-out images, got"):
            threshold_at_acceptance(*columns(images), acceptance=acceptance)
        return
    if guaranteed(images, 0.0) < wanted:
        with pytest.raises(UsageError, match="--accept: expected at most"):
            threshold_at_acceptance(*columns(images), acceptance=acceptance)
        return
    threshold = threshold_at_acceptance(*columns(images), acceptance=acceptance)
    assert threshold == float(np.float32(threshold))
    assert guaranteed(images, threshold) >= wanted
    larger = [confidence for confidence, _, _ in images if confidence > threshold]
    assert all(guaranteed(images, other) < wanted for other in larger)


@REACHABLE
@given(images=IMAGES, first=ACCEPTANCE, second=ACCEPTANCE)
def test_asking_for_more_never_raises_the_threshold(images, first, second):
    low, high = sorted((first, second))
    assume(enough(images, high) and guaranteed(images, 0.0) >= Fraction(str(high)))
    assert threshold_at_acceptance(*columns(images), acceptance=high) <= threshold_at_acceptance(
        *columns(images), acceptance=low
    )


@REACHABLE
@given(images=IMAGES, acceptance=ACCEPTANCE, seed=st.integers(0, 9))
def test_order_and_wrong_images_do_not_matter(images, acceptance, seed):
    assume(enough(images, acceptance) and guaranteed(images, 0.0) >= Fraction(str(acceptance)))
    shuffled = [images[index] for index in np.random.default_rng(seed).permutation(len(images))]
    more = [*shuffled, (1.0, False, True), (0.0, False, False)]
    assert threshold_at_acceptance(*columns(more), acceptance=acceptance) == threshold_at_acceptance(
        *columns(images), acceptance=acceptance
    )


@pytest.mark.parametrize(("acceptance", "count"), [(0.5, 9), (0.8, 30), (0.9, 19), (0.9, 100)], ids=str)
def test_the_guarantee_holds_over_repeated_draws_and_is_not_wasteful(acceptance, count):
    rng = np.random.default_rng(0)
    everything = np.ones(count, bool)
    draws = rng.random((4000, count + 1), dtype=np.float32)
    accepted = [
        draw[-1] >= np.float32(threshold_at_acceptance(draw[:-1], everything, everything, acceptance=acceptance))
        for draw in draws
    ]
    # Exactly ceil((m + 1) a) / (m + 1) for scores without ties; four standard errors of 4,000 draws.
    expected = np.ceil((count + 1) * acceptance - 1e-9) / (count + 1)
    assert abs(np.mean(accepted) - expected) < 4 * np.sqrt(0.25 / 4000)
    assert expected >= acceptance


@pytest.mark.parametrize("levels", [2, 5, 1000], ids=["two values", "five values", "hardly any ties"])
def test_the_guarantee_holds_for_each_class_and_with_ties(levels):
    rng = np.random.default_rng(1)
    counts, acceptance, draws = (12, 30), 0.8, 3000
    classes = np.repeat(np.arange(len(counts)), counts)
    everything = np.ones(len(classes), bool)
    best = np.array([1.0, 0.6])
    hits = np.zeros(len(counts))
    for _ in range(draws):
        confidence = (rng.integers(0, levels, len(classes)) / levels * best[classes]).astype(np.float32)
        threshold = threshold_at_acceptance(confidence, everything, everything, acceptance=acceptance, classes=classes)
        following = (rng.integers(0, levels, len(counts)) / levels * best).astype(np.float32)
        hits += following >= np.float32(threshold)
    assert (hits / draws >= acceptance - 4 * np.sqrt(0.25 / draws)).all()


def test_each_class_keeps_its_share():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 200)
    confidence = (rng.random(600) * np.array([1.0, 0.5, 0.8])[classes]).astype(np.float32)
    everything = np.ones(600, bool)
    arrays = (confidence, everything, everything)
    together = threshold_at_acceptance(*arrays, acceptance=0.9)
    each = threshold_at_acceptance(*arrays, acceptance=0.9, classes=classes)
    shares = [np.mean(confidence[classes == label] >= np.float32(each)) for label in range(3)]
    assert min(shares) >= 0.9
    assert np.mean(confidence[classes == 1] >= np.float32(together)) < 0.9
    alone = [
        threshold_at_acceptance(confidence[rows], everything[rows], everything[rows], acceptance=0.9)
        for rows in (classes == label for label in range(3))
    ]
    assert each == min(alone)


def test_a_class_of_too_few_images_is_named():
    classes = np.array([0] * 50 + [1] * 5)
    everything = np.ones(55, bool)
    with pytest.raises(UsageError, match="expected at least 9 correctly classified held-out images of class 1, got 5"):
        threshold_at_acceptance(np.ones(55, np.float32), everything, everything, acceptance=0.9, classes=classes)


@pytest.mark.parametrize(("acceptance", "count"), [(0.5, 1), (0.9, 9), (0.99, 99), (0.999, 999)], ids=str)
def test_how_many_images_a_guarantee_takes(acceptance, count):
    assert images_needed(acceptance) == count
    enough = np.ones(count, bool)
    assert threshold_at_acceptance(np.ones(count, np.float32), enough, enough, acceptance=acceptance) == 1
    with pytest.raises(UsageError, match=f"expected at least {count} correctly classified held-out images"):
        threshold_at_acceptance(np.ones(count, np.float32)[1:], enough[1:], enough[1:], acceptance=acceptance)


def test_example_by_hand():
    confidence = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9], np.float32)
    correct = np.array([True, True, True, True, False, True])
    passes = np.array([False, True, True, True, True, True])
    assert threshold_at_acceptance(confidence, correct, passes, acceptance=0.5) == float(np.float32(0.3))
    with pytest.raises(UsageError, match=r"expected at most 0.6666, which 5 .* got 0.67; ask for less"):
        threshold_at_acceptance(confidence, correct, passes, acceptance=0.67)


def test_reachable_share_it_names_can_be_asked_for():
    confidence = np.linspace(0, 1, 107, dtype=np.float32)
    passes = np.arange(107) > 4
    with pytest.raises(UsageError, match=r"expected at most 0.9444") as caught:
        threshold_at_acceptance(confidence, np.ones(107, bool), passes, acceptance=0.99)
    named = float(str(caught.value).split("at most ")[1].split(",")[0])
    assert threshold_at_acceptance(confidence, np.ones(107, bool), passes, acceptance=named) == confidence[5]


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        (np.ones(3), np.ones(3, bool), "expected one float32 confidence, .* got float64"),
        (np.ones(3, np.float32), np.ones(2, bool), r"got float32 \(3,\), \(2,\)"),
        (np.ones(3, np.float32), np.zeros(3, bool), "expected at least 9 correctly classified held-out images, got 0"),
    ],
    ids=["dtype", "shape", "nothing right"],
)
def test_arrays_of_another_form(confidence, correct, message):
    with pytest.raises(UsageError, match=message):
        threshold_at_acceptance(confidence, correct, np.ones(3, bool), acceptance=0.9)


@pytest.mark.parametrize("acceptance", [0.0, 1.0, 1.01, -1.0, float("nan")], ids=str)
def test_acceptance_out_of_range(acceptance):
    with pytest.raises(UsageError, match=r"--accept: expected a share in \(0, 1\), got"):
        CalibrationConfig(acceptance=acceptance)


def test_negative_sample():
    with pytest.raises(UsageError, match="-n: expected the number of images that the attack takes"):
        CalibrationConfig(acceptance=0.9, n=-1)


def accepted_by(model, data):
    with Guard(model, **OPTIONS) as guard:
        verdicts = guard.classify(data.images)
    correct = verdicts.labels == data.labels
    return verdicts.accepted[correct].mean(), int(correct.sum())


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "confidence"])
@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.9])
def test_calibrated_file_accepts_the_share_it_says(pair, acceptance):
    data = dataset(n_test=400)
    before = guard_file(pair=pair)
    found = calibrate(before, data, CalibrationConfig(acceptance=acceptance, n=150), **OPTIONS)
    held_out = held_out_images(data, n=150, seed=0)
    assert accepted_by(found.model, held_out) == (found.reached, found.right)
    assert acceptance <= found.reached < acceptance + 3 / found.right
    assert found.interval[0] < found.reached < found.interval[1]
    assert found.reached <= found.reachable == accepted_by(before, held_out)[0]
    spec = read_artifact(found.model).spec
    assert spec.threshold == found.threshold
    assert spec.calibration._asdict() == {
        "data": held_out.digest,
        "images": 250,
        "acceptance": acceptance,
        "per_class": False,
        "reached": found.reached,
        "interval": found.interval,
        "precision": "fp32",
        "graph": read_artifact(before).graph,
    }


def test_a_class_without_images_is_named():
    data = dataset(n_test=400)
    known = data.test.labels != 2
    part = (data.test.images[known], data.test.labels[known])
    fewer = make_dataset("fewer", data.classes, (data.train.images, data.train.labels), part)
    with pytest.raises(UsageError, match="--per-class: expected held-out images of every class, got none of eel"):
        calibrate(guard_file(), fewer, CalibrationConfig(acceptance=0.5, per_class=True, n=100), **OPTIONS)


@pytest.mark.parametrize(
    ("accuracy", "sentences"), [(None, 0), (0.99, 0), (0.3, 1)], ids=["no record", "as in training", "unlike it"]
)
def test_data_unlike_that_of_the_training_is_warned_of(accuracy, sentences):
    model = onnx.load_model_from_string(guard_file())
    metadata = read_artifact(guard_file()).spec.to_document()
    metadata["training"] |= {} if accuracy is None else {"benign": {"accuracy": accuracy}}
    del metadata["digest"]
    said = []
    config = CalibrationConfig(acceptance=0.7, n=100)
    calibrate(stamp(model, metadata), dataset(), config, **OPTIONS, warn=said.append)
    assert len(said) == sentences
    for sentence in said:
        assert re.search(r"of which 30.00% get the right label, got \d+ of 140", sentence)


def test_it_is_warned_of_before_the_share_turns_out_unreachable():
    """Labels of another order: nothing is right, and the warning says why."""
    model = onnx.load_model_from_string(guard_file())
    metadata = read_artifact(guard_file()).spec.to_document()
    metadata["training"]["benign"] = {"accuracy": 0.99, "rejected": 0.0}
    del metadata["digest"]
    data = dataset()
    part = (data.test.images, (data.test.labels + 1) % 4)
    wrong = make_dataset("wrong", data.classes, (data.train.images, data.train.labels), part)
    said = []
    with pytest.raises(UsageError, match="correctly classified held-out images, got"):
        calibrate(stamp(model, metadata), wrong, CalibrationConfig(acceptance=0.99, n=100), **OPTIONS, warn=said.append)
    assert "get the right label" in said[0]


@pytest.mark.parametrize("first", [0.5, 0.9])
def test_calibrating_again_forgets_the_first_time(first):
    data = dataset()
    once = calibrate(guard_file(), data, CalibrationConfig(acceptance=first, n=100), **OPTIONS)
    config = CalibrationConfig(acceptance=0.7, n=100)
    assert (
        calibrate(once.model, data, config, **OPTIONS).model == calibrate(guard_file(), data, config, **OPTIONS).model
    )


def test_progress_ends_at_its_total():
    told = []
    config = CalibrationConfig(acceptance=0.7, n=100)
    calibrate(guard_file(), dataset(), config, **OPTIONS, progress=lambda *pair: told.append(pair))
    assert told == sorted(told)
    assert told[-1] == (280, 280)


def test_attack_and_threshold_share_no_image():
    data = dataset()
    attacked = data.test.sample(100, seed=3)
    rest = np.setdiff1d(np.arange(240), attacked)
    held_out = held_out_images(data, n=100, seed=3)
    np.testing.assert_array_equal(held_out.images, data.test.images[rest])
    np.testing.assert_array_equal(held_out.labels, data.test.labels[rest])
    assert held_out.digest != held_out_images(data, n=100, seed=4).digest


@pytest.mark.parametrize(("n", "most"), [(141, "140"), (1000, "140")])
def test_too_few_images_are_left(n, most):
    with pytest.raises(UsageError, match=f"at least 100 test images beside the attack's -n {n}, .* -n {most} or less"):
        calibrate(guard_file(), dataset(), CalibrationConfig(acceptance=0.9, n=n), **OPTIONS)


def test_too_few_images_in_all():
    with pytest.raises(UsageError, match=r"beside the attack's -n 1, got 99 of 100; bring more test images$"):
        calibrate(guard_file(), dataset(100), CalibrationConfig(acceptance=0.9, n=1), **OPTIONS)


def test_share_beyond_the_hard_rule():
    with pytest.raises(UsageError, match=r"--accept: expected at most 0\.\d{4}, which \d+ correctly classified images"):
        calibrate(guard_file(doubt=2.0), dataset(), CalibrationConfig(acceptance=0.98, n=100), **OPTIONS)


def test_data_of_other_classes():
    other = guard_file(classes=("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="expected the classes of the file"):
        calibrate(other, dataset(), CalibrationConfig(acceptance=0.9, n=100), **OPTIONS)


def test_file_that_is_no_guard(tmp_path):
    path = tmp_path / "bare.onnx"
    path.write_bytes(assembled().SerializeToString())
    with pytest.raises(ModelError, match=r"bare\.onnx"):
        calibrate(path, dataset(), CalibrationConfig(acceptance=0.9, n=100), **OPTIONS)
