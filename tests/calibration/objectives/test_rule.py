import numpy as np
import onnx.parser
import pytest
import torch

from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.objectives.rule import LargestConfidence, TargetConfidence, WrongConfidence
from calibration.pixels import to_pixels
from runtime.artifact import read_artifact
from tests.calibration.guards import CLASSMAP, dataset, guard_file

TARGETED = (TargetConfidence(classmap=CLASSMAP), TargetConfidence(classmap=None))
SHARED = (1, 0, 0, 0)
"""A Classmap in which classes share a partner, as the paper's per-row one does."""


@pytest.fixture(scope="module")
def halves():
    """A classifier whose pixels are its logits: the first four those of one head, the others those of the other."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,8] z) => (float[N,4] logits, float[N,4] robust_logits)"
        " { logits, robust_logits = Split <axis = 1, num_outputs = 2> (z) }"
    )
    return GradientGraph(model, wrt="z", threads=1)


def confidence_in_mistakes(classmap):
    return LargestConfidence() if classmap is None else WrongConfidence(classmap=classmap)


def log_confidence(z):
    """The logarithm of a head's confidence, small logits multiplied."""
    spread = z.amax(dim=1, keepdim=True) - z.amin(dim=1, keepdim=True)
    return torch.log_softmax(z * (4 / spread).clamp(min=1), dim=1)


