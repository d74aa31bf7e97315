import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.attacks.deployed import (
    LEVEL,
    Deployed,
    Gallery,
    check_images,
    is_fooled,
    round_to_levels,
    round_within,
)
from calibration.attacks.norms import Budget
from calibration.pixels import to_pixels
from runtime import Guard
from runtime.errors import UsageError
from tests.calibration.guards import CLASSMAP, K, dataset, guard_file

SPLIT = dataset(n_test=24).test


@pytest.fixture(scope="module")
def guard():
    return Guard(guard_file(), device="cpu", threads=1)


def test_answers_are_those_of_the_guard_on_the_rounded_images(guard):
    """Pixels up to half a level off are shown as the image they came from."""
    off = np.random.default_rng(0).uniform(-0.49, 0.49, SPLIT.images.shape)
    x = np.clip((SPLIT.images + off) / 255, 0, 1).transpose(0, 3, 1, 2).astype(np.float32)
    victim, want = Deployed(guard), guard.classify(SPLIT.images)
    got = victim.verdicts(x)
    for name in ("labels", "accepted", "confidence", "logits", "robust_logits"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert victim.queries == len(x)
    fooled = victim.fooled(x, (SPLIT.labels + 1) % K)
    np.testing.assert_array_equal(fooled, want.accepted & (want.labels != (SPLIT.labels + 1) % K))
    assert fooled.any()
    assert victim.queries == 2 * len(x)


def test_shape_classes_and_classmap_are_those_of_the_file(guard):
    victim = Deployed(guard)
    assert (victim.shape, dict(victim.classes), victim.classmap) == ((1, 6, 5), {"logits": K}, CLASSMAP)
    single = Deployed(Guard(guard_file(pair=False), device="cpu", threads=1))
    assert single.classmap is None


def test_gallery_is_kept_as_pixels(guard):
    victim = Deployed(guard, gallery=Gallery(images=SPLIT.images, labels=SPLIT.labels))
    np.testing.assert_array_equal(victim.gallery, to_pixels(SPLIT.images))
    np.testing.assert_array_equal(victim.gallery_labels, SPLIT.labels)
    assert victim.queries == 0
    assert (Deployed(guard).gallery.shape, len(Deployed(guard).gallery_labels)) == ((0, 1, 6, 5), 0)


def test_a_rejected_wrong_label_has_not_fooled_it(guard):
    verdicts = guard.classify(SPLIT.images)
    rejected = ~verdicts.accepted
    assert rejected.any()
    assert not is_fooled(verdicts, (verdicts.labels + 1) % K)[rejected].any()
    assert is_fooled(verdicts, (verdicts.labels + 1) % K)[~rejected].all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((1, 1, 6, 5), 1.01, np.float32), r"expected pixels in \[0, 1\]"),
        (np.full((1, 1, 6, 5), np.nan, np.float32), r"expected pixels in \[0, 1\]"),
        (np.zeros((1, 1, 5, 6), np.float32), r"expected uint8 \(N, 6, 5, 1\)"),
        (np.zeros((0, 1, 6, 5), np.float32), r"with N >= 1"),
    ],
    ids=["above white", "NaN", "another shape", "no image"],
)
def test_pixels_no_camera_delivers_are_refused_and_not_counted(guard, x, message):
    victim = Deployed(guard)
    with pytest.raises(UsageError, match=message):
        victim.verdicts(x)
    assert victim.queries == 0


def test_a_gallery_that_does_not_fit_is_refused(guard):
    with pytest.raises(UsageError, match="expected 24 labels, one an image"):
        Gallery(images=SPLIT.images, labels=SPLIT.labels[:-1])
    with pytest.raises(UsageError, match=r"gallery: expected images \(G, 6, 5, 1\)"):
        Deployed(guard, gallery=Gallery(images=SPLIT.images[:, :5], labels=SPLIT.labels))
    with pytest.raises(UsageError, match=r"expected images as uint8"):
        Deployed(guard, gallery=Gallery(images=SPLIT.images / 255, labels=SPLIT.labels))


