from dataclasses import dataclass

import numpy as np
import pytest

from calibration.attacks import Budget, Fgs, Igs, Pgd
from calibration.attacks.attack import BATCH_SIZE
from calibration.evaluation.crafting import check_budget, craft
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from runtime.errors import CmtError
from tests.calibration.guards import dataset, guard_file


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(guard_file(), of=["logits"], device="cpu", threads=1)


@pytest.fixture(scope="module")
def images():
    test = dataset().test
    return to_pixels(test.images[: BATCH_SIZE + 9]), test.labels[: BATCH_SIZE + 9]


def never(x_adv, rows):
    return np.zeros(len(rows), dtype=np.bool_)


def silent(done, total):
    pass


def test_crafting_is_the_attack_and_reports_each_batch(graph, images):
    told = []
    attack = Igs(epsilon=0.2, steps=3)
    found = craft(attack, graph, *images, succeeded=never, report=lambda *pair: told.append(pair))
    np.testing.assert_array_equal(found.x_adv, attack(graph, *images).x_adv)
    assert told == [(BATCH_SIZE, BATCH_SIZE + 9), (BATCH_SIZE + 9, BATCH_SIZE + 9)]


def test_each_image_draws_its_own_random_start(graph, images):
    attack = Igs(epsilon=0.2, steps=1, step_size=1e-6, random_start=True, seed=5)
    pixels = np.full_like(images[0], 0.5)
    starts = craft(attack, graph, pixels, images[1], succeeded=never, report=silent).x_adv
    assert not np.allclose(starts[:9], starts[BATCH_SIZE:], atol=1e-3)
    again = attack(graph, pixels, images[1], batch_size=7)
    np.testing.assert_allclose(starts, again.x_adv, atol=3e-6)


def test_restarts_skip_the_images_that_succeeded_in_every_batch(graph, images):
    done = np.arange(len(images[1])) % 2 == 0
    attack = Pgd(epsilon=0.2, steps=1, restarts=2, seed=5)
    found = craft(attack, graph, *images, succeeded=lambda x_adv, rows: done[rows], report=silent)
    np.testing.assert_array_equal(found.gradients, np.where(done, 2, 4))
    once = Pgd(epsilon=0.2, steps=1, restarts=1)(graph, *images).x_adv
    np.testing.assert_array_equal(found.x_adv[done], once[done])


@dataclass(frozen=True, kw_only=True)
class Greedy(Fgs):
    def _craft(self, victim, batch, succeeded):
        return Fgs(epsilon=2 * self.epsilon)._craft(victim, batch, succeeded)


def test_attack_that_leaves_its_budget_is_found_out(graph, images):
    with pytest.raises(CmtError, match=r"attack: expected changes of at most 0\.1, got 0\.[12]"):
        craft(Greedy(epsilon=0.1), graph, *images, succeeded=never, report=silent)


@pytest.mark.parametrize(
    ("x_adv", "message"),
    [
        ([[0.5, 1.0001]], r"expected pixels in \[0, 1\], got 0\.5 to 1\.0001"),
        ([[-0.001, 0.5]], r"expected pixels in \[0, 1\], got -0\.001"),
        ([[np.nan, 0.5]], r"expected pixels in \[0, 1\], got nan"),
        ([[0.5, 0.601]], r"expected changes of at most 0\.1, got 0\.10"),
        ([[0.5], [0.5]], r"expected as many pixels as before, \(1, 2\), got \(2, 1\)"),
    ],
    ids=["above", "below", "nan", "too far", "shape"],
)
def test_budget(x_adv, message):
    with pytest.raises(CmtError, match=message):
        check_budget(np.full((1, 2), 0.5, np.float32), np.array(x_adv, np.float32), budget=Budget(epsilon=0.1))


def test_a_ball_of_l2_bounds_the_length():
    pixels = np.full((2, 4), 0.5, np.float32)
    check_budget(pixels, pixels + np.float32(0.1), budget=Budget(epsilon=0.2, norm="l2"))
    with pytest.raises(CmtError, match=r"expected changes of at most 0\.19, got 0\.2"):
        check_budget(pixels, pixels + np.float32(0.1), budget=Budget(epsilon=0.19, norm="l2"))


def test_float32_rounding_is_within_the_budget():
    pixels = np.random.default_rng(0).random((1000, 3), dtype=np.float32) * np.float32(0.6)
    check_budget(pixels, pixels + np.float32(0.3), budget=Budget(epsilon=0.3))
    check_budget(pixels, np.ones_like(pixels), budget=None)
