"""The verdicts of an exported file on pixels that are not 8-bit images.

`Guard` takes decoded images; attacks make floats. A `Judge` runs the same file from its inner tensor ``pixels`` on, so
that the rule that decides is the shipped one, node for node, and not a second writing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx.utils import Extractor

from calibration.attacks import Budget
from calibration.attacks.deployed import round_within
from calibration.pixels import to_images, to_pixels
from runtime.artifact import Artifact
from runtime.errors import ModelError, UsageError, one_line
from runtime.guard import Guard
from runtime.session import create_session
from runtime.verdicts import Verdicts

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

BATCH = 128
"""Images run at once; one number for benign and attacked images, so that rounding is the same for both."""

Source = Literal["pixels", "images"]

OnBatch = Callable[[int], None]


def _ignore(done: int) -> None:
    pass


class Judge:
    """Classify or reject pixels as the exported file does behind its prefix."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        source: Source = "pixels",
        hard: bool = False,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Cut the file at `source` and start it.

        Args:
            artifact: A guard file that passed the checks of the trusted loader.
            source: ``pixels``, or ``images`` for the whole file: what `Guard` does without the golden image, for a file
                whose metadata is not final yet.
            hard: Whether to set the threshold to 0, which leaves the hard rule alone.
            device: As for `Guard`.
            threads: As for `Guard`.

        Raises:
            ModelError: The file has no inner tensor ``pixels`` that its verdicts follow from.
        """
        height, width, channels = artifact.spec.input_shape
        self._classes = artifact.spec.classes
        self._source = source
        self._dtype = np.dtype(np.float32 if source == "pixels" else np.uint8)
        self._shape = (channels, height, width) if source == "pixels" else (height, width, channels)
        self._outputs = ["labels", "accepted", "confidence", "logits"]
        if artifact.spec.rule == "pair":
            self._outputs.append("robust_logits")
        model = _open(artifact.model) if hard else artifact.model
        model = cut_at_pixels(model, self._outputs) if source == "pixels" else model
        self._session = create_session(model, device=device, threads=threads)

    def verdicts(self, x: npt.NDArray[Any], on_batch: OnBatch = _ignore) -> Verdicts:
        """Return the verdicts on many images, `BATCH` at a time.

        Args:
            x: ``pixels`` as float32 ``(N, C, H, W)`` in [0, 1], or ``images`` as uint8 ``(N, H, W, C)``; N at least 1.
            on_batch: Told how many images are done after each batch.

        Raises:
            UsageError: `x` is anything else.
        """
        if x.dtype != self._dtype or x.shape[1:] != self._shape or not len(x):
            shape = ", ".join(map(str, self._shape))
            raise UsageError(
                f"{self._source}: expected {self._dtype} (N, {shape}) with N >= 1, got {x.dtype} {x.shape}"
            )
        if self._source == "pixels" and not (x.min() >= 0 and x.max() <= 1):
            raise UsageError(f"pixels: expected values in [0, 1], got {x.min()} to {x.max()}; clip them first")
        return _in_batches(self._run, x, on_batch)

    def _run(self, batch: npt.NDArray[Any]) -> Verdicts:
        found = dict(zip(self._outputs, self._session.run(self._outputs, {self._source: batch}), strict=True))
        return Verdicts(**found, classes=self._classes)


def classify(guard: Guard, images: ByteArray, on_batch: OnBatch = _ignore) -> Verdicts:
    """Return the guard's verdicts on many images, `BATCH` at a time.

    Args:
        guard: The guard.
        images: uint8 ``(N, H, W, C)``, possibly memory-mapped, N at least 1.
        on_batch: Told how many images are done after each batch.
    """
    return _in_batches(guard.classify, images, on_batch)


def _in_batches(run: Callable[[npt.NDArray[Any]], Verdicts], x: npt.NDArray[Any], on_batch: OnBatch) -> Verdicts:
    parts = []
    for start in range(0, len(x), BATCH):
        parts.append(run(np.ascontiguousarray(x[start : start + BATCH])))
        on_batch(min(start + BATCH, len(x)))

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return Verdicts(
        labels=joined("labels"),
        accepted=joined("accepted"),
        confidence=joined("confidence"),
        logits=joined("logits"),
        robust_logits=None if parts[0].robust_logits is None else joined("robust_logits"),
        classes=parts[0].classes,
    )


def cut_at_pixels(model: bytes, outputs: Sequence[str]) -> bytes:
    """Return the part of a file between its tensor ``pixels`` and other ones, its nodes as they are.

    Raises:
        ModelError: It has no ``pixels``, or `outputs` follow from more than that.
    """
    proto = onnx.load_model_from_string(model)
    known = {value.name for value in proto.graph.input}.union(*(node.output for node in proto.graph.node))
    if "pixels" not in known:
        raise ModelError("expected an inner tensor 'pixels' to attack, got none; export the file again")
    try:
        part = Extractor(proto).extract_model(["pixels"], list(outputs))
        onnx.checker.check_model(part)
    except (ValueError, KeyError, onnx.checker.ValidationError) as error:
        raise ModelError(f"expected verdicts that follow from 'pixels' alone, got: {one_line(error)}") from None
    return bytes(part.SerializeToString())


def round_to_images(pixels: FloatArray, images: ByteArray, *, budget: Budget | None) -> ByteArray:
    """Return attacked pixels as 8-bit images that keep the budget: the nearest, or near ones inside the ball.

    Args:
        pixels: Attacked, ``(N, C, H, W)`` float32 in [0, 1].
        images: What they were made from, uint8 ``(N, H, W, C)``.
        budget: The ball around `images`; None where the attack has none.
    """
    return to_images(pixels if budget is None else round_within(pixels, to_pixels(images), budget))


def _open(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    threshold = next(tensor for tensor in proto.graph.initializer if tensor.name == "threshold")
    threshold.raw_data = np.float32(0).tobytes()
    return bytes(proto.SerializeToString())
