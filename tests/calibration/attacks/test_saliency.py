import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.attacks.saliency import _undominated, best_pairs


def greatest(wanted, unwanted, allowed):
    """Every pair of one image, in float64; 0 where none is feasible."""
    a, b = (part.astype(np.float64)[:, None] + part for part in (wanted, unwanted))
    pairs = allowed[:, None] & allowed & ~np.eye(len(wanted), dtype=bool) & (a > 0) & (b < 0)
    return np.where(pairs, -a * b, 0).max()


def check(wanted, unwanted, allowed):
    pairs = best_pairs(wanted, unwanted, allowed)
    for row, (a, b, free) in enumerate(zip(wanted, unwanted, allowed, strict=True)):
        best = greatest(a, b, free)
        assert pairs.found[row] == (best > 0)
        if pairs.found[row]:
            p, q = pairs.first[row], pairs.second[row]
            assert p != q
            assert free[[p, q]].all()
            assert -np.sum(a[[p, q]], dtype=float) * np.sum(b[[p, q]], dtype=float) == pytest.approx(best, rel=1e-6)
    return pairs


VALUES = st.one_of(st.integers(-3, 3).map(float), st.integers(-4000, 4000).map(lambda number: number / 1024))


@given(st.data(), st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_no_pair_is_better_than_the_one_found(data, count, pixels):
    shape = (count, pixels)
    wanted, unwanted = (data.draw(arrays.arrays(np.float32, shape, elements=VALUES)) for _ in range(2))
    check(wanted, unwanted, data.draw(arrays.arrays(np.bool_, shape)))


@pytest.mark.parametrize(
    "mix", [(0.0, 1.0), (1.0, 0.1), (-1.0, 0.1), (-1.0, 0.0)], ids=["independent", "against", "with", "opposite"]
)
def test_all_kinds_of_dependence_at_the_size_of_an_image(mix):
    rng = np.random.default_rng(0)
    wanted, noise = rng.standard_normal((2, 30, 300), dtype=np.float32)
    unwanted = np.float32(mix[0]) * wanted + np.float32(mix[1]) * noise
    pairs = check(wanted, unwanted, rng.random(wanted.shape) < 0.8)
    assert pairs.found.any()


def test_opposite_slopes_have_the_two_largest_as_their_best_pair():
    wanted = np.random.default_rng(1).standard_normal((20, 50), dtype=np.float32)
    pairs = best_pairs(wanted, -wanted, np.ones(wanted.shape, dtype=bool))
    found = np.sort(np.stack([pairs.first, pairs.second], axis=1), axis=1)
    np.testing.assert_array_equal(found, np.sort(np.argsort(-wanted, axis=1)[:, :2], axis=1))


@pytest.mark.parametrize("scale", [1e-30, 1e30], ids=["tiny", "huge"])
def test_scale_of_the_slopes_does_not_matter(scale):
    wanted, unwanted = np.random.default_rng(2).standard_normal((2, 5, 40), dtype=np.float32)
    allowed = np.ones(wanted.shape, dtype=bool)
    scaled = best_pairs(wanted * np.float32(scale), unwanted * np.float32(scale), allowed)
    for found, wished in zip(scaled, best_pairs(wanted, unwanted, allowed), strict=True):
        np.testing.assert_array_equal(found, wished)


def test_more_pairs_than_are_held_at_a_time():
    """Where gains and losses fall against each other no pixel can be left out: 40 images of 300 have 3.6 million."""
    wanted = np.random.default_rng(3).permuted(np.linspace(-1, 2, 300, dtype=np.float32)[None].repeat(40, 0), axis=1)
    check(wanted, wanted - 1.5, np.ones(wanted.shape, dtype=bool))


def test_few_pixels_are_paired():
    a, c = np.random.default_rng(4).standard_normal((2, 64, 784), dtype=np.float32)
    kept = _undominated(a, c, np.ones(a.shape, dtype=bool))[1].sum(axis=1)
    assert kept.mean() == pytest.approx(2 * np.log(784), rel=0.15)
