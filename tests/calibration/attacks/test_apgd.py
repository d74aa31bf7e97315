import numpy as np
import pytest
import torch

from calibration.attacks.apgd import Apgd, checkpoints
from calibration.attacks.igs import Igs
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY, CrossEntropy
from calibration.objectives.margin import PairMargin
from calibration.objectives.rule import LargestConfidence, TargetConfidence, WrongConfidence
from calibration.pixels import to_pixels
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP, dataset, guard_file
from tests.calibration.small_files import CLASSES, HEIGHT, WIDTH, small_file
from tests.calibration.torch_networks import exported, table_1

EPSILON = 0.1


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(small_file(), threads=1)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    return to_pixels(rng.integers(0, 256, (13, HEIGHT, WIDTH, 1), dtype=np.uint8)), rng.integers(0, CLASSES, 13)


def losses(graph, x, labels, objective=CROSS_ENTROPY):
    return graph.value_and_gradient(objective, x, labels=labels).loss


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("options", [{}, {"all_targets": True}], ids=["untargeted", "all targets"])
def test_examples_stay_in_the_ball_and_in_the_cube(graph, sample, norm, epsilon, options):
    x, labels = sample
    result = Apgd(epsilon=epsilon, norm=norm, steps=8, restarts=2, **options)(graph, x, labels)
    change = (result.x_adv.astype(np.float64) - x).reshape(len(x), -1)
    assert np.linalg.norm(change, ord=np.inf if norm == "linf" else 2, axis=1).max() <= epsilon + 1e-6
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1


def test_checkpoints_are_those_of_the_paper():
    # p = 0, .22, .41, .57, .70, .80, .87, .93, .99 of the steps.
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(1) == ()


def restated(gradient_of, x, epsilon, steps):
    """Algorithm 1 of Croce and Hein for one image, in plain torch."""

    def project(z):
        return torch.max(torch.min(z, x + epsilon), x - epsilon).clamp(0, 1)

    marks = set(checkpoints(steps)) | {steps}
    here, before = x.clone(), x.clone()
    loss, gradient = gradient_of(here)
    best, best_loss, best_gradient = here.clone(), loss, gradient
    length, rises, last, then, halved, previous = 2 * epsilon, 0, loss, -np.inf, False, 0
    for step in range(1, steps + 1):
        ahead = project(here + length * gradient.sign())
        if step > 1:
            ahead = project(here + 0.75 * (ahead - here) + 0.25 * (here - before))
        before, here = here, ahead
        loss, gradient = gradient_of(here)
        rises += loss > last
        last = loss
        if loss > best_loss:
            best, best_loss, best_gradient = here.clone(), loss, gradient
        if step in marks:
            halve = rises < 0.75 * (step - previous) or (not halved and best_loss == then)
            if halve:
                length, here, before, gradient = length / 2, best.clone(), best.clone(), best_gradient
            halved, then, rises, previous = halve, best_loss, 0, step
    return best, best_loss


def test_it_is_the_published_algorithm():
    torch.manual_seed(0)
    shape = (1, 12, 12)
    module = table_1(widths=(8, 8))
    module(torch.rand(2, *shape))
    module.eval()
    graph = GradientGraph(exported(module, shape, 18), threads=1)
    x, labels = np.random.default_rng(0).random((5, *shape), dtype=np.float32), np.arange(5)
    found = Apgd(epsilon=0.1, steps=30, restarts=1)(graph, x, labels)
    for index in range(len(x)):

        def gradient_of(pixels, index=index):
            pixels = pixels.detach()[None].requires_grad_()
            loss = torch.nn.functional.cross_entropy(module(pixels), torch.tensor(labels[index : index + 1]))
            loss.backward()
            return loss.item(), pixels.grad[0].sign()

        _, expected = restated(gradient_of, torch.tensor(x[index]), 0.1, 30)
        got = losses(graph, found.x_adv[index : index + 1], labels[index : index + 1])[0]
        # A sign may differ where a gradient is zero to rounding, and then the paths part.
        assert got == pytest.approx(expected, rel=0.02)