def test_values_between_grey_levels_are_refused():
    x = to_pixels(SPLIT.images)
    check_images(x)
    x[3, 0, 0, 0] = 100.4 * LEVEL
    with pytest.raises(UsageError, match="between grey levels in 1 of 24 images"):
        check_images(x)


def random_case(seed, *, n=4, shape=(1, 6, 5), reach=1.0):
    """8-bit images, many of their pixels black or white, and points around them."""
    rng = np.random.default_rng(seed)
    levels = np.clip(rng.integers(-100, 356, (n, *shape)), 0, 255)
    center = (levels / np.float32(255)).astype(np.float32)
    return center, (center + rng.normal(0, reach, center.shape)).astype(np.float32)


BUDGETS = st.one_of(
    st.builds(Budget, epsilon=st.floats(0, 1), norm=st.just("linf")),
    st.builds(Budget, epsilon=st.integers(0, 255).map(lambda k: k / 255), norm=st.just("linf")),
    st.builds(Budget, epsilon=st.floats(0, 6), norm=st.just("l2")),
    st.builds(Budget, epsilon=st.integers(0, 9).map(lambda k: k / 255), norm=st.just("l2")),
)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), budget=BUDGETS, reach=st.sampled_from([1e-3, 0.1, 1.0]))
def test_rounding_keeps_the_budget_and_lands_on_grey_levels(seed, budget, reach):
    center, x = random_case(seed, reach=reach)
    got = round_within(x, center, budget)
    order = np.inf if budget.norm == "linf" else 2
    lengths = np.linalg.norm((got.astype(np.float64) - center).reshape(len(got), -1), ord=order, axis=1)
    assert (lengths <= budget.epsilon + 1e-6).all()
    np.testing.assert_array_equal(got, round_to_levels(got))
    np.testing.assert_array_equal(round_within(got, center, budget), got)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), epsilon=st.floats(0, 1))
def test_rounding_finds_the_nearest_grey_level_of_the_linf_ball(seed, epsilon):
    """Against all 256 levels of every pixel."""
    center, x = random_case(seed, n=1, shape=(1, 2, 3))
    levels = np.arange(256)
    off = np.abs(levels - 255 * x[..., None].astype(np.float64))
    inside = np.abs(levels - np.rint(255 * center.astype(np.float64))[..., None]) <= 255 * epsilon + 1e-4
    least = np.where(inside, off, np.inf).min(axis=-1)
    got = round_within(x, center, Budget(epsilon=epsilon))
    np.testing.assert_allclose(np.abs(255 * (got.astype(np.float64) - x)), least, atol=1e-3)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.5])
def test_rounding_in_an_l2_ball_is_to_the_nearest_level_where_there_is_room(epsilon):
    rng, budget = np.random.default_rng(7), Budget(epsilon=epsilon, norm="l2")
    center = (rng.integers(100, 156, (200, 1, 6, 5)) / np.float32(255)).astype(np.float32)
    x = center + rng.normal(0, 0.2, center.shape).astype(np.float32)
    aim = budget.project(x, center)
    nearest = round_to_levels(aim)
    fits = np.linalg.norm((nearest - center).reshape(200, -1), axis=1) <= epsilon
    got = round_within(x, center, budget)
    assert 20 < fits.sum() <= 200
    np.testing.assert_array_equal(got[fits], nearest[fits])
    assert (np.abs(got - aim) <= 1.001 * LEVEL).all(), "no pixel moves by more than one level"


def test_rounding_in_an_l2_ball_moves_the_pixels_back_that_it_moved_out_furthest():
    """Lengths by hand, in levels: (2.6, 2.8, 3) is 4.86 long; (3, 3, 3) is 5.20, (2, 3, 3) is 4.69."""
    center = np.full((1, 1, 1, 3), 100 / 255, np.float32)
    x = center + np.array([2.6, 2.8, 3.0], np.float32) / np.float32(255)
    got = round_within(x, center, Budget(epsilon=4.9 / 255, norm="l2"))
    np.testing.assert_array_equal(np.rint(255 * got).ravel(), [102, 103, 103])
