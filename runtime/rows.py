"""From image files to verdict rows: the one code path of `Guard.classify_files` and `cmt score`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.cpus import usable_cpus
from runtime.errors import ImageError, UsageError
from runtime.guard import check_batch
from runtime.images import CHANNELS, read
from runtime.ordered import ordered_map
from runtime.spec import GuardSpec
from runtime.verdicts import Verdicts

if TYPE_CHECKING:
    from runtime.guard import Guard

Path: TypeAlias = "str | os.PathLike[str]"
Decoded: TypeAlias = "NDArray[np.uint8] | ImageError"


class Loaded(NamedTuple):
    """An image file that was read.

    Attributes:
        name: How its row names it.
        decoded: Its pixels, or why there are none.
        size: Bytes of the file; None where nobody knows them.
    """

    name: str
    decoded: Decoded
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The verdict on one image file.

    Attributes:
        path: The file, as it was named.
        label: Index of the class, accepted or not; None where there is no verdict.
        class_name: Name of that class; empty where `label` is None.
        accepted: Whether to act on the label.
        confidence: In [0, 1]; None where the file could not be used.
        reason: Empty when accepted. ``pair-mismatch``, ``low-confidence``, ``detected`` or ``non-finite`` when the
            guard rejected; else why the file could not be used, e.g. ``unreadable``.
        message: What was expected and what came, for a file that could not be used; else empty.
        size: Bytes of the file; None where nobody knows them.
        logits: float32 ``(K,)``, Z*; None where the file could not be used.
    """

    path: str
    label: int | None = None
    class_name: str = ""
    accepted: bool = False
    confidence: float | None = None
    reason: str = ""
    message: str = ""
    size: int | None = None
    logits: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def failed(self) -> bool:
        """Whether the file could not be used at all."""
        return self.confidence is None


def reasons(verdicts: Verdicts, spec: GuardSpec) -> list[str]:
    """Say of every image why it was not accepted.

    Args:
        verdicts: N verdicts.
        spec: The guard they are from.

    Returns:
        N words: empty when accepted, else ``non-finite``, ``pair-mismatch``, ``low-confidence`` or ``detected``.
    """
    fallback = "pair-mismatch" if spec.rule == "pair" else "detected"
    low = verdicts.confidence < np.float32(spec.threshold)
    matched = np.ones(len(verdicts), np.bool_)
    if spec.classmap is not None and verdicts.robust_logits is not None:
        matched = verdicts.robust_logits.argmax(axis=1) == np.asarray(spec.classmap)[verdicts.labels]
    words = []
    for index, accepted in enumerate(verdicts.accepted):
        if accepted:
            words.append("")
        elif verdicts.labels[index] < 0:
            words.append("non-finite")
        else:
            words.append("low-confidence" if matched[index] and low[index] else fallback)
    return words


def classify_files(guard: Guard, paths: Iterable[Path], *, batch: int) -> Iterator[Row]:
    """Classify image files in batches of one size, decoding the next ones meanwhile.

    Args:
        guard: The guard to ask.
        paths: Image files; they are read a little ahead, never all at once.
        batch: Images per run, 1 to 65,536; every run is padded to it, so that no verdict depends on how many files
            there are.

    Yields:
        One row a path, in order.

    Raises:
        UsageError: `batch` is out of range, the guard takes neither grey nor RGB images, or it is closed.
        ModelError: As for `Guard.classify`.
    """
    check_files(guard, batch)

    def decode(path: Path) -> Decoded:
        try:
            return read(path, guard.spec.input)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(usable_cpus(), thread_name_prefix="cmt-decode") as pool:
        ahead = ordered_map(pool, lambda path: Loaded(os.fsdecode(path), decode(path)), paths, ahead=batch)
        with closing(ahead) as decoded:
            while block := list(islice(decoded, batch)):
                yield from judge(guard, block, batch)


def check_files(guard: Guard, batch: int) -> None:
    """Find out before any work whether files can be scored so.

    Raises:
        UsageError: `batch` is out of range, or the guard takes neither grey nor RGB images.
    """
    check_batch(batch)
    if guard.spec.input.channels not in CHANNELS:
        raise UsageError(
            f"expected a guard of 1 or 3 channels, got {guard.spec.input.channels}; pass arrays to classify"
        )


def judge(guard: Guard, block: Sequence[Loaded], batch: int) -> Iterator[Row]:
    """Classify or reject a few decoded files in one run.

    Args:
        guard: The guard to ask.
        block: At most `batch` files.
        batch: Images per run; black ones fill it up.

    Yields:
        One row a file, in order.
    """
    images = [file.decoded for file in block if not isinstance(file.decoded, ImageError)]
    judged: Iterator[Row] = iter(())
    if images:
        padded = np.zeros((batch, *guard.spec.input_shape), np.uint8)
        padded[: len(images)] = images
        usable = [file for file in block if not isinstance(file.decoded, ImageError)]
        judged = _rows(usable, guard.classify(padded)[: len(images)], guard.spec)
    for name, decoded, size in block:
        if isinstance(decoded, ImageError):
            yield Row(path=name, reason=decoded.reason, message=str(decoded), size=size)
        else:
            yield next(judged)


def _rows(files: list[Loaded], verdicts: Verdicts, spec: GuardSpec) -> Iterator[Row]:
    for file, verdict, reason, logits in zip(files, verdicts, reasons(verdicts, spec), verdicts.logits, strict=True):
        yield Row(
            path=file.name,
            label=None if verdict.label < 0 else verdict.label,
            class_name=verdict.name,
            accepted=verdict.accepted,
            confidence=verdict.confidence,
            reason=reason,
            size=file.size,
            logits=logits,
        )
