import itertools

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.attacks import Fgs, Igs
from calibration.attacks.carlini_wagner import CarliniWagner
from calibration.attacks.deepfool import DeepFool
from calibration.classmap import (
    ClassmapConfig,
    attacked_ends,
    classmap_from_confusion,
    confusion,
    estimate_classmap,
)
from calibration.gradients import GradientGraph
from calibration.pixels import to_pixels
from runtime.errors import UsageError
from tests.calibration.small_files import CLASSES, HEIGHT, WIDTH, small_file

LIKELIHOODS = pytest.mark.parametrize("likelihood", ["least", "most"])
SHAPES = pytest.mark.parametrize("shape", ["one-to-one", "per-row"])


def matrices(low=2, high=6):
    return st.integers(low, high).flatmap(
        lambda k: hnp.arrays(np.float64, (k, k), elements=st.floats(0, 1, allow_subnormal=False))
    )


def total(matrix, classmap):
    return sum(matrix[y, partner] for y, partner in enumerate(classmap))


@LIKELIHOODS
@SHAPES
@given(matrix=matrices(high=10))
def test_no_class_is_its_own_partner(matrix, likelihood, shape):
    classmap = classmap_from_confusion(matrix, likelihood=likelihood, shape=shape)
    assert len(classmap) == len(matrix)
    assert all(partner != y and 0 <= partner < len(matrix) for y, partner in enumerate(classmap))


@LIKELIHOODS
@given(matrix=matrices())
def test_one_to_one_is_the_best_derangement(matrix, likelihood):
    """Against all derangements."""
    classmap = classmap_from_confusion(matrix, likelihood=likelihood)
    k = len(matrix)
    assert sorted(classmap) == list(range(k))
    derangements = [p for p in itertools.permutations(range(k)) if all(y != partner for y, partner in enumerate(p))]
    best = (min if likelihood == "least" else max)(total(matrix, p) for p in derangements)
    assert total(matrix, classmap) == pytest.approx(best, abs=1e-12)


@LIKELIHOODS
@given(matrix=matrices(high=10))
def test_per_row_is_the_extreme_of_each_row(matrix, likelihood):
    classmap = classmap_from_confusion(matrix, likelihood=likelihood, shape="per-row")
    for y, partner in enumerate(classmap):
        others = np.delete(matrix[y], y)
        assert matrix[y, partner] == (others.min() if likelihood == "least" else others.max())


