import numpy as np
import onnx.parser
import pytest
import torch

from calibration.gradients import GradientGraph
from calibration.objectives.log_odds import LogOdds, PairLogOdds
from calibration.objectives.margin import Margin
from calibration.objectives.rule import LargestConfidence, TargetConfidence, WrongConfidence
from tests.calibration.guards import CLASSMAP

K = 4


@pytest.fixture(scope="module")
def halves():
    """A classifier whose pixels are its logits: the first four those of one head, the others those of the other."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,8] z) => (float[N,4] logits, float[N,4] robust_logits)"
        " { logits, robust_logits = Split <axis = 1, num_outputs = 2> (z) }"
    )
    return GradientGraph(model, wrt="z", threads=1)


def sample(lead, *, seed=0):
    """Logits in which another label than the true one leads by `lead` in the first head."""
    z = np.random.default_rng(seed).normal(size=(12, 2 * K)).astype(np.float32)
    labels = np.arange(12) % K
    z[np.arange(12), (labels + 1) % K] += np.float32(lead)
    return z, labels


def odds_of(z, label):
    others = [j for j in range(K) if j != label]
    return z[label] - torch.logsumexp(z[others], 0)


def pair_of(z, label, objective):
    shortfall = torch.nn.functional.softplus(objective.confidence - odds_of(z[:K], label), threshold=1e9)
    if objective.classmap is not None:
        odds = odds_of(z[K:], objective.classmap[label])
        shortfall = shortfall + torch.nn.functional.softplus(objective.confidence - odds, threshold=1e9)
    return -shortfall


def definition(objective, z, label):
    if isinstance(objective, LogOdds):
        odds = odds_of(z[:K], label)
        return odds if objective.targeted else -odds
    if objective.targeted:
        return pair_of(z, label, objective)
    others = torch.stack([pair_of(z, t, objective) for t in range(K) if t != label])
    return others.max() if objective.classmap is None else torch.logsumexp(others, 0)


@pytest.mark.parametrize("lead", [-60.0, -5.0, 0.0, 5.0, 60.0, 300.0])
@pytest.mark.parametrize(
    "objective",
    [
        LogOdds(),
        LogOdds(targeted=True),
        PairLogOdds(classmap=CLASSMAP),
        PairLogOdds(classmap=CLASSMAP, confidence=40.0),
        PairLogOdds(classmap=(1, 0, 0, 0), targeted=True, confidence=2.0),
        PairLogOdds(classmap=None),
    ],
    ids=["one head", "one head targeted", "pair", "confident pair", "targeted pair", "single head"],
)
def test_value_and_gradient_equal_torch(halves, objective, lead):
    z, labels = sample(lead)
    exact = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([definition(objective, row, label) for row, label in zip(exact, labels, strict=True)])
    expected.sum().backward()
    found = halves.value_and_gradient(objective, z, **{objective.inputs[0]: labels})
    np.testing.assert_allclose(found.loss, expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classmap", [CLASSMAP, None], ids=["pair", "single head"])
def test_at_confidence_zero_it_is_the_logarithm_of_the_confidence(halves, classmap):
    z, labels = sample(0.0)
    z *= 40  # logits that are not small
    confidence = LargestConfidence() if classmap is None else WrongConfidence(classmap=classmap)
    wrong = halves.value_and_gradient(confidence, z, labels=labels)
    found = halves.value_and_gradient(PairLogOdds(classmap=classmap), z, labels=labels)
    np.testing.assert_allclose(found.loss, wrong.loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, wrong.gradient, rtol=1e-4, atol=1e-6)
    target = halves.value_and_gradient(TargetConfidence(classmap=classmap), z, targets=labels)
    found = halves.value_and_gradient(PairLogOdds(classmap=classmap, targeted=True), z, targets=labels)
    np.testing.assert_allclose(found.loss, target.loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, target.gradient, rtol=1e-4, atol=1e-6)


def test_a_head_sure_of_the_wrong_label_keeps_an_exact_gradient(halves):
    """The logarithm of the confidence has none left there: 1 - p is zero in float32."""
    z = np.array([[0, 50.0, 0, 0, 50.0, 0, 0, 0]], dtype=np.float32)
    faded = halves.value_and_gradient(WrongConfidence(classmap=CLASSMAP), z, labels=np.array([0])).gradient
    assert faded[0, 1] == 0
    found = halves.value_and_gradient(PairLogOdds(classmap=CLASSMAP), z, labels=np.array([0])).gradient
    assert found[0, 1] == pytest.approx(3 * np.exp(-50.0), rel=1e-3)
    asked = halves.value_and_gradient(PairLogOdds(classmap=CLASSMAP, confidence=60.0), z, labels=np.array([0])).gradient
    assert asked[0, 1] == pytest.approx(1, rel=1e-3)


def test_log_odds_are_the_margin_up_to_a_logarithm(halves):
    for lead in (-20.0, 0.0, 20.0):
        z, labels = sample(lead)
        for targeted in (False, True):
            inputs = {"targets" if targeted else "labels": labels}
            hard = halves.value_and_gradient(Margin(targeted=targeted), z, **inputs).loss
            soft = halves.value_and_gradient(LogOdds(targeted=targeted), z, **inputs).loss
            assert np.abs(hard - soft).max() <= np.log(K - 1) + 1e-5
