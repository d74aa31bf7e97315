"""A point where both heads agree on a wrong label is a success, and is not given up for one of a greater loss."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from calibration.attacks.apgd import Apgd
from calibration.attacks.pgd import Pgd
from calibration.gradients import GradientGraph
from calibration.objectives.margin import Margin, PairMargin, decides
from calibration.objectives.rule import LargestConfidence, TargetConfidence, WrongConfidence
from tests.calibration.guards import CLASSMAP

WRONG = WrongConfidence(classmap=CLASSMAP)
RULE = PairMargin(classmap=CLASSMAP)
SLOPES = np.float32([[-4, 0, 0, 0, 0, -4, 0, 0.8]])
BIASES = np.float32([2, 0, -0.3, -10, 0, 2, -10, -0.5])


@pytest.fixture(scope="module")
def graph():
    """One pixel s; the label is 0. Both heads name label 1 for s in (0.5, 0.625); beyond, Z' goes over to label 2.

    All wrong labels together have the greatest confidence at s = 1, where the heads disagree and the rule rejects.
    """
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]>'
        "agraph (float[N,1,1,1] pixels) => (float[N,4] logits, float[N,4] robust_logits)"
        " { flat = Flatten (pixels) z = Gemm (flat, slopes, biases)"
        " logits, robust_logits = Split <axis = 1, num_outputs = 2> (z) }"
    )
    constants = {"slopes": SLOPES, "biases": BIASES}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return GradientGraph(model, threads=1)


def accepted(graph, x):
    return RULE.margin(graph.logits(x), {"labels": np.zeros(len(x), int)}) > 0


def test_the_greatest_confidence_is_no_success_here(graph):
    x = np.linspace(0, 1, 101, dtype=np.float32).reshape(-1, 1, 1, 1)
    loss = graph.value_and_gradient(WRONG, x, labels=np.zeros(101, int)).loss
    assert loss.argmax() == 100
    assert np.flatnonzero(accepted(graph, x)).tolist() == list(range(51, 63))


@pytest.mark.parametrize(
    "attack",
    [
        Pgd(epsilon=1.0, step_size=0.09, steps=20, restarts=1, objective=WRONG),
        Pgd(epsilon=1.0, norm="l2", step_size=0.09, steps=20, restarts=1, objective=WRONG),
        Apgd(epsilon=0.6, steps=20, restarts=3, objective=WRONG),
        Apgd(epsilon=0.6, steps=20, restarts=1, widest=1.5, objective=WRONG),
        Apgd(epsilon=0.6, steps=20, restarts=1, all_targets=True, objective=TargetConfidence(classmap=CLASSMAP)),
    ],
    ids=["pgd", "pgd l2", "apgd", "apgd from outside", "every target"],
)
def test_a_success_on_the_way_is_kept(graph, attack):
    x, labels = np.zeros((3, 1, 1, 1), np.float32), np.zeros(3, int)
    assert accepted(graph, attack(graph, x, labels, succeeded=lambda points, _: accepted(graph, points)).x_adv).all()


def test_two_heads_decide_together():
    z = {"logits": np.zeros((3, 4), np.float32), "robust_logits": np.zeros((3, 4), np.float32)}
    z["logits"][np.arange(3), [1, 1, 0]] = 2
    z["robust_logits"][np.arange(3), [CLASSMAP[1], CLASSMAP[2], CLASSMAP[0]]] = 2
    wrong, to_one = {"labels": np.zeros(3, int)}, {"targets": np.ones(3, int)}
    assert decides(WRONG, z, wrong).tolist() == [True, False, False]
    assert decides(TargetConfidence(classmap=CLASSMAP), z, to_one).tolist() == [True, False, False]
    for single in (LargestConfidence(), Margin()):
        assert not decides(single, z, wrong).any()
