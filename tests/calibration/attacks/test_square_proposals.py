import itertools

import numpy as np
import pytest

from calibration.attacks.deployed import round_to_levels, round_within
from calibration.attacks.norms import Budget
from calibration.attacks.square_proposals import L2Squares, LinfSquares, tile, window_side

SHAPE = (3, 9, 8)
EPSILON = 20 / 255


def images(seed, n=6):
    return (np.random.default_rng(seed).integers(0, 256, (n, *SHAPE)) / np.float32(255)).astype(np.float32)


def literal_linf(x, center, side, drawn):
    """Algorithm 2 as printed, for one image, and the projection of algorithm 1."""
    channels, height, width = x.shape
    r, s = int(drawn[0] * (height - side + 1)), int(drawn[1] * (width - side + 1))

    def proposal(flip):
        delta = np.zeros(x.shape)
        for i in range(channels):
            rho = 2 * EPSILON if (drawn[2 + i] < 0.5) != flip else -2 * EPSILON
            for row, column in itertools.product(range(r, r + side), range(s, s + side)):
                delta[i, row, column] = rho
        return np.clip(np.clip(x + delta, center - EPSILON, center + EPSILON), 0, 1)

    found = proposal(flip=False)
    return proposal(flip=True) if np.allclose(found, x, atol=1e-4) else found


@pytest.mark.parametrize("share", [0.8, 0.2, 0.001], ids=["large", "small", "one pixel"])
def test_linf_steps_are_algorithm_2(share):
    rng, squares = np.random.default_rng(1), LinfSquares(EPSILON)
    center = images(0)
    x = squares.start(center, rng.random(center.shape) < 0.5)
    for _ in range(12):
        drawn = rng.random((len(x), squares.numbers(SHAPE)), dtype=np.float32)
        got = squares.step(x, center, share, drawn)
        for row in range(len(x)):
            want = literal_linf(
                x[row].astype(float), center[row].astype(float), window_side(share, x.shape), drawn[row]
            )
            np.testing.assert_allclose(got[row], want, atol=1e-6)
            assert (got[row] != x[row]).any(), "no query is wasted"
        x = got


def test_linf_start_is_vertical_stripes_on_the_surface_of_the_ball():
    center = np.full((5, *SHAPE), 128 / 255, np.float32)
    x = LinfSquares(EPSILON).start(center, np.random.default_rng(0).random(center.shape) < 0.5)
    np.testing.assert_allclose(np.abs(x - center), EPSILON, atol=1e-6)
    assert (x == x[:, :, :1]).all()
    assert len(np.unique(x[:, :, 0].reshape(-1, SHAPE[2]), axis=0)) > 10


def literal_l2(x, center, epsilon, side, drawn):
    """Algorithm 3 as printed, for one image, before the projection."""
    channels, height, width = x.shape
    corner = [int(u * (size - side + 1)) for u, size in zip(drawn[:4], (height, width) * 2, strict=True)]
    first = np.s_[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    second = np.s_[corner[2] : corner[2] + side, corner[3] : corner[3] + side]
    union = np.zeros((height, width), np.bool_)
    union[first] = union[second] = True
    nu = x - center
    unused = max(0, epsilon**2 - (nu**2).sum())
    eta = tile(side).astype(float) if drawn[4] < 0.5 else tile(side).T.astype(float)
    for i in range(channels):
        rho = 1 if drawn[5 + i] < 0.5 else -1
        length = np.linalg.norm(nu[i][first])
        temporary = rho * eta + (nu[i][first] / length if length else 0)
        available = np.sqrt((nu[i][union] ** 2).sum() + unused / channels)
        nu[i][second] = 0
        nu[i][first] = temporary / np.linalg.norm(temporary) * available
    return center + nu


@pytest.mark.parametrize("share", [0.5, 0.01], ids=["large", "small"])
def test_l2_steps_are_algorithm_3(share):
    rng, epsilon = np.random.default_rng(2), 2.0
    squares, budget = L2Squares(epsilon), Budget(epsilon=epsilon, norm="l2")
    x = center = images(3)
    side = window_side(share, x.shape, odd=True)
    for _ in range(12):
        drawn = rng.random((len(x), squares.numbers(SHAPE)), dtype=np.float32)
        got = squares.step(x, center, share, drawn)
        want = [literal_l2(*(a[i].astype(float) for a in (x, center)), epsilon, side, drawn[i]) for i in range(len(x))]
        want = round_within(np.array(want, np.float32), center, budget)
        off = np.abs(got - want) * 255
        assert np.quantile(off, 0.98) < 0.01
        assert off.max() < 1.01, "float32 rounding may tip a tie between two levels"
        x = got
    assert (np.linalg.norm((x - center).reshape(len(x), -1), axis=1) > 0.8 * epsilon).all()


def test_l2_start_spends_the_whole_budget_on_tiles_of_random_signs():
    center = np.full((5, *SHAPE), 128 / 255, np.float32)
    x = L2Squares(1.0).start(center, np.random.default_rng(0).random(center.shape) < 0.5)
    np.testing.assert_allclose(np.linalg.norm((x - center).reshape(5, -1), axis=1), 1, atol=0.03)
    assert len(np.unique(x.reshape(5, -1), axis=0)) == 5
    np.testing.assert_array_equal(x, round_to_levels(x))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 12])
def test_tile_is_equation_2_and_its_negative(side):
    def eta(height, width):
        n = height // 2
        found = np.zeros((height, width))
        for r, s in itertools.product(range(1, height + 1), range(1, width + 1)):
            m = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
            found[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
        return found

    half = side // 2
    want = np.hstack([eta(side, half), -eta(side, side - half)])
    np.testing.assert_allclose(tile(side), want / np.linalg.norm(want), rtol=1e-5)


@pytest.mark.parametrize(
    ("share", "shape", "odd", "side"),
    [
        (0.8, (1, 28, 28), False, 25),
        (0.05, (3, 32, 32), False, 7),
        (1e-6, (1, 28, 28), False, 1),
        (1.0, (1, 6, 40), False, 6),
        (0.1, (1, 28, 28), True, 9),
        (1e-6, (1, 28, 28), True, 3),
        (0.02, (1, 2, 2), True, 2),
    ],
)
def test_window_covers_its_share_of_the_image_and_fits_into_it(share, shape, odd, side):
    assert window_side(share, shape, odd=odd) == side
