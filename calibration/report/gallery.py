"""Pictures of an attack: the image before and after, and what was changed, amplified until it can be seen."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from calibration.results.records import Example
from runtime.errors import UsageError, one_line

Images = npt.NDArray[np.uint8]
Outcome = Literal["fooled", "rejected", "correct"]

LARGEST_SIDE = 2048
"""Pixels; a larger picture in a results file is refused before it is decoded."""

_GREY = 128
_TINY_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One example with its three pictures, as ``data:`` addresses of one size.

    Attributes:
        example: What it is of.
        outcome: What became of it under attack.
        benign: The image.
        attacked: The image under attack.
        difference: What was added, times `gain`, around mid-grey.
        gain: How much the difference is amplified, at least 1.
        width: Columns.
        height: Rows.
        tiny: Whether to show each pixel as a square.
    """

    example: Example
    outcome: Outcome
    benign: str
    attacked: str
    difference: str
    gain: int
    width: int
    height: int
    tiny: bool


def exhibit(example: Example) -> Exhibit:
    """Decode, check and re-encode the pictures of one example.

    Raises:
        UsageError: One is no PNG, is larger than `LARGEST_SIDE` on a side, or they differ in size.
    """
    where = f"example {example.index}"
    benign, attacked = _decode(example.benign_image, where), _decode(example.attacked_image, where)
    if benign.shape != attacked.shape:
        raise UsageError(
            f"{where}: expected pictures of one size, got {benign.shape} and {attacked.shape}; run `cmt attack` again"
        )
    added = attacked.astype(np.int16) - benign
    gain = max(1, (_GREY - 1) // max(1, int(np.abs(added).max())))
    difference = np.clip(_GREY + gain * added, 0, 255).astype(np.uint8)
    height, width = benign.shape[:2]
    return Exhibit(
        example=example,
        outcome=_outcome(example),
        benign=data_address(benign),
        attacked=data_address(attacked),
        difference=data_address(difference),
        gain=gain,
        width=width,
        height=height,
        tiny=max(height, width) <= _TINY_SIDE,
    )


def data_address(image: Images) -> str:
    """Return an image, uint8 ``(H, W)`` or ``(H, W, 3)``, as the ``data:`` address of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _outcome(example: Example) -> Outcome:
    if not example.attacked.accepted:
        return "rejected"
    return "correct" if example.attacked.label == example.label else "fooled"


def _decode(text: str, where: str) -> Images:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            fits = max(image.size) <= LARGEST_SIDE
            pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB")) if fits else None
            size = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{where}: expected a PNG in base64, got: {one_line(error)}; run `cmt attack` again") from None
    if pixels is None:
        raise UsageError(f"{where}: expected up to {LARGEST_SIDE} pixels a side, got {size}; run `cmt attack` again")
    return pixels
