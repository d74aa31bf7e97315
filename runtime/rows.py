"""From image files to verdict rows: the one code path of `Guard.classify_files` and `cmt score`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.cpus import usable_cpus
from runtime.errors import ImageError, UsageError
from runtime.images import CHANNELS, read
from runtime.spec import GuardSpec
from runtime.verdicts import Verdicts

if TYPE_CHECKING:
    from runtime.guard import Guard

Path: TypeAlias = "str | os.PathLike[str]"
Decoded: TypeAlias = "NDArray[np.uint8] | ImageError"


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
        logits: float32 ``(K,)``, Z*; None where the file could not be used.
    """

    path: str
    label: int | None = None
    class_name: str = ""
    accepted: bool = False
    confidence: float | None = None
    reason: str = ""
    message: str = ""
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
        batch: Images per run, at least 1; the last run is padded with black images, so that no verdict depends on
            how many files there are.

    Yields:
        One row a path, in order.

    Raises:
        UsageError: `batch` is below 1, the guard takes neither grey nor RGB images, or it is closed.
        ModelError: As for `Guard.classify`.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise UsageError(f"batch: expected a whole number >= 1, got {batch!a:.80}")
    if guard.spec.input.channels not in CHANNELS:
        raise UsageError(
            f"expected a guard of 1 or 3 channels, got {guard.spec.input.channels}; pass arrays to classify"
        )
    waiting: list[tuple[str, Decoded]] = []
    images = 0
    for path, decoded in _decode_ahead(guard.spec, iter(paths), batch):
        waiting.append((path, decoded))
        images += not isinstance(decoded, ImageError)
        if images == batch or not images or len(waiting) == 2 * batch:
            yield from _judge(guard, waiting, batch)
            waiting, images = [], 0
    yield from _judge(guard, waiting, batch)


def _decode_ahead(spec: GuardSpec, paths: Iterator[Path], batch: int) -> Iterator[tuple[str, Decoded]]:
    """Decode in a few threads, at most two batches ahead of what is consumed."""

    def decode(path: Path) -> Decoded:
        try:
            return read(path, spec.input)
        except ImageError as error:
            return error

    ahead: deque[tuple[str, Future[Decoded]]] = deque()
    pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="cmt-decode")
    try:
        while True:
            for path in islice(paths, 2 * batch - len(ahead)):
                ahead.append((os.fsdecode(path), pool.submit(decode, path)))
            if not ahead:
                return
            path_, future = ahead.popleft()
            yield path_, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _judge(guard: Guard, waiting: list[tuple[str, Decoded]], batch: int) -> Iterator[Row]:
    """Run one batch and put its verdicts back between the files that have none."""
    images = [decoded for _, decoded in waiting if not isinstance(decoded, ImageError)]
    judged: Iterator[Row] = iter(())
    if images:
        padded = np.zeros((batch, *guard.spec.input_shape), np.uint8)
        padded[: len(images)] = images
        paths = [path for path, decoded in waiting if not isinstance(decoded, ImageError)]
        judged = _rows(paths, guard.classify(padded)[: len(images)], guard.spec)
    for path, decoded in waiting:
        if isinstance(decoded, ImageError):
            yield Row(path=path, reason=decoded.reason, message=str(decoded))
        else:
            yield next(judged)


def _rows(paths: list[str], verdicts: Verdicts, spec: GuardSpec) -> Iterator[Row]:
    for path, verdict, reason, logits in zip(paths, verdicts, reasons(verdicts, spec), verdicts.logits, strict=True):
        yield Row(
            path=path,
            label=None if verdict.label < 0 else verdict.label,
            class_name=verdict.name,
            accepted=verdict.accepted,
            confidence=verdict.confidence,
            reason=reason,
            logits=logits,
        )