def torch_loss(z, labels, classmap):
    """The definition in float64, one wrong label after another."""
    first, second = log_confidence(z[:, :4]), log_confidence(z[:, 4:])
    rows = []
    for row, label in enumerate(labels):
        terms = [
            first[row, t] + (second[row, classmap[t]] if classmap is not None else 0) for t in range(4) if t != label
        ]
        together = torch.stack(terms)
        rows.append(together.max() if classmap is None else torch.logsumexp(together, dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("margin", [0.0, 5.0, 60.0, 300.0, -30.0])
@pytest.mark.parametrize("classmap", [CLASSMAP, SHARED, None], ids=["one-to-one", "shared partners", "single head"])
def test_loss_and_gradient_equal_torch(halves, classmap, margin):
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 4
    z = rng.normal(size=(12, 8)).astype(np.float32)
    z[np.arange(12), labels] += np.float32(margin)
    z[np.arange(12), 4 + rng.permutation(12) % 4] += np.float32(margin)
    exact = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = torch_loss(exact, labels, classmap)
    expected.sum().backward()
    found = halves.value_and_gradient(confidence_in_mistakes(classmap), z, labels=labels)
    np.testing.assert_allclose(found.loss, expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classmap", [CLASSMAP, SHARED, None], ids=["one-to-one", "shared partners", "single head"])
def test_confidence_of_a_target_equals_torch(halves, classmap):
    targets = np.arange(12) % 4
    z = np.random.default_rng(0).normal(0, 4, size=(12, 8)).astype(np.float32)
    exact = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    rows = torch.arange(12)
    expected = log_confidence(exact[:, :4])[rows, targets]
    if classmap is not None:
        expected = expected + log_confidence(exact[:, 4:])[rows, np.array(classmap)[targets]]
    expected.sum().backward()
    objective = TargetConfidence(classmap=classmap)
    found = halves.value_and_gradient(objective, z, targets=targets)
    np.testing.assert_allclose(found.loss, expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gradient, exact.grad, rtol=1e-4, atol=1e-6)
    assert objective.inputs == ("targets",)


@pytest.mark.parametrize("kind", [WrongConfidence, TargetConfidence])
def test_another_tensor_can_play_the_first_head(kind):
    data = dataset()
    graph = GradientGraph(
        guard_file(unlocked=True), of=("logits", "robust_logits", "unlocked_logits"), device="cpu", threads=1
    )
    x, labels = to_pixels(data.test.images[:8]), data.test.labels[:8]
    objective = kind(classmap=CLASSMAP, logits="unlocked_logits")
    found = graph.value_and_gradient(objective, x, **{objective.inputs[0]: labels})
    assert objective.reads == ("unlocked_logits", "robust_logits")
    first, second = (log_confidence(torch.tensor(found.logits[name])) for name in objective.reads)
    confidence = first + second[:, list(CLASSMAP)]
    rows = torch.arange(8)
    if kind is TargetConfidence:
        expected = confidence[rows, labels]
    else:
        confidence[rows, labels] = -torch.inf
        expected = torch.logsumexp(confidence, dim=1)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", [WrongConfidence(classmap=CLASSMAP), LargestConfidence(), *TARGETED], ids=str)
def test_the_way_up_does_not_depend_on_the_scale_of_small_logits(halves, objective):
    z = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    given = {objective.inputs[0]: np.arange(12) % 4}
    once, small = (halves.value_and_gradient(objective, scale * z, **given) for scale in np.float32([1, 1e-4]))
    np.testing.assert_allclose(small.loss, once.loss, rtol=1e-4)
    np.testing.assert_allclose(1e-4 * small.gradient, once.gradient, rtol=1e-2, atol=1e-4)
    assert np.isfinite(halves.value_and_gradient(objective, 0 * z, **given).gradient).all()


def test_shares_that_underflow_still_have_a_gradient(halves):
    z = np.array([[200.0, 0, 0, 0, 0, 200.0, 0, 0]], dtype=np.float32)
    found = halves.value_and_gradient(WrongConfidence(classmap=CLASSMAP), z, labels=np.array([0]))
    assert found.loss[0] == pytest.approx(-400 + np.log(3))
    assert found.gradient[0, 0] == pytest.approx(-1, rel=1e-4)
    assert found.gradient[0, 5] == pytest.approx(-1, rel=1e-4)


def test_wrong_labels_that_share_everything_evenly_are_no_success_of_a_single_head(halves):
    """A threshold rejects them: to be accepted one of them has to win, and the gradient must say so."""
    z = np.array([[-30.0, 0, 0, 1e-3, 0, 0, 0, 0]], dtype=np.float32)
    found = halves.value_and_gradient(LargestConfidence(), z, labels=np.array([0]))
    assert found.loss[0] == pytest.approx(-np.log(3), rel=1e-3)
    np.testing.assert_allclose(found.gradient[0, :4], [0, -1 / 3, -1 / 3, 2 / 3], atol=1e-3)


def test_the_head_that_lags_behind_has_the_larger_gradient(halves):
    """Label 1 has won Z*, but Z' still pairs with label 0."""
    z = np.array([[0, 30.0, 0, 0, 0, 30.0, 0, 0]], dtype=np.float32)
    gradient = halves.value_and_gradient(WrongConfidence(classmap=CLASSMAP), z, labels=np.array([0])).gradient[0]
    assert np.abs(gradient[4:]).max() > 0.9
    assert np.abs(gradient[:4]).max() < 1e-6


def test_its_exponential_is_the_confidence_that_the_file_reports_in_a_mistake():
    images, labels = dataset(noise=0.8).test.images, dataset(noise=0.8).test.labels
    model = guard_file(sharpness=30.0)
    graph = GradientGraph(model, device="cpu", threads=1)
    verdicts = Judge(read_artifact(model), device="cpu", threads=1).verdicts(to_pixels(images))
    loss = graph.value_and_gradient(WrongConfidence(classmap=CLASSMAP), to_pixels(images), labels=labels).loss
    mistaken = verdicts.labels != labels
    assert mistaken.sum() > 10
    assert (np.exp(loss[mistaken]) >= verdicts.confidence[mistaken] * (1 - 1e-4)).all()


@pytest.mark.parametrize(
    ("classmap", "reads"),
    [(CLASSMAP, ("logits", "robust_logits")), (None, ("logits",))],
    ids=["pair", "single head"],
)
def test_reads_the_heads_of_the_rule(classmap, reads):
    objective = confidence_in_mistakes(classmap)
    assert (objective.reads, objective.inputs) == (reads, ("labels",))
    assert len({objective, confidence_in_mistakes(classmap)}) == 1
