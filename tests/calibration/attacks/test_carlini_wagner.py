import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deepfool import DeepFool
from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.objectives import CROSS_ENTROPY
from calibration.objectives.margin import Margin, PairMargin, SummedMargins
from calibration.pixels import to_pixels
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP, dataset, guard_file

K, PIXELS = 4, 12


def linear(seed=0):
    """Logits ``W x + b`` of 3 x 4 pixels, and W and b."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(0, 1, (PIXELS, K)).astype(np.float32), rng.normal(0, 0.1, K).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 3, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", K])],
        initializer=[numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return GradientGraph(model, threads=1), w.astype(np.float64), b.astype(np.float64)


def sample(graph, n=40):
    x = np.random.default_rng(1).random((n, 1, 3, 4), dtype=np.float32) * np.float32(0.4) + np.float32(0.3)
    return x, graph.logits(x)["logits"].argmax(axis=1)


def boxed_distance(w, gap, low, high):
    """The least length of a change in the box with ``w @ change >= gap``: clip(c w) with the right c, by bisection."""
    small, large = 0.0, 1e6
    if w @ np.where(w > 0, high, low) < gap:
        return np.inf
    for _ in range(200):
        middle = (small + large) / 2
        if w @ np.clip(middle * w, low, high) >= gap:
            large = middle
        else:
            small = middle
    return float(np.linalg.norm(np.clip(large * w, low, high)))


def nearest(w, b, x, label, kappa):
    flat = x.reshape(-1).astype(np.float64)
    z = flat @ w + b
    wrong = [target for target in range(K) if target != label]
    return min(boxed_distance(w[:, t] - w[:, label], z[label] - z[t] + kappa, -flat, 1 - flat) for t in wrong)


def lengths(result, x):
    return np.linalg.norm((result.x_adv.astype(np.float64) - x).reshape(len(x), -1), axis=1)


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_on_a_linear_network_it_finds_the_nearest_image_in_the_box(kappa):
    graph, w, b = linear()
    x, labels = sample(graph)
    result = CarliniWagner(confidence=kappa)(graph, x, labels)
    z = graph.logits(result.x_adv)["logits"]
    own = z[np.arange(len(x)), labels]
    others = np.where(np.eye(K, dtype=bool)[labels], -np.inf, z).max(axis=1)
    exact = np.array([nearest(w, b, image, label, kappa) for image, label in zip(x, labels, strict=True)])
    reachable = np.isfinite(exact)
    assert reachable.mean() > 0.9
    assert (others - own >= kappa)[reachable].all()
    assert (lengths(result, x) >= exact - 1e-5)[reachable].all()
    assert np.mean(lengths(result, x)[reachable] / exact[reachable]) < 1.05


def test_targets_are_reached_and_cost_more():
    graph, _, _ = linear()
    x, labels = sample(graph)
    targets = (labels + 1) % K
    free = CarliniWagner()(graph, x, labels)
    aimed = CarliniWagner(objective=Margin(targeted=True))(graph, x, labels, targets=targets)
    hit = graph.logits(aimed.x_adv)["logits"].argmax(axis=1) == targets
    assert hit.mean() > 0.9
    assert lengths(aimed, x)[hit].mean() > lengths(free, x)[hit].mean()


@pytest.fixture(scope="module")
def guard():
    data = dataset()
    graph = GradientGraph(guard_file(), device="cpu", threads=1)
    return graph, to_pixels(data.test.images[:30]), data.test.labels[:30]


def test_it_needs_no_more_change_than_deepfool(guard):
    graph, x, labels = guard
    ours, theirs = (lengths(attack(graph, x, labels), x) for attack in (CarliniWagner(), DeepFool(norm="l2")))
    assert ours.mean() <= 1.01 * theirs.mean()


def test_the_pair_form_is_accepted_by_the_shipped_rule(guard):
    graph, x, labels = guard
    judge = Judge(read_artifact(guard_file()), device="cpu", threads=1)
    knowing = judge.verdicts(CarliniWagner(objective=PairMargin(classmap=CLASSMAP))(graph, x, labels).x_adv)
    assert (knowing.accepted & (knowing.labels != labels)).mean() > 0.8
    ignorant = judge.verdicts(CarliniWagner()(graph, x, labels).x_adv)
    assert (ignorant.accepted & (ignorant.labels != labels)).mean() < 0.5


def test_equation_10_runs_towards_its_targets(guard):
    graph, x, labels = guard
    targets = np.array(CLASSMAP)[labels]
    objective = SummedMargins(classmap=CLASSMAP)
    result = CarliniWagner(objective=objective, rounds=2)(graph, x, labels, targets=targets)
    after = graph.value_and_gradient(objective, result.x_adv, targets=targets).loss
    assert (after > 0).mean() > 0.8


def test_the_same_again_bit_for_bit(guard):
    graph, x, labels = guard
    attack = CarliniWagner(rounds=2, steps=10)
    np.testing.assert_array_equal(attack(graph, x, labels).x_adv, attack(graph, x, labels).x_adv)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_neighbours_change_nothing_but_rounding(guard, batch_size):
    graph, x, labels = guard
    attack = CarliniWagner(rounds=2, steps=10)
    together, apart = attack(graph, x, labels), attack(graph, x, labels, batch_size=batch_size)
    np.testing.assert_allclose(lengths(apart, x), lengths(together, x), rtol=0.05)


def test_a_finished_image_costs_nothing_more(guard):
    graph, x, labels = guard
    seen = []

    class Spy:
        shape, classes, logits = graph.shape, graph.classes, staticmethod(graph.logits)

        def value_and_gradient(self, objective, pixels, **inputs):
            seen.append(len(pixels))
            return graph.value_and_gradient(objective, pixels, **inputs)

    result = CarliniWagner()(Spy(), x, labels)
    assert sum(seen) == result.gradients.sum()
    assert result.gradients.min() < result.gradients.max()


def test_a_sweep_reaches_every_confidence(guard):
    graph, x, labels = guard
    confidences = [0.0, 1.0, 2.0]
    swept = list(CarliniWagner().sweep(graph, x, labels, confidences))
    assert [result.attack for result in swept] == [CarliniWagner(confidence=kappa) for kappa in confidences]
    for result, kappa in zip(swept, confidences, strict=True):
        margins = Margin().margin(graph.logits(result.x_adv), {"labels": labels})
        assert (margins >= kappa).mean() > 0.9
        anew = CarliniWagner(confidence=kappa)(graph, x, labels)
        assert lengths(result, x).mean() <= 1.05 * lengths(anew, x).mean()
    with pytest.raises(UsageError, match=r"expected confidences in ascending order, got \[1.0, 0.0\]"):
        list(CarliniWagner().sweep(graph, x, labels, [1.0, 0.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": CROSS_ENTROPY}, "expected objective as Margin, PairMargin or SummedMargins, got CrossEntropy"),
        ({"confidence": -1.0}, "expected confidence as a number of at least 0, got -1.0"),
        ({"rounds": 0}, "expected rounds as a whole number of at least 1, got 0"),
        ({"steps": 0}, "expected steps as a whole number of at least 1, got 0"),
        ({"step_size": 0.0}, r"expected step_size in \(0, 1\], got 0.0"),
        ({"growth": 2.0}, r"expected growth in \(0, 1\], got 2.0"),
    ],
    ids=["objective", "confidence", "rounds", "steps", "step size", "growth"],
)
def test_refuses_bad_hyper_parameters(options, message):
    with pytest.raises(UsageError, match=message):
        CarliniWagner(**options)
