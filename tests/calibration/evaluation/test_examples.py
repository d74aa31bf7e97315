import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration.evaluation.examples import choose_rows, make_examples, png
from calibration.metrics import judge_outcomes
from calibration.results.records import Answer
from runtime.errors import UsageError
from runtime.guard import Guard
from tests.calibration.guards import dataset, guard_file


def outcomes(words):
    """f, r and c: fooled, rejected, correct."""
    labels = np.array([1 if word == "f" else 0 for word in words])
    return judge_outcomes(labels, np.array([word != "r" for word in words]), np.zeros(len(words), int))


def test_each_outcome_gets_its_share_and_the_rarest_is_shown_in_full():
    attacked = outcomes("c" * 20 + "r" * 20 + "f")
    rows = choose_rows(outcomes("c" * 41), attacked, most=12)
    assert rows.tolist() == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24, 25, 40]


def test_images_that_were_correct_before_the_attack_come_first():
    assert choose_rows(outcomes("fffcc"), outcomes("fffff"), most=3).tolist() == [0, 3, 4]


@settings(deadline=None)
@given(
    words=st.lists(st.tuples(st.sampled_from("frc"), st.sampled_from("frc")), min_size=1, max_size=40),
    most=st.integers(1, 15),
)
def test_rows_are_distinct_and_as_many_as_there_can_be(words, most):
    benign, attacked = ("".join(column) for column in zip(*words, strict=True))
    rows = choose_rows(outcomes(benign), outcomes(attacked), most=most)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == min(most, len(words))
    if most >= 3:
        assert {attacked[row] for row in rows} == set(attacked)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_png_holds_every_pixel(channels):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, channels), np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(png(image)))) as decoded:
        assert (decoded.format, decoded.mode) == ("PNG", "L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(decoded).reshape(image.shape), image)


def test_four_channels_have_no_picture():
    with pytest.raises(UsageError, match=r"expected a grey or RGB image .* got \(2, 2, 4\)"):
        png(np.zeros((2, 2, 4), np.uint8))


def test_examples_carry_both_verdicts():
    test = dataset().test
    benign, attacked = test.images[:6], 255 - test.images[:6]
    with Guard(guard_file(), device="cpu", threads=1) as guard:
        verdicts = guard.classify(benign), guard.classify(attacked)
    sample = np.array([3, 8, 9, 11, 20, 50])
    first, last = make_examples(
        np.array([0, 5]), sample=sample, truth=test.labels[:6], images=(benign, attacked), verdicts=verdicts
    )
    assert (first.index, first.label, last.index) == (3, int(test.labels[0]), 50)
    assert (last.benign_image, last.attacked_image) == (png(benign[5]), png(attacked[5]))
    expected = verdicts[1][5]
    assert last.attacked == Answer(label=expected.label, accepted=expected.accepted, confidence=expected.confidence)
    assert last.benign.confidence == verdicts[0][5].confidence
