"""Memory that is free, yet still the process's own."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return what was freed to the system, where the C library can: glibc keeps it otherwise, up to megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
