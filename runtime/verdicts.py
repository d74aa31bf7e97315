"""What a guard answers: many verdicts as arrays, or one of them as a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, overload

from runtime.records import Record

if TYPE_CHECKING:  # numpy.typing costs an eighth of this package's import
    import numpy as np
    from numpy.typing import NDArray

    Int32Array: TypeAlias = NDArray[np.int32]
    BoolArray: TypeAlias = NDArray[np.bool_]
    FloatArray: TypeAlias = NDArray[np.float32]


class Verdict(NamedTuple):
    """The verdict on one image.

    Attributes:
        label: Index of the class; -1 where the network gave no finite answer.
        name: Name of the class; empty where `label` is -1.
        accepted: Whether to act on the label at all.
        confidence: In [0, 1]; higher means keep.
    """

    label: int
    name: str
    accepted: bool
    confidence: float


class Verdicts(Record):
    """The verdicts on N images, as arrays of one row an image.

    Attributes:
        labels: int32 ``(N,)``, index of the class in [0, K); -1 where a logit is not finite.
        accepted: bool ``(N,)``, whether to act on the label.
        confidence: float32 ``(N,)`` in [0, 1]; higher means keep.
        logits: float32 ``(N, K)``, Z*.
        robust_logits: float32 ``(N, K)``, Z'; None for a file with a single head.
        classes: The K class names.
    """

    labels: Int32Array
    accepted: BoolArray
    confidence: FloatArray
    logits: FloatArray
    robust_logits: FloatArray | None
    classes: tuple[str, ...]

    def __init__(
        self,
        labels: Int32Array,
        accepted: BoolArray,
        confidence: FloatArray,
        logits: FloatArray,
        robust_logits: FloatArray | None = None,
        *,
        classes: tuple[str, ...],
    ) -> None:
        """Take the outputs in the order of the file; spelt out, as every call makes one."""
        fields = self.__dict__
        fields["labels"] = labels
        fields["accepted"] = accepted
        fields["confidence"] = confidence
        fields["logits"] = logits
        fields["robust_logits"] = robust_logits
        fields["classes"] = classes

    __eq__ = object.__eq__  # arrays compare element by element
    __hash__ = object.__hash__

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def __iter__(self) -> Iterator[Verdict]:
        """Yield the rows in order."""
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> Verdicts: ...
    def __getitem__(self, index: int | slice) -> Verdict | Verdicts:
        """Return one row, or a slice of the rows without copying.

        Raises:
            IndexError: `index` is outside of [-N, N).
        """
        if isinstance(index, slice):
            return Verdicts(
                labels=self.labels[index],
                accepted=self.accepted[index],
                confidence=self.confidence[index],
                logits=self.logits[index],
                robust_logits=None if self.robust_logits is None else self.robust_logits[index],
                classes=self.classes,
            )
        label = int(self.labels[index])
        return Verdict(
            label=label,
            name=self.classes[label] if label >= 0 else "",
            accepted=bool(self.accepted[index]),
            confidence=float(self.confidence[index]),
        )

    def __repr__(self) -> str:
        """Return how many images were accepted, and the first few labels."""
        shown = ", ".join(f"{row.name or '-'}{'' if row.accepted else ' rejected'}" for row in self[:6])
        more = ", ..." if len(self) > 6 else ""
        return f"<Verdicts: {int(self.accepted.sum())} of {len(self)} accepted: {shown}{more}>"
