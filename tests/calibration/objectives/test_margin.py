import numpy as np
import onnx.parser
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.gradients import GradientGraph
from calibration.judge import Judge
from calibration.objectives.log_odds import LogOdds, PairLogOdds
from calibration.objectives.margin import Margin, PairMargin, SummedMargins
from calibration.pixels import to_pixels
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP, dataset, guard_file

SHARED = (1, 0, 0, 0)
"""A Classmap in which classes share a partner, as the paper's per-row one does."""

K = 4

logits = hnp.arrays(np.float32, (5, 2 * K), elements=st.integers(-3, 3).map(np.float32))
"""Small integers, so that ties are frequent."""


@pytest.fixture(scope="module")
def halves():
    """A classifier whose pixels are its logits: the first four those of one head, the others those of the other."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,8] z) => (float[N,4] logits, float[N,4] robust_logits)"
        " { logits, robust_logits = Split <axis = 1, num_outputs = 2> (z) }"
    )
    return GradientGraph(model, wrt="z", threads=1)


def margin_of(z, label):
    """How far `label` leads all others, in torch."""
    others = [j for j in range(K) if j != label]
    return z[label] - z[others].max()


def pair_margin_of(z, label, objective):
    first, second = z[:K], z[K:]
    terms = [margin_of(first, label)]
    confidence = torch.log_softmax(first, 0)[label]
    if objective.classmap is not None:
        partner = objective.classmap[label]
        terms.append(margin_of(second, partner))
        confidence = confidence + torch.log_softmax(second, 0)[partner]
    if objective.threshold:
        terms.append(confidence - np.log(objective.threshold))
    return torch.stack(terms).min()


def definition(objective, z, label):
    """The objective of one row of logits, in float64, one label after another."""
    wrong = [t for t in range(K) if t != label]
    if isinstance(objective, Margin):
        return margin_of(z[:K], label) if objective.targeted else z[wrong].max() - z[label]
    if isinstance(objective, SummedMargins):
        margins = torch.stack([margin_of(z[:K], label), margin_of(z[K:], objective.classmap[label])])
        if objective.cap is not None:
            margins = margins.clamp(max=objective.cap)
        return (torch.tensor(objective.weights) * margins).sum()
    if objective.targeted:
        return pair_margin_of(z, label, objective)
    if objective.classmap is None and not objective.threshold:
        return z[wrong].max() - z[label]
    return torch.stack([pair_margin_of(z, t, objective) for t in wrong]).max()


OBJECTIVES = {
    "margin": Margin(),
    "targeted margin": Margin(targeted=True),
    "pair": PairMargin(classmap=CLASSMAP),
    "targeted pair": PairMargin(classmap=CLASSMAP, targeted=True),
    "pair of shared partners": PairMargin(classmap=SHARED),
    "pair with a threshold": PairMargin(classmap=CLASSMAP, threshold=0.9),
    "targeted pair with a threshold": PairMargin(classmap=SHARED, threshold=0.2, targeted=True),
    "single head": PairMargin(classmap=None),
    "targeted single head": PairMargin(classmap=None, targeted=True),
    "single head with a threshold": PairMargin(classmap=None, threshold=0.9),
    "sum": SummedMargins(classmap=CLASSMAP),
    "weighted sum of shared partners": SummedMargins(classmap=SHARED, weights=(1.0, 0.3)),
    "capped sum": SummedMargins(classmap=CLASSMAP, cap=2.0),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def evaluated(graph, objective, z, labels):
    return graph.value_and_gradient(objective, z, **{objective.inputs[0]: labels})


@pytest.mark.parametrize("scale", [1, 20, 300])
@every_objective
def test_value_and_gradient_equal_torch(halves, objective, scale):
    labels = np.arange(16) % K
    z = (scale * np.random.default_rng(0).normal(size=(16, 2 * K))).astype(np.float32)
    exact = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([definition(objective, row, label) for row, label in zip(exact, labels, strict=True)])
    expected.sum().backward()
    found = evaluated(halves, objective, z, labels)
    np.testing.assert_allclose(found.loss, expected.detach(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.gradient, exact.grad, rtol=1e-4, atol=1e-6)


@every_objective
def test_margin_of_logits_is_the_value_of_the_nodes(halves, objective):
    z = np.random.default_rng(1).normal(0, 5, size=(50, 2 * K)).astype(np.float32)
    labels = np.arange(50) % K
    found = evaluated(halves, objective, z, labels)
    again = objective.margin(found.logits, {objective.inputs[0]: labels})
    assert again.dtype == np.float32
    if getattr(objective, "threshold", 0):
        np.testing.assert_allclose(again, found.loss, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(again, found.loss)


@settings(max_examples=50, deadline=None)
@given(z=logits)
def test_above_zero_exactly_where_the_head_says_so(halves, z):
    """Ties are nobody's win."""
    labels = np.arange(5) % K
    for targeted in (False, True):
        objective = Margin(targeted=targeted)
        own = z[np.arange(5), labels]
        others = np.array([np.delete(row[:K], label).max() for row, label in zip(z, labels, strict=True)])
        np.testing.assert_array_equal(
            evaluated(halves, objective, z, labels).loss > 0, own > others if targeted else own < others
        )


