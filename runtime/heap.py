"""Memory that is free, yet still the process's own."""

from __future__ import annotations

import sys

_WORTH_IT = 256 << 10
"""KiB a process may have taken at most: in a larger one some megabytes are nothing, and looking for them takes long."""


def give_back() -> None:
    """Return what was freed to the system, where the C library can: glibc keeps it otherwise, up to megabytes."""
    if sys.platform != "linux":
        return
    import ctypes
    import resource

    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _WORTH_IT:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
