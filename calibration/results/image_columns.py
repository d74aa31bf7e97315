"""One value for each image of a sample, packed: base64 of little-endian numbers.

| column | type | meaning |
|---|---|---|
| labels | int32 | the answer; -1 where a logit was not finite |
| accepted, passes | uint8, 0 or 1 | the verdict; the verdict at threshold 0, which is that of the hard rule alone |
| confidence, l2, linf | float32 | as in `Verdicts`; how far an image was changed, pixels in [0, 1] |

An image takes 14 bytes of JSON for its verdict and 11 for its change: 1 MB for 1000 images under 40 attacks. As decimal
text it would take three times as much, and the last bit of a confidence decides beside a threshold.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.detection import Scores
from calibration.metrics import Outcomes, judge_outcomes
from runtime.errors import UsageError
from runtime.verdicts import Verdicts

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_LABELS, _FLAGS, _NUMBERS = "<i4", "u1", "<f4"


@dataclass(frozen=True, kw_only=True)
class VerdictColumns:
    """What a file said to each image of a sample; every field is a packed column of n values.

    Attributes:
        labels: The answers.
        accepted: The verdicts of the file as it is.
        passes: Its verdicts at threshold 0: what no threshold can reject any more than that.
        confidence: In [0, 1]; higher means keep.

    Raises:
        UsageError: A column is no base64 of such numbers, is out of range, or they differ in length, or an image is
            accepted that the hard rule rejects.
    """

    labels: str
    accepted: str
    passes: str
    confidence: str

    def __post_init__(self) -> None:
        """Decode and check every column."""
        lengths = {len(self.label_array), len(self.accepted_array), len(self.pass_array), len(self.confidence_array)}
        if len(lengths) != 1:
            raise UsageError(f"verdicts: expected columns of one length, got {sorted(lengths)}; run `cmt attack` again")
        if self.label_array.min(initial=0) < -1:
            raise UsageError(f"verdicts: expected labels of at least -1, got {self.label_array.min()}")
        if not ((self.confidence_array >= 0) & (self.confidence_array <= 1)).all():
            raise UsageError("verdicts: expected confidences in [0, 1], got others; run `cmt attack` again")
        if (self.accepted_array & ~self.pass_array).any():
            raise UsageError("verdicts: expected the hard rule to pass what is accepted, got others")

    @classmethod
    def of(cls, verdicts: Verdicts, *, hard: Verdicts) -> VerdictColumns:
        """Pack verdicts.

        Args:
            verdicts: Of the file as it is, on n images.
            hard: Of the same file at threshold 0, on the same images.
        """
        return cls(
            labels=pack_labels(verdicts.labels),
            accepted=pack(verdicts.accepted, _FLAGS),
            passes=pack(hard.accepted | verdicts.accepted, _FLAGS),
            confidence=pack(verdicts.confidence, _NUMBERS),
        )

    @cached_property
    def label_array(self) -> IntArray:
        """The answers, ``(n,)`` int64."""
        return unpack(self.labels, _LABELS, "labels").astype(np.int64)

    @cached_property
    def accepted_array(self) -> BoolArray:
        """The verdicts, ``(n,)`` bool."""
        return _flags(self.accepted, "accepted")

    @cached_property
    def pass_array(self) -> BoolArray:
        """The verdicts of the hard rule alone, ``(n,)`` bool."""
        return _flags(self.passes, "passes")

    @cached_property
    def confidence_array(self) -> FloatArray:
        """The confidences, ``(n,)`` float32 in [0, 1]."""
        return unpack(self.confidence, _NUMBERS, "confidence").astype(np.float32)

    def take(self, rows: IntArray) -> VerdictColumns:
        """Return the verdicts on some of the images, ``(m,)`` places in [0, n)."""
        return VerdictColumns(
            labels=pack_labels(self.label_array[rows]),
            accepted=pack(self.accepted_array[rows], _FLAGS),
            passes=pack(self.pass_array[rows], _FLAGS),
            confidence=pack(self.confidence_array[rows], _NUMBERS),
        )

    def where(self, kept: BoolArray, others: VerdictColumns) -> VerdictColumns:
        """Return these verdicts on the images in `kept`, ``(n,)``, and `others` on the rest."""
        return VerdictColumns(
            labels=pack_labels(np.where(kept, self.label_array, others.label_array)),
            accepted=pack(np.where(kept, self.accepted_array, others.accepted_array), _FLAGS),
            passes=pack(np.where(kept, self.pass_array, others.pass_array), _FLAGS),
            confidence=pack(np.where(kept, self.confidence_array, others.confidence_array), _NUMBERS),
        )

    def outcomes(self, truth: IntArray) -> Outcomes:
        """Return what became of each image whose true label is ``truth``, ``(n,)``."""
        return judge_outcomes(self.label_array, self.accepted_array, truth)

    def scores(self, truth: IntArray) -> Scores:
        """Return what thresholds can be moved over, for images whose true label is ``truth``, ``(n,)``."""
        right = self.label_array == truth
        return Scores(confidence=self.confidence_array, passes=self.pass_array, right=right)


@dataclass(frozen=True, kw_only=True)
class ChangeColumns:
    """How far each image was changed; every field is a packed column of n values.

    An image that was not changed at all was not attacked in effect. Evaluation has checked the budget of all others.

    Attributes:
        l2: L2 norms of the changes.
        linf: L-infinity norms.

    Raises:
        UsageError: A column is no base64 of such numbers, has negative ones, or they differ in length.
    """

    l2: str
    linf: str

    def __post_init__(self) -> None:
        """Decode and check both columns."""
        l2, linf = self.norm("l2"), self.norm("linf")
        if len(l2) != len(linf) or not (l2 >= 0).all() or not (linf >= 0).all():
            raise UsageError("changes: expected two norms of at least 0 for each image, got others")

    @classmethod
    def of(cls, before: FloatArray, after: FloatArray) -> ChangeColumns:
        """Measure and pack what was changed between two sets of pixels, ``(n, C, H, W)`` each."""
        change = np.abs(after.astype(np.float64) - before).reshape(len(before), -1)
        l2, linf = np.linalg.norm(change, axis=1), change.max(axis=1)
        return cls(l2=pack(l2, _NUMBERS), linf=pack(linf, _NUMBERS))

    def take(self, rows: IntArray) -> ChangeColumns:
        """Return the changes of some of the images, ``(m,)`` places in [0, n)."""
        return ChangeColumns(l2=pack(self.norm("l2")[rows], _NUMBERS), linf=pack(self.norm("linf")[rows], _NUMBERS))

    def norm(self, name: str) -> FloatArray:
        """Return the norms named ``l2`` or ``linf``, ``(n,)`` float32."""
        return unpack(self.l2 if name == "l2" else self.linf, _NUMBERS, name).astype(np.float32)


def pack(values: npt.NDArray[Any], dtype: str) -> str:
    """Return numbers, ``(n,)``, as base64 of their bytes in a little-endian numpy type such as ``<f4``."""
    return base64.b64encode(values.astype(dtype).tobytes()).decode("ascii")


def unpack(text: str, dtype: str, where: str) -> npt.NDArray[Any]:
    """Return the numbers of a packed column, ``(n,)``.

    Args:
        text: What `pack` returned.
        dtype: The type it was packed in.
        where: What messages call it.

    Raises:
        UsageError: It is something else, or a number is not finite.
    """
    try:
        values: npt.NDArray[Any] = np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype)
    except (binascii.Error, ValueError):
        raise UsageError(
            f"{where}: expected base64 of {dtype} numbers, got {text[:20]!a}; run `cmt attack` again"
        ) from None
    if not np.isfinite(values).all():
        raise UsageError(f"{where}: expected finite numbers, got others; run `cmt attack` again")
    return values


def pack_labels(labels: npt.NDArray[Any]) -> str:
    """Return class numbers, ``(n,)``, packed."""
    return pack(labels, _LABELS)


def unpack_labels(text: str, *, count: int) -> IntArray:
    """Return packed true labels, ``(count,)`` int64.

    Raises:
        UsageError: They are not so many, or one is negative.
    """
    labels = unpack(text, _LABELS, "labels").astype(np.int64)
    if len(labels) != count or labels.min(initial=0) < 0:
        raise UsageError(f"labels: expected {count} of at least 0, got {len(labels)} or negative ones")
    return labels


def _flags(text: str, where: str) -> BoolArray:
    values = unpack(text, _FLAGS, where)
    if (values > 1).any():
        raise UsageError(f"{where}: expected 0 or 1 for each image, got {values.max()}; run `cmt attack` again")
    return values.astype(np.bool_)
