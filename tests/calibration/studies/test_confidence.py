import numpy as np
import pytest

from calibration.attacks import Fgs, Pgd
from calibration.availability import CHANGES
from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.objectives.rule import WrongConfidence
from calibration.pixels import to_pixels
from calibration.stamping import set_threshold
from calibration.studies.confidence import StudyConfig, study_confidences
from calibration.thresholds import CalibrationConfig, calibrate, held_out_images
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP, dataset, guard_file

CONFIG = StudyConfig(n=40, held_out=300, epsilons=(0.05, 0.3), steps=5, restarts=1)
GUARD = guard_file(doubt=0.1, sharpness=8.0)


def data():
    return dataset(n_test=360, noise=0.2)


@pytest.fixture(scope="module")
def study():
    return {one.name: one for one in study_confidences(GUARD, data(), CONFIG, threads=1)}


def test_every_confidence_is_measured(study):
    assert list(study) == ["product", "temperature-scaled product", "minimum", "margin", "energy"]
    for one in study.values():
        assert [attack.epsilon for attack in one.attacks] == [0.05, 0.3]
        assert set(one.accepted) == set(CHANGES)
        assert one.accepted["none"].value > 0.9
        for attack in one.attacks:
            assert attack.worst.value >= max(attack.own.value, attack.naive.value)
            assert attack.area is None or 0 <= attack.area <= 1
    assert max(one.attacks[1].worst.value for one in study.values()) > 0
    assert study["product"].temperatures == (1.0, 1.0)
    assert all(0 < t != 1 for t in study["temperature-scaled product"].temperatures)
    assert study["energy"].temperatures is None


def test_product_is_the_confidence_of_the_file(study):
    """Against the shipped rule: the same threshold, and the same verdict on the same attacked images."""
    found = calibrate(GUARD, data(), CalibrationConfig(acceptance=0.99, n=40), device="cpu", threads=1)
    assert np.exp(study["product"].threshold) == pytest.approx(found.threshold, rel=1e-4)
    test = data().test
    rows = test.sample(40, seed=0)
    pixels, truth = to_pixels(test.images[rows]), test.labels[rows]
    graph = GradientGraph(GUARD, of=("logits", "robust_logits"), device="cpu", threads=1)
    judge = Judge(read_artifact(found.model), device="cpu", threads=1)
    for attack in study["product"].attacks:
        naive = judge.verdicts(Fgs(epsilon=attack.epsilon)(graph, pixels, truth).x_adv)
        assert (naive.accepted & (naive.labels != truth)).mean() == pytest.approx(attack.naive.value)
        rule = Pgd(epsilon=attack.epsilon, steps=5, restarts=1, objective=WrongConfidence(classmap=CLASSMAP))
        verdicts = judge.verdicts(rule(graph, pixels, truth).x_adv)
        assert attack.worst.value >= (verdicts.accepted & (verdicts.labels != truth)).mean()


def test_thresholds_keep_what_they_promise(study):
    held_out = held_out_images(data(), n=40, seed=0)
    model = set_threshold(
        GUARD,
        float(np.exp(study["product"].threshold)),
        data="0" * 64,
        images=1,
        acceptance=0.99,
        per_class=False,
        reached=1.0,
        interval=(0.0, 1.0),
    )
    judge = Judge(read_artifact(model, stale=True), source="images", device="cpu", threads=1)
    verdicts = judge.verdicts(held_out.images)
    right = verdicts.labels == held_out.labels
    assert verdicts.accepted[right].mean() >= 0.98


def test_the_same_twice(study):
    again = study_confidences(GUARD, data(), CONFIG, threads=1)
    assert {one.name: one for one in again} == study


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "expected n as a whole number of at least 1, got 0"),
        ({"steps": 0}, "expected steps as a whole number of at least 1"),
        ({"epsilons": ()}, r"expected epsilons as one or more numbers in \(0, 1\], got \(\)"),
        ({"epsilons": (0.1, 2.0)}, r"expected epsilons as one or more numbers in \(0, 1\]"),
        ({"seed": -1}, "expected seed as a whole number of at least 0, got -1"),
    ],
    ids=["n", "steps", "no epsilon", "epsilon", "seed"],
)
def test_refuses_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        StudyConfig(**options)


def test_refuses_a_single_head():
    with pytest.raises(UsageError, match="expected a guard with the rule pair, got the rule confidence; it has one"):
        study_confidences(guard_file(pair=False), data(), CONFIG, threads=1)