@LIKELIHOODS
@SHAPES
@given(k=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_renaming_classes_renames_partners(k, seed, likelihood, shape):
    rng = np.random.default_rng(seed)
    matrix, order = rng.random((k, k)), rng.permutation(k)
    classmap = classmap_from_confusion(matrix, likelihood=likelihood, shape=shape)
    renamed = classmap_from_confusion(matrix[order][:, order], likelihood=likelihood, shape=shape)
    assert [order[partner] for partner in renamed] == [classmap[y] for y in order]


@LIKELIHOODS
@given(matrix=matrices(), other=st.floats(-5, 5))
@settings(max_examples=25)
def test_the_diagonal_is_ignored(matrix, other, likelihood):
    changed = matrix + other * np.eye(len(matrix))
    expected = classmap_from_confusion(matrix, likelihood=likelihood)
    assert classmap_from_confusion(changed, likelihood=likelihood) == expected


@LIKELIHOODS
@SHAPES
def test_two_classes_swap(likelihood, shape):
    assert classmap_from_confusion(np.eye(2), likelihood=likelihood, shape=shape) == (1, 0)


def test_by_hand():
    matrix = np.array([[0.9, 0.08, 0.02], [0.3, 0.6, 0.1], [0.05, 0.15, 0.8]])
    assert classmap_from_confusion(matrix, shape="per-row") == (2, 2, 0)
    assert classmap_from_confusion(matrix, shape="per-row", likelihood="most") == (1, 0, 1)
    assert classmap_from_confusion(matrix) == (1, 2, 0)  # 0.08 + 0.1 + 0.05 against 0.02 + 0.3 + 0.15
    assert classmap_from_confusion(matrix, likelihood="most") == (2, 0, 1)


@pytest.fixture(scope="module")
def graph():
    return GradientGraph(small_file(pair=False), threads=1)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % CLASSES
    return rng.integers(0, 256, (40, HEIGHT, WIDTH, 1), dtype=np.uint8), labels


@pytest.mark.parametrize("counts", [False, True], ids=["mass", "counts"])
@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("fgs", Fgs(epsilon=0.1)),
        ("igs", Igs(epsilon=0.1)),
        ("deepfool", DeepFool()),
        ("cw", CarliniWagner(rounds=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_confusion_of_a_fixed_step_is_the_mean_over_examples(graph, sample, name, attack, counts):
    images, labels = sample
    config = ClassmapConfig(attack=name, epsilon="fixed", epsilon_max=0.1, batch_size=7)
    matrix = confusion(attacked_ends(graph, images, labels, config), counts=counts)
    z = graph.logits(attack(graph, to_pixels(images), labels).x_adv)["logits"].astype(np.float64)
    shares = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if counts:
        shares = (z == z.max(axis=1, keepdims=True)).astype(float)
    expected = np.stack([shares[labels == y].mean(axis=0) for y in range(CLASSES)])
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-5)


def test_ends_carry_their_labels(graph, sample):
    images, labels = sample
    ends = attacked_ends(graph, images, labels, ClassmapConfig(batch_size=8))
    np.testing.assert_array_equal(np.sort(ends.labels), np.sort(labels))
    assert ends.shares.shape == (len(labels), CLASSES)
    np.testing.assert_allclose(ends.shares.sum(axis=1), 1, rtol=1e-12)


def test_confusion_of_drawn_steps_follows_its_seed(graph, sample):
    first, again, other = (
        confusion(attacked_ends(graph, *sample, ClassmapConfig(batch_size=8, seed=seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(first.sum(axis=1), 1, rtol=1e-12)


def test_estimate_keeps_what_it_was_made_of(sample):
    images, labels = sample
    config = ClassmapConfig(epsilon_max=0.2, likelihood="most", shape="per-row", batch_size=16, seed=5)
    estimate = estimate_classmap(small_file(pair=False), images, labels, config=config, threads=1)
    assert estimate.config == config
    assert estimate.confusion.shape == (CLASSES, CLASSES)
    assert estimate.classmap == classmap_from_confusion(estimate.confusion, likelihood="most", shape="per-row")


def test_estimate_differentiates_the_logits_of_a_defended_file_too(sample):
    estimate = estimate_classmap(small_file(), *sample, threads=1)
    assert sorted(estimate.classmap) == list(range(CLASSES))


BAD_CONFIGS = {
    "epsilon_max 0": ({"epsilon_max": 0}, r"expected epsilon_max in \(0, 1\], got 0"),
    "epsilon_max above 1": ({"epsilon_max": 8}, r"expected epsilon in \[0, 1\], got 8"),
    "attack": ({"attack": "jsma"}, "expected attack to be fgs or igs or deepfool or cw, got 'jsma'"),
    "epsilon": ({"epsilon": "drawn"}, "expected epsilon to be uniform or fixed, got 'drawn'"),
    "likelihood": ({"likelihood": "last"}, "expected likelihood to be least or most, got 'last'"),
    "shape": ({"shape": "symmetric"}, "expected shape to be one-to-one or per-row, got 'symmetric'"),
    "batch_size": ({"batch_size": 0}, "expected batch_size as a whole number of at least 1, got 0"),
}


@pytest.mark.parametrize(("options", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_refuses_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        ClassmapConfig(**options)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        pytest.param(np.zeros((2, 3)), r"\(K, K\) with K of at least 2, got shape \(2, 3\)", id="not square"),
        pytest.param(np.zeros((1, 1)), r"K of at least 2, got shape \(1, 1\)", id="one class"),
        pytest.param(np.zeros(4), r"got shape \(4,\)", id="one axis"),
        pytest.param(np.full((2, 2), np.nan), "expected a finite confusion matrix", id="NaN"),
    ],
)
def test_refuses_bad_matrices(matrix, message):
    with pytest.raises(UsageError, match=message):
        classmap_from_confusion(matrix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda x, y: (x, y % 2), "images of all 3 classes, got 40 labels and none of class 2", id="class"),
        pytest.param(lambda x, y: (x, y[:-1]), "expected a label for each of 40 images .*, got 39 labels", id="labels"),
        pytest.param(lambda x, y: (x, y + 1), "none of class 0", id="labels from 1"),
        pytest.param(lambda x, y: (x / 255, y), r"expected images as uint8 \(N, H, W, C\), got float64", id="floats"),
        pytest.param(lambda x, y: (x[:, :4], y), r"expected pixels as float32 \(N, 1, 6, 5\), got float32", id="size"),
        pytest.param(lambda x, y: (x, np.append(y[1:], 3)), r"expected labels in \[0, 3\)", id="too many classes"),
    ],
)
def test_refuses_bad_samples(sample, change, message):
    with pytest.raises(UsageError, match=message):
        estimate_classmap(small_file(pair=False), *change(*sample), threads=1)
