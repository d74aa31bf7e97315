"""Importing torchvision beside a CPU build of torch; run by itself, it ends well where that works."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def import_torchvision() -> Any:
    """Return torchvision.

    Its compiled operators do not load beside a CPU build of torch, and then its import fails for want of these two;
    nothing in the benchmarks calls them.
    """
    with contextlib.suppress(RuntimeError):
        return import_module("torchvision")
    for name in ("nms", "qnms"):
        _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("torchvision")


if __name__ == "__main__":
    import_torchvision()
