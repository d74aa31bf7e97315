"""Which shared libraries a library needs, read from the file itself: loading it would only name the first one missing.

Source: System V ABI, "Dynamic Section"; 64-bit little-endian files only.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from pathlib import Path

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NEEDED, DT_STRTAB = 1, 5


def needed_libraries(path: Path) -> list[str]:
    """Return the names of the libraries that a shared library is linked to.

    Args:
        path: An ELF file.

    Returns:
        Names such as ``libcudnn.so.9``, in the order of the file; empty where it is not 64-bit little-endian ELF.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _needed(data) if data[:6] == b"\x7fELF\x02\x01" else []


def missing_libraries(path: Path) -> list[str]:
    """Return those of `needed_libraries` that the dynamic loader does not find on this machine."""
    return [name for name in needed_libraries(path) if not _loads(name, path.parent)]


def _needed(data: mmap.mmap) -> list[str]:
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    loads = [(address, offset, length) for kind, _, offset, address, _, length in segments if kind == PT_LOAD]
    entries = [
        struct.unpack_from("<qQ", data, position)
        for kind, _, offset, _, _, length in segments
        if kind == PT_DYNAMIC
        for position in range(offset, offset + length, 16)
    ]
    names = next((value for tag, value in entries if tag == DT_STRTAB), None)
    if names is None:
        return []
    strings = next(offset + names - address for address, offset, length in loads if address <= names < address + length)
    return [_text(data, strings + value) for tag, value in entries if tag == DT_NEEDED]


def _loads(name: str, beside: Path) -> bool:
    for candidate in (name, str(beside / name)):
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return True
    return False


def _text(data: mmap.mmap, start: int) -> str:
    return data[start : data.find(b"\0", start)].decode("utf-8", "replace")
