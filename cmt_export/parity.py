"""The parity gate: PyTorch and the exported file give the same verdicts, rounding errors at an edge set aside.

Verdicts are compared on benign images, on adversarial ones, and on images between the two, moved as close to the edge
of a verdict as 8 bits allow; at batch sizes 1, 2 and all. PyTorch's side applies the rule on its own, from the
checkpoint's Classmap and the file's threshold.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from calibration.pixels import to_images, to_pixels
from cmt_export.checkpoint import Checkpoint
from cmt_export.networks import Logits
from cmt_export.recipes.inner import fgs_step
from cmt_export.recipes.objectives import log_odds
from cmt_export.rule import confidence, hard_rule
from runtime.errors import GateFailed, UsageError
from runtime.guard import Guard
from runtime.verdicts import Verdicts

CONFIDENCE_TOLERANCE = 1e-5
"""A confidence this close to the threshold may fall on either side of it."""
MARGIN_TOLERANCE = 1e-4
"""Two top logits this close may change places."""
ANOMALY_TOLERANCE = 1e-3
"""A detector this close to its limit, as a share of it, may fall on either side: some read differences of softmaxes."""

_BISECTIONS = 8  # 2^-8: neighbouring 8-bit images
_SINGLES = 64

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What the gate saw.

    Attributes:
        benign: Images compared.
        adversarial: Images compared.
        near: Images compared that lie at the edge of a verdict.
        undecidable: Differences within the tolerances: confidence 1e-5 from the threshold, top-two margin
            1e-4, or a detector 1e-3 from its limit.
        different: Differences beyond them.
        largest_logit_gap: Largest absolute difference of a logit.
        first_difference: The first of them, for people; empty without one.
    """

    benign: int
    adversarial: int
    near: int
    undecidable: int
    different: int
    largest_logit_gap: float
    first_difference: str

    def require(self) -> None:
        """Raise `GateFailed` when a verdict differs."""
        if self.different:
            raise GateFailed(
                f"parity: expected the same verdicts from PyTorch and ONNX Runtime, got {self.different} different: "
                f"{self.first_difference}; is this the checkpoint the file was exported from?"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """PyTorch's verdicts."""

    labels: npt.NDArray[np.int64]
    accepted: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    robust_logits: npt.NDArray[np.float32] | None
    anomalies: npt.NDArray[np.float32] | None


def check_parity(
    model: bytes,
    network: nn.Module,
    checkpoint: Checkpoint,
    *,
    images: Images | None = None,
    labels: npt.NDArray[np.int64] | None = None,
) -> ParityReport:
    """Compare verdicts of an exported file with those of its network.

    Args:
        model: The file.
        network: In evaluation mode, on the CPU.
        checkpoint: Its Classmap, and its held-out images as the default.
        images: uint8 ``(N, H, W, C)``.
        labels: int64 ``(N,)``, for the attack.

    Raises:
        UsageError: The file takes images of another shape than the checkpoint.
        ModelError: The file is invalid.
    """
    if images is None or labels is None:
        images, labels = checkpoint.probe_images, checkpoint.probe_labels
    with Guard(model, device="cpu") as guard:
        if guard.spec.input_shape != images.shape[1:] or len(guard.spec.classes) != len(checkpoint.classes):
            raise UsageError(
                f"parity: expected images {guard.spec.input_shape} and {len(guard.spec.classes)} classes, "
                f"got {images.shape[1:]} and {len(checkpoint.classes)}; is this the file's checkpoint?"
            )
        threshold = guard.spec.threshold
        adversarial = np.concatenate([_attack(network, images, labels, epsilon) for epsilon in (0.02, 0.1, 0.3)])
        near = _edges(network, checkpoint, threshold, images, adversarial)
        every = np.concatenate([images, adversarial, near])
        reference = _judge(network, checkpoint, threshold, every)
        comparison = _Comparison(reference, threshold)
        comparison.add(guard, every, size=len(every))
        comparison.add(guard, every[-_SINGLES:], size=1, first=len(every) - min(_SINGLES, len(every)))
        comparison.add(guard, every[-_SINGLES:], size=2, first=len(every) - min(_SINGLES, len(every)))
    return ParityReport(
        benign=len(images),
        adversarial=len(adversarial),
        near=len(near),
        undecidable=comparison.undecidable,
        different=comparison.different,
        largest_logit_gap=comparison.largest_logit_gap,
        first_difference=comparison.first_difference,
    )


class _Comparison:
    """Counts differences between the reference and what a guard says."""

    def __init__(self, reference: _Reference, threshold: float) -> None:
        self.undecidable = self.different = 0
        self.largest_logit_gap = 0.0
        self.first_difference = ""
        self._reference = reference
        self._undecidable = _is_undecidable(reference, threshold)

    def add(self, guard: Guard, images: Images, *, size: int, first: int = 0) -> None:
        """Compare `images`, which are the reference's from `first` on, in batches of `size`."""
        for start in range(0, len(images), size):
            verdicts = guard.classify(images[start : start + size])
            rows = slice(first + start, first + start + len(verdicts))
            self._compare(verdicts, rows, batch=len(verdicts))

    def _compare(self, verdicts: Verdicts, rows: slice, *, batch: int) -> None:
        reference = self._reference
        gaps = [np.abs(verdicts.logits - reference.logits[rows])]
        if verdicts.robust_logits is not None and reference.robust_logits is not None:
            gaps.append(np.abs(verdicts.robust_logits - reference.robust_logits[rows]))
        self.largest_logit_gap = max(self.largest_logit_gap, *(float(gap.max()) for gap in gaps))
        wrong = (verdicts.labels != reference.labels[rows]) | (verdicts.accepted != reference.accepted[rows])
        wrong |= np.abs(verdicts.confidence - reference.confidence[rows]) > 1e-3
        excused = wrong & self._undecidable[rows]
        self.undecidable += int(excused.sum())
        beyond = np.flatnonzero(wrong & ~excused)
        self.different += len(beyond)
        if len(beyond) and not self.first_difference:
            i = int(beyond[0])
            self.first_difference = (
                f"image {rows.start + i} at batch {batch}: PyTorch says {reference.labels[rows][i]}"
                f"{_word(reference.accepted[rows][i])} ({reference.confidence[rows][i]:.6f}), "
                f"the file {verdicts.labels[i]}{_word(verdicts.accepted[i])} ({verdicts.confidence[i]:.6f})"
            )


def _word(accepted: bool | np.bool_) -> str:
    return " accepted" if accepted else " rejected"


def _is_undecidable(reference: _Reference, threshold: float) -> npt.NDArray[np.bool_]:
    distance = np.abs(reference.confidence - np.float32(threshold))
    close: npt.NDArray[np.bool_] = distance <= CONFIDENCE_TOLERANCE
    if threshold == 0:
        close[:] = False  # every confidence passes, however small
    for logits in (reference.logits, reference.robust_logits):
        if logits is not None:
            top = np.sort(logits, axis=1)
            close |= top[:, -1] - top[:, -2] <= MARGIN_TOLERANCE
    if reference.anomalies is not None:
        close |= (np.abs(reference.anomalies - 1) <= ANOMALY_TOLERANCE).any(1)
    return close


@torch.no_grad()
def _judge(network: nn.Module, checkpoint: Checkpoint, threshold: float, images: Images) -> _Reference:
    """Apply the rule in PyTorch (paper §3.3.1), without the exported graph."""
    chunks = [_forward(network, images[first : first + 256]) for first in range(0, len(images), 256)]
    outputs = _joined(chunks)
    classmap = checkpoint.classmap_tensor("cpu")
    sure = confidence(outputs, classmap)
    accepted = hard_rule(outputs, classmap) & (sure >= torch.tensor(threshold, dtype=torch.float32))
    return _Reference(
        labels=outputs.logits.argmax(1).numpy(),
        accepted=accepted.numpy(),
        confidence=sure.numpy(),
        logits=outputs.logits.numpy(),
        robust_logits=None if outputs.robust_logits is None else outputs.robust_logits.numpy(),
        anomalies=None if outputs.anomalies is None else outputs.anomalies.numpy(),
    )


def _joined(chunks: list[Logits]) -> Logits:
    present = [name for name, value in vars(chunks[0]).items() if value is not None]
    return Logits(**{name: torch.cat([getattr(chunk, name) for chunk in chunks]) for name in present})


def _forward(network: nn.Module, images: Images) -> Logits:
    outputs: Logits = network(torch.from_numpy(to_pixels(images)))
    return outputs


def _attack(network: nn.Module, images: Images, labels: npt.NDArray[np.int64], epsilon: float) -> Images:
    """Return FGS examples (Eq. 1) on Z*, rounded to 8 bits."""
    attacked = []
    for first in range(0, len(images), 256):
        pixels = torch.from_numpy(to_pixels(images[first : first + 256])).requires_grad_()
        odds = log_odds(network(pixels).logits, torch.from_numpy(labels[first : first + 256]))
        (gradient,) = torch.autograd.grad(odds.sum(), pixels)
        attacked.append(to_images(fgs_step(pixels.detach(), gradient, epsilon).numpy()))
    return np.concatenate(attacked)


def _edges(network: nn.Module, checkpoint: Checkpoint, threshold: float, images: Images, adversarial: Images) -> Images:
    """Bisect between each image and an attacked copy of it with another verdict; return both sides of the last edge."""
    copies = len(adversarial) // len(images)
    benign = np.tile(images, (copies, 1, 1, 1))
    before, after = (_judge(network, checkpoint, threshold, side) for side in (benign, adversarial))
    changed = (before.labels != after.labels) | (before.accepted != after.accepted)
    kept, moved = benign[changed].astype(np.float32), adversarial[changed].astype(np.float32)
    labels, accepted = before.labels[changed], before.accepted[changed]
    if not len(kept):
        return benign[:0]
    for _ in range(_BISECTIONS):
        middle = (kept + moved) / 2
        verdict = _judge(network, checkpoint, threshold, np.rint(middle).astype(np.uint8))
        same = ((verdict.labels == labels) & (verdict.accepted == accepted))[:, None, None, None]
        kept, moved = np.where(same, middle, kept), np.where(same, moved, middle)
    edges: Images = np.rint(np.concatenate([kept, moved])).astype(np.uint8)
    return edges
