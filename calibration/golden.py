"""The golden image: one that every machine must decide alike, so that a file which decides differently does not load.

Its verdict has to be far from every edge: between its two likeliest classes in either head, and from the threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from calibration.stamping import stamp
from runtime.artifact import read_artifact
from runtime.spec import Golden
from runtime.verdicts import Verdicts

FloatArray = npt.NDArray[np.float64]

_WIDE = 0.5
_FLOAT32_DUST = 1e-6


def choose_golden(images: npt.NDArray[np.uint8], verdicts: Verdicts, *, threshold: float) -> Golden:
    """Return the image whose verdict rounding can least change, an accepted one if any of those is safe.

    Args:
        images: Candidates, uint8 ``(N, H, W, C)``, N at least 1.
        verdicts: What the file answers at threshold 0.
        threshold: The threshold that the verdict shall be for.
    """
    accepted = verdicts.accepted & (verdicts.confidence >= np.float32(threshold))
    margins = margin(verdicts, threshold=threshold)
    best = int(np.lexsort((margins, accepted & (margins >= _WIDE)))[-1])
    return Golden(
        image=images[best].tobytes(),
        label=int(verdicts.labels[best]),
        accepted=bool(accepted[best]),
        confidence=float(verdicts.confidence[best]),
    )


def margin(verdicts: Verdicts, *, threshold: float) -> FloatArray:
    """Return how far, in nats, each verdict is from its nearest edge, ``(N,)``; -1 where threshold 0 rejects already.

    Edges are a tie of the two largest logits of either head, and the log odds of the threshold.
    """
    heads = [verdicts.logits] if verdicts.robust_logits is None else [verdicts.logits, verdicts.robust_logits]
    edges = [_top_two_gap(head) for head in heads]
    edges.append(np.abs(_log_odds(verdicts.confidence) - _log_odds(np.float32(threshold))))
    return np.where(verdicts.accepted, np.min(edges, axis=0), -1.0)


def with_golden(model: bytes, golden: Golden) -> bytes:
    """Return the file with another golden image and its verdict.

    Raises:
        ModelError: `model` is no valid guard file, or the image is not one of its own.
    """
    spec = read_artifact(model).spec
    document = spec.to_document()
    document["golden"] = golden.to_document()
    del document["digest"]
    return stamp(onnx.load_model_from_string(model), document)


def _top_two_gap(logits: npt.NDArray[np.float32]) -> FloatArray:
    top = np.sort(logits.astype(np.float64), axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def _log_odds(confidence: npt.NDArray[np.float32] | np.float32) -> FloatArray:
    p = np.clip(np.asarray(confidence, dtype=np.float64), _FLOAT32_DUST, 1 - _FLOAT32_DUST)
    return np.asarray(np.log(p) - np.log1p(-p))
