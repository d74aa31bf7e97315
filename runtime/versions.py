"""The versions of what decides the bits of a row: a resumed run must have the same."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_DECISIVE = ("onnxruntime", "onnxruntime-gpu", "pillow")


def decisive_versions() -> dict[str, str]:
    """Return the processor family and the versions of ONNX Runtime and Pillow."""
    found = {"machine": platform.machine()}
    for name in _DECISIVE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
