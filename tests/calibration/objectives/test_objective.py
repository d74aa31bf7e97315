import numpy as np
import onnx.parser
import pytest

from calibration.gradients import GradientGraph
from calibration.objectives import CrossEntropy, one_hot
from runtime.errors import UsageError


@pytest.fixture(scope="module")
def identity():
    """A classifier whose pixels are its logits, so that gradients are those of the objective alone."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,4] z) => (float[N,4] logits) { logits = Identity (z) }"
    )
    return GradientGraph(model, wrt="z", threads=1)


def cross_entropy(z, labels):
    """Loss and gradient in float64; the true class gets minus the sum of the others, not p - 1."""
    z = z.astype(np.float64)
    rows = np.arange(len(z))
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    others = shares.copy()
    others[rows, labels] = 0
    loss = np.logaddexp(0, np.log(others.sum(axis=1)) - np.log(shares[rows, labels]))
    others[rows, labels] = -others.sum(axis=1)
    return loss, others


@pytest.mark.parametrize("margin", [0.0, 1.0, 10.0, 20.0, 60.0, -30.0, -200.0])
@pytest.mark.parametrize("targeted", [False, True], ids=["labels", "targets"])
def test_cross_entropy_stays_exact_on_confident_logits(identity, margin, targeted):
    """At a margin of 20 the textbook p - 1 is already zero in float32."""
    z = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    labels = np.arange(8) % 4
    z[np.arange(8), labels] += np.float32(margin)
    loss, gradient = cross_entropy(z, labels)
    sign = -1 if targeted else 1
    inputs = {"targets" if targeted else "labels": labels}
    result = identity.value_and_gradient(CrossEntropy(targeted=targeted), z, **inputs)
    np.testing.assert_allclose(result.loss, sign * loss, rtol=1e-5)
    np.testing.assert_allclose(result.gradient, sign * gradient, rtol=1e-4, atol=1e-37)
    np.testing.assert_array_equal(result.logits["logits"], z)


def test_gradients_of_confident_logits_do_not_vanish(identity):
    z = np.array([[80.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    gradient = identity.value_and_gradient(CrossEntropy(), z, labels=np.array([0])).gradient
    assert (gradient[0] != 0).all()
    assert np.isfinite(gradient).all()


def test_objectives_are_keys():
    assert CrossEntropy() == CrossEntropy(of="logits", targeted=False)
    assert len({CrossEntropy(), CrossEntropy(), CrossEntropy(targeted=True)}) == 2


def test_one_hot():
    np.testing.assert_array_equal(one_hot([2, 0], 3), np.array([[0, 0, 1], [1, 0, 0]], dtype=np.float32))
    assert one_hot(np.zeros(0, dtype=np.int64), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param([0.5], r"expected labels as integers \(N,\), got float64", id="floats"),
        pytest.param([[0]], r"expected labels as integers \(N,\), got int64 \(1, 1\)", id="two axes"),
        pytest.param([-1], r"expected labels in \[0, 3\), got -1 to -1", id="negative"),
        pytest.param([3], r"expected labels in \[0, 3\), got 3 to 3", id="too large"),
    ],
)
def test_one_hot_refuses(labels, message):
    with pytest.raises(UsageError, match=message):
        one_hot(labels, 3)
