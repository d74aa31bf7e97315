import numpy as np
import onnx.parser
import pytest
import torch
from scipy.special import softmax

from calibration.gradients import GradientGraph
from calibration.studies.candidates import (
    Energy,
    Minimum,
    Product,
    ScaledProduct,
    SmallerMargin,
    WrongLabel,
    fit_temperature,
)
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP

K = len(CLASSMAP)
KINDS = [Product(), ScaledProduct(temperatures=(0.5, 3.0)), Minimum(), SmallerMargin(), Energy()]
KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@pytest.fixture(scope="module")
def halves():
    """A classifier whose pixels are its logits: the first four those of one head, the others those of the other."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,8] z) => (float[N,4] logits, float[N,4] robust_logits)"
        " { logits, robust_logits = Split <axis = 1, num_outputs = 2> (z) }"
    )
    return GradientGraph(model, wrt="z", threads=1)


def drawn(n=12, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, (n, 2 * K))


def in_torch(kind, z, t):
    """The confidence of label t for each row of ``z``, (n, 8), by its definition; margins soft."""
    first, second = z[:, :K], z[:, K:]
    partner = CLASSMAP[t]
    if isinstance(kind, Product):
        parts = [
            torch.log_softmax(head / temperature, dim=1)[:, label]
            for head, temperature, label in zip((first, second), kind.temperatures, (t, partner), strict=True)
        ]
        return parts[0] + parts[1]
    if isinstance(kind, Energy):
        return torch.logsumexp(first, dim=1) + torch.logsumexp(second, dim=1)
    parts = []
    for head, label in ((first, t), (second, partner)):
        others = [j for j in range(K) if j != label]
        odds = head[:, label] - torch.logsumexp(head[:, others], dim=1)
        parts.append(torch.log_softmax(head, dim=1)[:, label] if isinstance(kind, Minimum) else odds)
    return torch.minimum(*parts)


@KIND
def test_loss_and_gradient_equal_torch(halves, kind):
    z, labels = drawn(), np.arange(12) % K
    exact = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    every = torch.stack([in_torch(kind, exact, t) for t in range(K)], dim=1)
    if not isinstance(kind, Product):
        every = every + torch.stack([in_torch(Product(), exact, t) for t in range(K)], dim=1)
    rows = []
    for i, y in enumerate(labels):
        rows.append(torch.logsumexp(every[i, [t for t in range(K) if t != y]], dim=0))
    expected = torch.stack(rows)
    expected.sum().backward()
    objective = WrongLabel(confidence=kind, classmap=CLASSMAP)
    found = halves.value_and_gradient(objective, z.astype(np.float32), labels=labels)
    np.testing.assert_allclose(found.loss, expected.detach(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.gradient, exact.grad, rtol=1e-3, atol=1e-4)


@KIND
def test_numpy_says_the_same_as_torch(kind):
    z = drawn()
    labels = z[:, :K].argmax(axis=1)
    partners = np.array(CLASSMAP)[labels]
    found = kind.of(z[:, :K], z[:, K:], labels, partners)
    if isinstance(kind, SmallerMargin):
        heads = [np.sort(head, axis=1) for head in (z[:, :K],)]
        assert (found <= heads[0][:, -1] - heads[0][:, -2] + 1e-12).all()
        return
    expected = [in_torch(kind, torch.tensor(z), t)[i].item() for i, t in enumerate(labels)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_margin_by_hand():
    z, robust = np.array([[5.0, 1.0, 0.0, 0.0]]), np.array([[1.0, 3.0, 2.5, 0.0]])
    assert SmallerMargin().of(z, robust, np.array([0]), np.array([1])) == pytest.approx([0.5])
    assert SmallerMargin().of(z, robust, np.array([1]), np.array([0])) == pytest.approx([-4.0])


@KIND
def test_extreme_logits_have_finite_gradients(halves, kind):
    z = (300 * drawn()).astype(np.float32)
    found = halves.value_and_gradient(WrongLabel(confidence=kind, classmap=CLASSMAP), z, labels=np.arange(12) % K)
    assert np.isfinite(found.loss).all()
    assert np.isfinite(found.gradient).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_is_found_again(temperature):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (20_000, K))
    labels = np.array([rng.choice(K, p=row) for row in softmax(z / temperature, axis=1)])
    assert fit_temperature(z, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(
    ("z", "labels"), [(np.zeros((0, 4)), np.zeros(0, int)), (np.zeros((3, 4)), np.zeros(2, int))], ids=["none", "fewer"]
)
def test_temperature_of_nothing(z, labels):
    with pytest.raises(UsageError, match="expected a label for each of one or more rows"):
        fit_temperature(z, labels)


@pytest.mark.parametrize("temperatures", [(0.0, 1.0), (1.0, -1.0), (np.inf, 1.0)], ids=str)
def test_refuses_temperatures(temperatures):
    with pytest.raises(UsageError, match="expected temperatures as two numbers above 0"):
        Product(temperatures=temperatures)