@settings(max_examples=50, deadline=None)
@given(z=logits)
def test_above_zero_exactly_where_the_rule_accepts(halves, z):
    labels = np.arange(5) % K
    for classmap in (CLASSMAP, SHARED):
        accepts = np.zeros((5, K), dtype=bool)
        for row in range(5):
            for t in range(K):
                first, second = z[row, :K], z[row, K:]
                accepts[row, t] = (first[t] > np.delete(first, t)).all() and (
                    second[classmap[t]] > np.delete(second, classmap[t])
                ).all()
        targeted = evaluated(halves, PairMargin(classmap=classmap, targeted=True), z, labels).loss
        np.testing.assert_array_equal(targeted > 0, accepts[np.arange(5), labels])
        accepts[np.arange(5), labels] = False
        untargeted = evaluated(halves, PairMargin(classmap=classmap), z, labels).loss
        np.testing.assert_array_equal(untargeted > 0, accepts.any(axis=1))


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "single head"])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_above_zero_exactly_where_the_file_accepts_a_mistake(pair, threshold):
    """The shipped rule, threshold included, is the oracle."""
    data = dataset(noise=0.8)
    model = guard_file(pair=pair)
    judged = Judge(read_artifact(model), device="cpu", threads=1).verdicts(to_pixels(data.test.images))
    fooled = (judged.labels != data.test.labels) & judged.accepted & (judged.confidence >= threshold)
    objective = PairMargin(classmap=CLASSMAP if pair else None, threshold=threshold)
    graph = GradientGraph(model, device="cpu", threads=1)
    found = graph.value_and_gradient(objective, to_pixels(data.test.images), labels=data.test.labels).loss
    sure = np.abs(found) > 1e-5
    np.testing.assert_array_equal((found > 0)[sure], fooled[sure])
    assert fooled.sum() > 5
    assert sure.mean() > 0.99


def test_only_the_worse_head_of_a_pair_has_a_gradient(halves):
    """In a sum, the easy head goes on paying for the other one."""
    z = np.array([[0, 30.0, 0, 0, 0, 30.0, 0, 0]], dtype=np.float32)
    labels = np.array([1])
    worse = evaluated(halves, PairMargin(classmap=CLASSMAP, targeted=True), z, labels)
    assert worse.loss[0] == -30
    assert not worse.gradient[0, :K].any()
    summed = evaluated(halves, SummedMargins(classmap=CLASSMAP), z, labels)
    assert summed.loss[0] == 0
    assert summed.gradient[0, :K].any()
    capped = evaluated(halves, SummedMargins(classmap=CLASSMAP, cap=5.0), z, labels)
    assert capped.loss[0] == pytest.approx((5 - 30) / 2)
    assert not capped.gradient[0, :K].any()


def test_a_capped_sum_reaches_the_cap_only_where_both_heads_do(halves):
    z = np.random.default_rng(2).integers(-9, 10, size=(200, 2 * K)).astype(np.float32)
    labels = np.arange(200) % K
    both = evaluated(halves, PairMargin(classmap=CLASSMAP, targeted=True), z, labels).loss >= 2
    summed = evaluated(halves, SummedMargins(classmap=CLASSMAP, cap=2.0), z, labels).loss
    np.testing.assert_array_equal(summed == 2, both)
    assert both.any()


def test_the_logits_before_the_lock_can_play_the_first_head():
    """In this file they are the negative of those behind it."""
    data = dataset()
    graph = GradientGraph(
        guard_file(unlocked=True), of=("logits", "robust_logits", "unlocked_logits"), device="cpu", threads=1
    )
    x, labels = to_pixels(data.test.images[:20]), data.test.labels[:20]
    z = graph.logits(x)
    before = graph.value_and_gradient(Margin(of="unlocked_logits"), x, labels=labels).loss
    expected = [np.delete(-row, label).max() + row[label] for row, label in zip(z["logits"], labels, strict=True)]
    np.testing.assert_allclose(before, expected, rtol=1e-6)
    for objective in (
        PairMargin(classmap=CLASSMAP, logits="unlocked_logits"),
        PairMargin(classmap=CLASSMAP, logits="unlocked_logits").guide(0.0),
    ):
        assert objective.reads == ("unlocked_logits", "robust_logits")
        assert np.isfinite(graph.value_and_gradient(objective, x, labels=labels).gradient).all()


@pytest.mark.parametrize(
    ("objective", "reads", "inputs", "guide"),
    [
        (Margin(of="z"), ("z",), ("labels",), LogOdds(of="z")),
        (Margin(targeted=True), ("logits",), ("targets",), LogOdds(targeted=True)),
        (
            PairMargin(classmap=CLASSMAP),
            ("logits", "robust_logits"),
            ("labels",),
            PairLogOdds(classmap=CLASSMAP, confidence=3.0),
        ),
        (PairMargin(classmap=None), ("logits",), ("labels",), LogOdds()),
        (
            PairMargin(classmap=None, threshold=0.5, targeted=True),
            ("logits",),
            ("targets",),
            PairLogOdds(classmap=None, confidence=3.0, targeted=True),
        ),
        (
            SummedMargins(classmap=CLASSMAP),
            ("logits", "robust_logits"),
            ("targets",),
            SummedMargins(classmap=CLASSMAP),
        ),
    ],
    ids=["margin", "targeted margin", "pair", "single head", "single head with a threshold", "sum"],
)
def test_reads_inputs_and_guide(objective, reads, inputs, guide):
    assert (objective.reads, objective.inputs, objective.guide(3.0)) == (reads, inputs, guide)
    assert len({objective, guide}) == 2 - (objective == guide)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PairMargin, {"threshold": 1.5}, r"expected threshold in \[0, 1\], got 1.5"),
        (SummedMargins, {"weights": (0.0, 1.0)}, "expected weights as two numbers above 0, got"),
        (SummedMargins, {"cap": -1.0}, "expected cap as a number of at least 0, got -1.0"),
    ],
    ids=["threshold", "weights", "cap"],
)
def test_refuses_values_out_of_range(kind, options, message):
    with pytest.raises(UsageError, match=message):
        kind(classmap=CLASSMAP, **options)
