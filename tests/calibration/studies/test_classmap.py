import numpy as np
import pytest
from scipy.stats import chi2

from calibration.classmap import ClassmapConfig, Ends, estimate_classmap
from calibration.studies.classmap import bowker_test, ended_counts, same_partners, study_classmaps
from runtime.errors import UsageError
from tests.calibration.small_files import CLASSES, HEIGHT, WIDTH, small_file


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % CLASSES
    return rng.integers(0, 256, (60, HEIGHT, WIDTH, 1), dtype=np.uint8), labels


@pytest.fixture(scope="module")
def study(sample):
    return study_classmaps(small_file(pair=False), *sample, draws=20, threads=1)


def test_every_way_is_there_once_the_default_first(study):
    assert study.maps[0].config == ClassmapConfig()
    ways = {(one.config.attack, one.config.counts, one.config.likelihood, one.config.shape) for one in study.maps}
    assert len(ways) == len(study.maps) == 4 * 2 * 2 * 2
    assert set(study.symmetry) == set(study.moved) == {"fgs", "igs", "deepfool", "cw"}
    assert all(0 <= one.stability <= 1 for one in study.maps)
    assert study.moved["deepfool"] > 0.9


def test_maps_are_those_that_training_would_use(study, sample):
    for one in study.maps[::5]:
        estimate = estimate_classmap(small_file(pair=False), *sample, config=one.config, device="cpu", threads=1)
        assert estimate.classmap == one.classmap


def test_examples_that_all_end_alike_are_stable_and_their_rivals_tie():
    """With every example of class 0 in class 1 and so on, counts leave all other classes equal."""
    k, n = 4, 40
    labels = np.arange(n) % k
    shares = np.eye(k)[(labels + 1) % k]
    counts = ended_counts(Ends(labels, shares))
    np.testing.assert_array_equal(counts, 10 * np.roll(np.eye(k), 1, axis=1))


@pytest.mark.parametrize("seed", range(3))
def test_bowker_against_scipy(seed):
    counts = np.random.default_rng(seed).integers(1, 30, (5, 5))
    found = bowker_test(counts)
    expected = sum(
        (counts[i, j] - counts[j, i]) ** 2 / (counts[i, j] + counts[j, i]) for i in range(5) for j in range(i)
    )
    assert found.statistic == pytest.approx(expected)
    assert found.degrees == 10
    assert found.p_value == pytest.approx(chi2.sf(expected, 10))


@pytest.mark.parametrize(
    ("counts", "degrees", "share", "certain"),
    [
        pytest.param([[5, 3, 2], [3, 0, 7], [2, 7, 1]], 3, 1.0, True, id="symmetric"),
        pytest.param([[0, 60, 0], [0, 0, 60], [60, 0, 0]], 3, 0.0, False, id="a circle"),
        pytest.param([[9, 0, 0], [0, 9, 0], [0, 0, 9]], 0, 1.0, True, id="nothing confused"),
        pytest.param([[0, 4, 0], [4, 0, 0], [0, 0, 0]], 1, 1.0, True, id="one pair"),
    ],
)
def test_symmetry_by_hand(counts, degrees, share, certain):
    found = bowker_test(np.array(counts))
    assert (found.degrees, found.symmetric_share) == (degrees, share)
    assert (found.p_value == 1) is certain
    assert (found.p_value < 1e-6) is not certain


def test_p_values_are_uniform_where_confusion_is_symmetric():
    rng = np.random.default_rng(0)
    values = [bowker_test(rng.poisson(40, (6, 6))).p_value for _ in range(400)]
    assert abs(np.mean(values) - 0.5) < 0.06
    assert abs(np.mean(np.array(values) < 0.1) - 0.1) < 0.05


def test_same_partners():
    assert same_partners((1, 2, 0, 0), (1, 2, 3, 0)) == 0.75


def test_draws(sample):
    with pytest.raises(UsageError, match="expected draws as a whole number of at least 1, got 0"):
        study_classmaps(small_file(pair=False), *sample, draws=0, threads=1)