def test_it_finds_no_less_than_fixed_steps_at_the_same_cost(graph, sample):
    x, labels = sample
    ours = losses(graph, Apgd(epsilon=EPSILON, steps=40, restarts=1)(graph, x, labels).x_adv, labels)
    fixed = losses(graph, Igs(epsilon=EPSILON, steps=41)(graph, x, labels).x_adv, labels)
    assert ours.mean() >= fixed.mean() - 1e-4


@pytest.mark.parametrize(
    ("options", "radii", "steps"),
    [
        pytest.param({"steps": 100}, [6, *np.linspace(6, 2, 12)[1:-1], 2], [30, *[6] * 10, 10], id="l2"),
        pytest.param(
            {"steps": 20, "widest": 1.5}, [3, *np.linspace(3, 2, 6)[1:-1], 2], [6, 3, 3, 3, 3, 2], id="few steps"
        ),
        pytest.param({"steps": 4}, [2], [4], id="too few to shrink"),
        pytest.param({"steps": 50, "widest": 1}, [2], [50], id="inside"),
        pytest.param({"steps": 50, "norm": "linf", "epsilon": 0.3}, [0.3], [50], id="linf"),
        pytest.param(
            {"steps": 10, "norm": "linf", "epsilon": 0.4, "widest": 4},
            [1, 1, 0.8, 0.4],
            [3, 3, 3, 1],
            id="no wider than all",
        ),
    ],
)
def test_the_ball_shrinks_to_its_last_radius(options, radii, steps):
    *_, stages = Apgd(**{"epsilon": 2.0, "norm": "l2", **options}).climbs
    assert [stage.budget.epsilon for stage in stages] == pytest.approx(radii)
    assert [stage.steps for stage in stages] == steps


@pytest.mark.parametrize("asked", [0, 1, 7, 30], ids=["at the image", "early", "second climb", "late"])
@pytest.mark.parametrize("options", [{}, {"all_targets": True}], ids=["untargeted", "all targets"])
def test_a_batch_may_be_done_in_any_stage(graph, sample, options, asked):
    x, labels = sample
    seen = []

    def succeeded(x_adv, rows):
        seen.append(rows)
        return np.full(len(rows), len(seen) > asked)

    Apgd(epsilon=0.5, norm="l2", steps=20, restarts=1, **options)(graph, x, labels, succeeded=succeeded)
    done = np.concatenate(seen[asked:])
    assert len(done)
    assert len(done) == len(np.unique(done))


class Plateau(torch.nn.Module):
    """A wrong label that one pixel brings about, and only above one half; below, every other pixel counts more."""

    def forward(self, x):
        pixel = x[:, 0, 2, 1]
        wrong = 0.2 * (x.sum(dim=(1, 2, 3)) - pixel) + 0.1 * pixel + 9 * torch.relu(pixel - 0.5)
        return torch.stack([torch.zeros_like(wrong), wrong], dim=1)


def test_what_lies_behind_a_plateau_is_found_from_outside():
    graph = GradientGraph(exported(Plateau(), (1, 4, 4), 18), threads=1)
    x, labels = np.zeros((3, 1, 4, 4), dtype=np.float32), np.zeros(3, dtype=np.int64)
    inside, from_outside = (
        Apgd(epsilon=0.8, norm="l2", steps=60, restarts=1, widest=widest)(graph, x, labels).x_adv[:, 0, 2, 1]
        for widest in (1, 5)
    )
    assert inside.max() < 0.5
    assert from_outside.min() > 0.75


def test_restarts_and_targets_only_help(graph, sample):
    x, labels = sample
    means = [
        losses(graph, Apgd(epsilon=EPSILON, steps=3, restarts=starts)(graph, x, labels).x_adv, labels).mean()
        for starts in (1, 3)
    ]
    assert means[0] <= means[1]


