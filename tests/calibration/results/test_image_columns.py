import base64
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.metrics import count
from calibration.results.image_columns import ChangeColumns, VerdictColumns, pack, pack_labels, unpack, unpack_labels
from runtime.errors import UsageError
from runtime.verdicts import Verdicts
from tests.calibration.small_results import TRUTH, N, changes, columns


def verdicts(labels, accepted, confidence):
    k = max(labels) + 2
    return Verdicts(
        labels=np.array(labels, np.int32),
        accepted=np.array(accepted),
        confidence=np.array(confidence, np.float32),
        logits=np.zeros((len(labels), k), np.float32),
        robust_logits=None,
        classes=tuple(map(str, range(k))),
    )


IMAGE = st.tuples(st.integers(-1, 300), st.booleans(), st.booleans(), st.floats(0, 1, width=32))


@given(images=st.lists(IMAGE, min_size=1, max_size=20))
def test_columns_give_back_what_was_said(images):
    labels, accepted, passes, confidence = map(list, zip(*images, strict=True))
    said, hard = verdicts(labels, accepted, confidence), verdicts(labels, passes, confidence)
    packed = VerdictColumns.of(said, hard=hard)
    np.testing.assert_array_equal(packed.label_array, labels)
    np.testing.assert_array_equal(packed.accepted_array, accepted)
    np.testing.assert_array_equal(packed.pass_array, np.array(passes) | np.array(accepted))
    np.testing.assert_array_equal(packed.confidence_array, np.array(confidence, np.float32))


def test_bytes_are_little_endian_whatever_the_machine():
    assert base64.b64decode(pack_labels(np.array([-1, 258]))) == b"\xff\xff\xff\xff\x02\x01\x00\x00"
    assert base64.b64decode(pack(np.array([1.0], ">f8"), "<f4")) == b"\x00\x00\x80\x3f"
    assert unpack("AACAPw==", "<f4", "x").tolist() == [1.0]


def test_outcomes_and_scores():
    said = columns(fooled=(0, 1), rejected=(2,))
    tally = count(said.outcomes(TRUTH))
    assert (tally.fooled, tally.rejected, tally.right_label) == (2, 1, 8)
    scores = said.scores(TRUTH)
    assert scores.accepted(0.0).sum() == N - 1
    assert scores.right.sum() == 8


def test_changes_are_the_norms_of_numpy():
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 4, 3, 5, 6), dtype=np.float32)
    packed = ChangeColumns.of(before, after)
    for name, order in (("l2", 2), ("linf", np.inf)):
        flat = (after - before).reshape(4, -1).astype(np.float64)
        np.testing.assert_allclose(packed.norm(name), np.linalg.norm(flat, ord=order, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(columns(), labels="%"), "labels: expected base64 of <i4 numbers, got '%'"),
        (lambda: replace(columns(), labels="AAA="), "labels: expected base64 of <i4 numbers"),
        (lambda: replace(columns(), confidence=columns().confidence[:8]), "confidence: expected base64"),
        (lambda: replace(columns(), labels=pack_labels(TRUTH[1:])), r"expected columns of one length, got \[9, 10\]"),
        (lambda: replace(columns(), labels=pack_labels(TRUTH - 2)), "expected labels of at least -1, got -2"),
        (lambda: replace(columns(), confidence=pack(TRUTH * 1.5, "<f4")), r"expected confidences in \[0, 1\]"),
        (lambda: replace(columns(), confidence=pack(TRUTH * np.nan, "<f4")), "confidence: expected finite numbers"),
        (lambda: replace(columns(), accepted=pack(TRUTH * 2, "u1")), "accepted: expected 0 or 1 for each image, got 2"),
        (lambda: replace(columns(), passes=pack(TRUTH, "u1")), "expected the hard rule to pass what is accepted"),
        (lambda: changes(-0.1), "changes: expected two norms of at least 0"),
        (lambda: replace(changes(0.1), l2=changes(0.1, 3).l2), "changes: expected two norms of at least 0"),
        (lambda: unpack_labels(pack_labels(TRUTH), count=9), "labels: expected 9 of at least 0, got 10"),
        (lambda: unpack_labels(pack_labels(TRUTH - 1), count=N), "labels: expected 10 of at least 0"),
    ],
    ids=[
        *("no base64", "cut off", "cut off floats", "lengths", "label", "confidence", "nan", "flag", "passes"),
        *("negative", "norms", "count", "truth"),
    ],
)
def test_edited_columns_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
