import numpy as np
import pytest

from calibration.attacks import Igs, Pgd
from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY
from calibration.pixels import to_pixels
from tests.calibration.small_files import CLASSES, HEIGHT, WIDTH, small_file

EPSILON = 0.15


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(small_file(), threads=1)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (13, HEIGHT, WIDTH, 1), dtype=np.uint8)
    return to_pixels(images), rng.integers(0, CLASSES, 13)


def losses(graph, x, labels):
    return graph.value_and_gradient(CROSS_ENTROPY, x, labels=labels).loss


@pytest.mark.parametrize("step_size", [0.005, 1.0], ids=["small steps", "steps that overshoot"])
def test_first_start_is_igs_with_its_best_point_kept(graph, sample, step_size):
    x, labels = sample
    options = {"epsilon": EPSILON, "step_size": step_size}
    points = [x, *(Igs(steps=steps, **options)(graph, x, labels).x_adv for steps in range(1, 6))]
    best = np.max([losses(graph, point, labels) for point in points], axis=0)
    found = Pgd(steps=5, restarts=1, **options)(graph, x, labels)
    np.testing.assert_allclose(losses(graph, found.x_adv, labels), best, rtol=1e-6)
    assert found.gradients.tolist() == [6] * len(x)


def test_another_start_never_lowers_the_loss(graph, sample):
    x, labels = sample
    reached = [
        losses(graph, Pgd(epsilon=EPSILON, steps=2, restarts=starts)(graph, x, labels).x_adv, labels)
        for starts in (1, 2, 6)
    ]
    assert (np.diff(reached, axis=0) >= -1e-6).all()
    assert (reached[-1] > reached[0] + 1e-4).any()


def test_steps_of_a_random_start_shrink_from_the_radius(graph, sample):
    """With the seed known, the second start is followed by hand."""
    x, labels = sample[0][:1], sample[1][:1]
    options = {"epsilon": EPSILON, "step_size": 0.05, "steps": 3}
    low, high = np.maximum(x - np.float32(EPSILON), 0), np.minimum(x + np.float32(EPSILON), 1)
    noise = np.random.default_rng([7, 1, 0]).random(x.shape[1:], dtype=np.float32)
    points = [np.clip(x + np.float32(EPSILON) * (2 * noise - 1), low, high)]
    for length in (0.15, 0.1, 0.05):
        sign = np.sign(graph.value_and_gradient(CROSS_ENTROPY, points[-1], labels=labels).gradient)
        points.append(np.clip(points[-1] + np.float32(length) * sign, low, high))
    first = Pgd(restarts=1, **options)(graph, x, labels).x_adv
    best = max(float(losses(graph, point, labels)[0]) for point in (*points, first))
    found = Pgd(restarts=2, seed=7, **options)(graph, x, labels)
    assert losses(graph, found.x_adv, labels)[0] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_images_that_are_done_are_left_alone_and_cost_nothing_more(graph, sample, batch_size):
    """What the others get depends neither on who is done nor on the batch size."""
    x, labels = sample
    done = np.arange(len(x)) % 3 == 0
    asked = []

    def succeeded(x_adv, rows):
        asked.append(rows)
        assert len(x_adv) == len(rows)
        return done[rows]

    options = {"epsilon": EPSILON, "steps": 2, "restarts": 3}
    found = Pgd(**options)(graph, x, labels, succeeded=succeeded, batch_size=batch_size)
    once, thrice = (Pgd(**options | {"restarts": starts})(graph, x, labels) for starts in (1, 3))
    np.testing.assert_array_equal(found.x_adv, np.where(done[:, None, None, None], once.x_adv, thrice.x_adv))
    np.testing.assert_array_equal(found.gradients, np.where(done, 3, 9))
    assert np.bincount(np.concatenate(asked)).tolist() == np.where(done, 1, 3).tolist()


def test_random_starts_differ_by_seed_image_and_number(graph, sample):
    x, labels = np.full_like(sample[0], 0.5), sample[1]
    still = {"epsilon": EPSILON, "step_size": 0.0, "steps": 1}
    starts = [Pgd(restarts=2, seed=seed, **still)(graph, x, labels).x_adv for seed in (0, 1)]
    moved = np.abs(starts[0] - x).max(axis=(1, 2, 3)) > 0
    assert moved.any()
    assert len(np.unique(starts[0][moved], axis=0)) == moved.sum()
    assert not np.allclose(starts[0], starts[1], atol=0.01)


def test_defaults_are_those_of_the_configuration(graph, sample):
    found = Pgd(epsilon=EPSILON)(graph, *sample)
    assert found.attack == Pgd(epsilon=EPSILON)
    assert (found.attack.steps, found.attack.restarts) == (40, 3)
    assert found.attack.step_size == pytest.approx(2.5 * EPSILON / 40)
