import numpy as np
import pytest

from calibration.attacks.deployed import Deployed, round_to_levels, round_within
from calibration.attacks.random_noise import RandomNoise
from calibration.pixels import to_pixels
from runtime import Guard
from runtime.errors import UsageError
from tests.calibration.guards import dataset, guard_file

SPLIT = dataset(n_test=40).test
PIXELS, LABELS = to_pixels(SPLIT.images), SPLIT.labels


@pytest.fixture(scope="module")
def guard():
    return Guard(guard_file(), device="cpu", threads=1)


@pytest.mark.parametrize(("epsilon", "norm"), [(0.45, "linf"), (2.5, "l2")], ids=["linf", "l2"])
def test_first_point_that_fools_is_kept_and_ends_it(guard, epsilon, norm):
    """Followed by hand, one image at a time."""
    attack = RandomNoise(epsilon=epsilon, norm=norm, draws=12, seed=5)
    victim = Deployed(guard)
    found = attack(victim, PIXELS, LABELS, batch_size=7)
    asked = 0
    for row, x in enumerate(PIXELS):
        rng, queries, fooled = np.random.default_rng([5, row]), 0, False
        while queries < 12 and not fooled:
            point = round_within(x[None] + attack.budget.draw(rng, x.shape), x[None], attack.budget)
            fooled = Deployed(guard).fooled(point, LABELS[row : row + 1])[0]
            queries += 1
        np.testing.assert_array_equal(found.x_adv[row], point[0])
        assert found.queries[row] == queries
        asked += queries
    assert victim.queries == asked
    assert len(set(found.queries.tolist())) > 3, "some fall at once, some later, some never"
    assert not found.gradients.any()
    assert not found.no_gradient.any()


def test_result_depends_on_the_seed_and_not_on_the_batch(guard):
    runs = [
        RandomNoise(epsilon=0.3, draws=5, seed=seed)(Deployed(guard), PIXELS, LABELS, batch_size=size)
        for seed, size in [(0, 1), (0, 9), (0, 100), (1, 100)]
    ]
    for other in runs[1:3]:
        np.testing.assert_array_equal(runs[0].x_adv, other.x_adv)
        np.testing.assert_array_equal(runs[0].queries, other.queries)
    assert (runs[0].x_adv != runs[3].x_adv).any()


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 7.7 / 255, 1.0])
def test_budget_holds_after_rounding(guard, epsilon):
    before = PIXELS.copy()
    x_adv = RandomNoise(epsilon=epsilon, draws=2)(Deployed(guard), PIXELS, LABELS).x_adv
    assert np.abs(x_adv.astype(np.float64) - PIXELS).max() <= epsilon + 1e-6
    np.testing.assert_array_equal(x_adv, round_to_levels(x_adv))
    np.testing.assert_array_equal(PIXELS, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.5}, r"expected epsilon in \[0, 1\], got 1.5"),
        ({"epsilon": 0.1, "norm": "l1"}, "expected norm as linf or l2, got 'l1'"),
        ({"epsilon": 0.1, "draws": 0}, "expected draws as a whole number of at least 1, got 0"),
        ({"epsilon": 0.1, "seed": -1}, "expected seed as a whole number of at least 0, got -1"),
    ],
    ids=["epsilon", "norm", "draws", "seed"],
)
def test_hyper_parameters_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        RandomNoise(**options)


def test_images_between_grey_levels_are_refused(guard):
    with pytest.raises(UsageError, match="between grey levels in 40 of 40 images"):
        RandomNoise(epsilon=0.1)(Deployed(guard), np.clip(PIXELS + np.float32(1e-3), 0, 1), LABELS)
