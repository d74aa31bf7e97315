from __future__ import annotations

import numpy as np
import pytest

from runtime import Verdict, Verdicts

CLASSES = ("cat", "dog")
ROWS = Verdicts(
    labels=np.array([0, 1, -1], np.int32),
    accepted=np.array([True, False, False]),
    confidence=np.array([0.75, 0.5, 0], np.float32),
    logits=np.array([[2, 1], [0, 3], [np.nan, 0]], np.float32),
    robust_logits=None,
    classes=CLASSES,
)


def test_rows() -> None:
    assert len(ROWS) == 3
    assert list(ROWS) == [
        Verdict(label=0, name="cat", accepted=True, confidence=0.75),
        Verdict(label=1, name="dog", accepted=False, confidence=0.5),
        Verdict(label=-1, name="", accepted=False, confidence=0.0),
    ]
    assert ROWS[-1] == ROWS[2]
    assert ROWS[np.int64(1)].name == "dog"


def test_rows_hold_plain_numbers() -> None:
    row = ROWS[0]
    assert [type(value) for value in (row.label, row.accepted, row.confidence)] == [int, bool, float]


@pytest.mark.parametrize("index", [3, -4])
def test_index_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        ROWS[index]


def test_slice_is_a_view() -> None:
    part = ROWS[1:]
    assert isinstance(part, Verdicts)
    assert len(part) == 2
    assert part.robust_logits is None
    assert np.shares_memory(part.logits, ROWS.logits)
    both = Verdicts(**vars(ROWS) | {"robust_logits": ROWS.logits})
    assert both[:1].robust_logits.tolist() == [[2, 1]]


def test_repr_is_short() -> None:
    assert repr(ROWS) == "<Verdicts: 1 of 3 accepted: cat, dog rejected, - rejected>"
    many = Verdicts(**vars(ROWS) | {"labels": np.zeros(9, np.int32)})
    assert repr(many[:2]).endswith("cat, cat rejected>")
