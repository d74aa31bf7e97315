"""Pictures for the gallery of a report: what an attack did to an image, and what the guard said to both."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from calibration.metrics import Outcomes
from calibration.results.records import Answer, Example
from runtime.errors import UsageError
from runtime.verdicts import Verdicts

IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]

MOST = 12
"""Examples of one cell."""


def choose_rows(benign: Outcomes, attacked: Outcomes, *, most: int = MOST) -> IntArray:
    """Return the rows to show, ``(<= most,)``, ascending: a share of each outcome under attack, the rarest in full.

    Images that were correct before the attack come first, as the others show nothing of it; within that, the order of
    the sample.

    Args:
        benign: Outcomes without attack, ``(n,)``.
        attacked: Outcomes under attack, ``(n,)``.
        most: How many to show.
    """
    telling = np.argsort(~benign.correct, kind="stable")
    queues = [telling[mask[telling]] for mask in (attacked.fooled, attacked.rejected, attacked.correct)]
    turns = np.concatenate([np.arange(len(queue)) for queue in queues])
    return np.sort(np.concatenate(queues)[np.argsort(turns, kind="stable")][:most])


def make_examples(
    rows: IntArray,
    *,
    sample: IntArray,
    truth: IntArray,
    images: tuple[ByteArray, ByteArray],
    verdicts: tuple[Verdicts, Verdicts],
) -> tuple[Example, ...]:
    """Return the gallery of one cell.

    Args:
        rows: Which images of the sample.
        sample: Index in the test split of each, ``(n,)``.
        truth: True labels, ``(n,)``.
        images: Benign and attacked, uint8 ``(n, H, W, C)`` each; C is 1 or 3.
        verdicts: On the benign and on the attacked ones.
    """
    return tuple(
        Example(
            index=int(sample[row]),
            label=int(truth[row]),
            benign_image=png(images[0][row]),
            attacked_image=png(images[1][row]),
            benign=_answer(verdicts[0], row),
            attacked=_answer(verdicts[1], row),
        )
        for row in rows
    )


def png(image: ByteArray) -> str:
    """Return an image, uint8 ``(H, W, 1)`` or ``(H, W, 3)``, as base64 of a PNG file.

    Raises:
        UsageError: It has another number of channels.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise UsageError(f"expected a grey or RGB image (H, W, 1 or 3) for the gallery, got {image.shape}")
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _answer(verdicts: Verdicts, row: int) -> Answer:
    verdict = verdicts[row]
    return Answer(label=verdict.label, accepted=verdict.accepted, confidence=verdict.confidence)
