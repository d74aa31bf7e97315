from dataclasses import replace

import numpy as np
import pytest

from calibration.attacks import Pgd
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deployed import Gallery
from calibration.evaluation.victims import open_victim
from calibration.gradients import GradientGraph
from calibration.objectives import CrossEntropy
from calibration.objectives.margin import PairMargin
from calibration.objectives.pool import Expectation, ExpectedMargin, member_tensor
from calibration.objectives.rule import LargestConfidence, WrongConfidence
from calibration.pixels import to_pixels
from calibration.pools import DeployedPool, open_pool
from calibration.threats import THREATS, aim, aim_at_pool
from runtime.errors import UsageError
from runtime.guard import Guard
from tests.calibration.guards import CLASSMAP, dataset, guard_file

RUN = {"device": "cpu", "threads": 1}
N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    for name, model in {
        "pair": guard_file(),
        "doubtful": guard_file(doubt=3.0),
        "single": guard_file(pair=False, sharpness=2.0),
        "other": guard_file(classes=("a", "b", "c", "d")),
        "newer": guard_file(opset=20),
    }.items():
        (folder / f"{name}.onnx").write_bytes(model)
    return folder


def opened(folder, *names):
    return [open_victim(folder / f"{name}.onnx", dataset(), adoption=None) for name in names]


@pytest.fixture(scope="module")
def members(folder):
    return opened(folder, "pair", "doubtful", "single")


@pytest.fixture(scope="module")
def sample():
    test = dataset().test
    return to_pixels(test.images[:N]), test.labels[:N]


OBJECTIVES = (
    WrongConfidence(classmap=CLASSMAP),
    WrongConfidence(classmap=CLASSMAP),
    LargestConfidence(),
)
MARGINS = (
    PairMargin(classmap=CLASSMAP),
    PairMargin(classmap=CLASSMAP, threshold=0.2),
    PairMargin(classmap=None, threshold=0.6),
)


def test_gradient_and_loss_are_the_means_of_the_members(members, sample):
    x, labels = sample
    objective = Expectation(members=OBJECTIVES)
    found = GradientGraph(open_pool(members).artifact.model, of=objective.reads, **RUN).value_and_gradient(
        objective, x, labels=labels
    )
    alone = [
        GradientGraph(one.artifact.model, of=own.reads, **RUN).value_and_gradient(own, x, labels=labels)
        for one, own in zip(members, OBJECTIVES, strict=True)
    ]
    np.testing.assert_allclose(found.loss, np.mean([one.loss for one in alone], axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.gradient, np.mean([one.gradient for one in alone], axis=0), rtol=1e-3, atol=1e-5)
    for number, one in enumerate(alone):
        for name, values in one.logits.items():
            np.testing.assert_allclose(found.logits[member_tensor(number, name)], values, rtol=1e-4, atol=1e-5)


def test_margin_is_that_of_the_member_that_resists_most(members, sample):
    x, labels = sample
    objective = ExpectedMargin(members=MARGINS)
    graph = GradientGraph(open_pool(members).artifact.model, of=objective.reads, **RUN)
    found = objective.margin(graph.logits(x), {"labels": labels})
    alone = [
        own.margin(GradientGraph(one.artifact.model, of=own.reads, **RUN).logits(x), {"labels": labels})
        for one, own in zip(members, MARGINS, strict=True)
    ]
    np.testing.assert_allclose(found, np.min(alone, axis=0), rtol=1e-4, atol=1e-4)
    assert objective.guide(0.5) == Expectation(members=tuple(one.guide(0.5) for one in MARGINS))


def test_cw_stops_where_every_member_is_fooled(members, sample):
    x, labels = sample
    objective = ExpectedMargin(members=tuple(replace(one, threshold=0.0) for one in MARGINS))
    graph = GradientGraph(open_pool(members).artifact.model, of=objective.reads, **RUN)
    result = CarliniWagner(objective=objective, rounds=2, steps=10)(graph, x[:8], labels[:8])
    moved = (result.x_adv != x[:8]).reshape(8, -1).any(axis=1)
    assert moved.sum() >= 6
    assert (objective.margin(graph.logits(result.x_adv), {"labels": labels[:8]})[moved] > 0).all()


@pytest.mark.parametrize("reading", ["pool", "member", "z-star"])
def test_each_member_brings_its_own_objective(members, reading):
    threat = next(one for one in THREATS if one.reading == reading)
    specs = [one.artifact.spec for one in members]
    found = aim_at_pool(Pgd(epsilon=0.1), threat, specs)
    objectives = (CrossEntropy(),) * 3 if reading == "z-star" else OBJECTIVES
    attacked = (0, 1, 2) if reading == "member" else (None,)
    assert [one.objective for one in found] == [Expectation(members=objectives, only=only) for only in attacked]
    margins = aim_at_pool(CarliniWagner(), threat, specs)
    assert [one.objective.only for one in margins] == list(attacked)
    assert all(isinstance(one.objective, ExpectedMargin) for one in margins)
    assert [one.name for one in (aim(Pgd(epsilon=0.1), threat, specs[0]),) if one] == ["pgd"]


def test_answers_are_drawn_for_each_image(members, sample):
    x, _ = sample
    guards = [Guard(one.artifact.model, **RUN) for one in members]
    images = dataset().test.images[:N]
    everybody = [guard.classify(images) for guard in guards]
    asked = [DeployedPool(guards, seed=3) for _ in range(2)]
    first, again = (pool.verdicts(x) for pool in asked)
    np.testing.assert_array_equal(first.confidence, again.confidence)
    drawn = np.random.default_rng(3).integers(3, size=N)
    assert len(set(drawn)) == 3
    for name in ("labels", "accepted", "confidence"):
        np.testing.assert_array_equal(
            getattr(first, name), [getattr(everybody[who], name)[row] for row, who in enumerate(drawn)]
        )
    assert asked[0].queries == N
    assert asked[0].classmap is None
    assert (asked[0].verdicts(x).confidence != first.confidence).any()
    gallery = Gallery(images=images, labels=dataset().test.labels[:N])
    assert DeployedPool(guards, gallery=gallery).gallery.shape == x.shape
    for guard in guards:
        guard.close()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pair"], "--pool: expected guards that differ"),
        (["pair", "pair"], "--pool: expected guards that differ"),
        (["pair", "newer"], "--pool: expected members of one operator set, got 18, 20"),
    ],
    ids=["one", "twice", "operators"],
)
def test_refuses_what_is_no_pool(folder, names, message):
    with pytest.raises(UsageError, match=message):
        open_pool(opened(folder, *names))


def test_refuses_members_of_other_classes(folder, members):
    other = open_victim(folder / "other.onnx", replace(dataset(), classes=("a", "b", "c", "d")), adoption=None)
    with pytest.raises(UsageError, match=r"other\.onnx: expected the classes of .*pair\.onnx"):
        open_pool([members[0], other])


@pytest.mark.parametrize(
    "objectives",
    [(CrossEntropy(),), (CrossEntropy(), CrossEntropy(targeted=True))],
    ids=["one", "different inputs"],
)
def test_refuses_what_has_no_mean(objectives):
    with pytest.raises(UsageError, match="expected two or more objectives with the same inputs"):
        Expectation(members=objectives)
