import re

import numpy as np
import pytest
from scipy.stats import binomtest

from calibration.plausibility import ALARM, implausible, surprise
from runtime.artifact import read_artifact
from tests.calibration.guards import guard_file


def spec(**benign):
    known = read_artifact(guard_file()).spec
    return known._replace(training={**known.training, "benign": benign})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.98, 1.0])
@pytest.mark.parametrize("count", [0, 1, 30, 99, 100])
def test_surprise_is_twice_the_smaller_tail(count, share):
    drawn = (share * 100 + 1) / 102
    tails = [binomtest(count, 100, drawn, alternative=side).pvalue for side in ("less", "greater")]
    assert surprise(count, 100, share) == pytest.approx(min(1, 2 * min(tails)), rel=1e-9)


def test_honest_images_hardly_ever_surprise():
    counts = np.random.default_rng(0).binomial(1000, 0.99, 20_000)
    assert min(surprise(int(count), 1000, 0.99) for count in np.unique(counts)) > ALARM


@pytest.mark.parametrize(
    ("benign", "counts", "expected"),
    [
        pytest.param({"accuracy": 0.99, "rejected": 0.01}, (985, 12), [], id="like in training"),
        pytest.param({"accuracy": 1.0, "rejected": 0.0}, (998, 2), [], id="a first exception"),
        pytest.param(
            {"accuracy": 0.99, "rejected": 0.01},
            (900, 12),
            [r"of which 99.00% get the right label, got 900 of 1000 \(90.00%\)"],
            id="wrong labels",
        ),
        pytest.param(
            {"accuracy": 0.9, "rejected": 0.2},
            (1000, 0),
            [r"of which 90.00% get the right label, got 1000", r"of which 20.00% are rejected, got 0 of 1000"],
            id="too good",
        ),
        pytest.param({"accuracy": 0.99}, (985, 500), [], id="no rule in training"),
        pytest.param({}, (0, 1000), [], id="no figures"),
        pytest.param({"accuracy": "high", "rejected": 7}, (0, 1000), [], id="no shares"),
    ],
)
def test_what_is_said(benign, counts, expected):
    right, rejected = counts
    found = list(implausible(spec(**benign), images=1000, right=right, rejected=rejected))
    assert len(found) == len(expected)
    for sentence, words in zip(found, expected, strict=True):
        assert re.search(words, sentence)


def test_a_record_without_benign_figures_says_nothing():
    assert list(implausible(read_artifact(guard_file()).spec, images=10, right=0, rejected=10)) == []