@pytest.mark.parametrize("options", [{}, {"all_targets": True}], ids=["untargeted", "all targets"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_same_seed_same_bits_whatever_the_batch_size(graph, sample, options, batch_size):
    x, labels = sample
    attack = Apgd(epsilon=EPSILON, steps=6, restarts=2, seed=3, **options)
    expected = attack(graph, x, labels).x_adv
    np.testing.assert_array_equal(attack(graph, x, labels, batch_size=batch_size).x_adv, expected)


def test_every_wrong_label_is_tried_likeliest_first(graph, sample):
    x, labels = sample
    asked = []

    class Spy:
        shape, classes = graph.shape, graph.classes

        def value_and_gradient(self, objective, pixels, *, targets):
            if len(pixels) == len(x):
                asked.append(targets.copy())
            return graph.value_and_gradient(objective, pixels, targets=targets)

    result = Apgd(epsilon=EPSILON, steps=1, restarts=1, all_targets=True)(Spy(), x, labels)
    tried = np.stack(asked)[::2]
    every = np.sort(np.vstack([tried, labels]), axis=0)
    np.testing.assert_array_equal(every, np.broadcast_to(np.arange(CLASSES)[:, None], every.shape))
    z = graph.logits(x)["logits"]
    assert (z[np.arange(len(x)), tried[0]] >= z[np.arange(len(x)), tried[1]]).all()
    assert result.gradients.tolist() == [3 * (CLASSES - 1)] * len(x)


def test_images_that_succeeded_cost_nothing_more(graph, sample):
    x, labels = sample
    done = np.arange(len(x)) % 2 == 0
    seen = []

    class Spy:
        shape, classes = graph.shape, graph.classes

        def value_and_gradient(self, objective, pixels, **inputs):
            seen.append(len(pixels))
            return graph.value_and_gradient(objective, pixels, **inputs)

    attack = Apgd(epsilon=EPSILON, steps=10, restarts=2)
    result = attack(Spy(), x, labels, succeeded=lambda x_adv, rows: done[rows])
    assert result.gradients.tolist() == np.where(done, 1, 22).tolist()
    assert sum(seen) == result.gradients.sum()


def test_it_fools_a_rule_through_its_margin_and_its_confidence():
    data = dataset()
    graph = GradientGraph(guard_file(), device="cpu", threads=1)
    x, labels = to_pixels(data.test.images[:40]), data.test.labels[:40]
    for objective in (WrongConfidence(classmap=CLASSMAP), PairMargin(classmap=CLASSMAP)):
        before = losses(graph, x, labels, objective)
        after = losses(
            graph,
            Apgd(epsilon=0.2, steps=20, restarts=1, objective=objective)(graph, x, labels).x_adv,
            labels,
            objective,
        )
        assert (after >= before).all()
        assert after.mean() > before.mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, r"expected epsilon in \[0, 1\], got -0.1"),
        ({"epsilon": 0.1, "steps": 0}, "expected steps as a whole number of at least 1, got 0"),
        ({"epsilon": 0.1, "restarts": 0}, "expected restarts as a whole number of at least 1, got 0"),
        ({"epsilon": 0.1, "seed": -1}, "expected seed as a whole number of at least 0, got -1"),
        (
            {"epsilon": 0.1, "widest": 0.5},
            "expected widest as a multiple of epsilon from 1 to 1000, got 0.5",
        ),
        (
            {"epsilon": 0.1, "all_targets": True, "objective": LargestConfidence()},
            "expected a targeted objective for all_targets, got LargestConfidence",
        ),
    ],
    ids=["epsilon", "steps", "restarts", "seed", "widest", "targets"],
)
def test_refuses_bad_hyper_parameters(options, message):
    with pytest.raises(UsageError, match=message):
        Apgd(**options)


def test_all_targets_aims_the_cross_entropy_itself():
    assert Apgd(epsilon=0.1, all_targets=True).objective == CrossEntropy(targeted=True)
    aimed = Apgd(epsilon=0.1, all_targets=True, objective=TargetConfidence(classmap=None))
    assert (aimed.inputs, aimed.aims) == (("labels",), True)
