"""How fast this machine is: a few training steps and a few gradients, measured for `--plan`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

EXPORT_SECONDS = 6.0
"""About what torch.onnx takes for such a network, whatever the machine."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that things take.

    Attributes:
        training: Of one image of one epoch, by recipe and trunk, as ``cmt oracle``.
        gradient: Of one gradient of one image.
        forward: Of one verdict on one image.
    """

    training: Mapping[str, float]
    gradient: float
    forward: float


class Stopwatch:
    """Times repetitions, and keeps the best: a busy moment of the machine decides nothing."""

    def __init__(self) -> None:
        """Start."""
        self.best, self._last = float("inf"), time.perf_counter()

    def lap(self) -> None:
        """End one repetition and begin the next."""
        now = time.perf_counter()
        self.best, self._last = min(self.best, now - self._last), now
