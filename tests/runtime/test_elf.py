from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.elf import missing_libraries, needed_libraries

EXTENSION = Path(np._core._multiarray_umath.__file__)


def library(*needed: bytes) -> bytes:
    """A 64-bit little-endian ELF file with one loaded segment and the given entries of kind NEEDED."""
    strings = b"\0" + b"".join(name + b"\0" for name in needed)
    offsets = [strings.index(b"\0" + name + b"\0") + 1 for name in needed]
    start = 64 + 2 * 56
    dynamic = b"".join(struct.pack("<qQ", 1, offset) for offset in offsets)
    dynamic += struct.pack("<qQqQ", 5, 0x1000 + start, 0, 0)
    header = b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HH", 56, 2) + bytes(6)
    size = start + len(strings) + len(dynamic)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0x1000, size, size, 1)
    where = start + len(strings)
    entries = struct.pack("<IIQQQQQQ", 2, 6, where, 0x1000 + where, 0, len(dynamic), len(dynamic), 8)
    return header + load + entries + strings + dynamic


def test_names_come_in_file_order(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(library(b"libcudnn.so.9", b"libc.so.6"))
    assert needed_libraries(path) == ["libcudnn.so.9", "libc.so.6"]


def test_missing_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(library(b"libc.so.6", b"libcublasLt.so.99"))
    assert missing_libraries(path) == ["libcublasLt.so.99"]


def test_a_library_beside_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "libbeside.so").symlink_to(EXTENSION)
    path = tmp_path / "library.so"
    path.write_bytes(library(b"libbeside.so"))
    code = (
        "import sys; from pathlib import Path; from runtime.elf import *; print(missing_libraries(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import numpy; {code}", path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_real_extension_module_needs_the_c_library() -> None:
    assert "libc.so.6" in needed_libraries(EXTENSION)
    assert "libc.so.6" not in missing_libraries(EXTENSION)


@pytest.mark.parametrize("data", [b"text", b"\x7fELF\x01\x01" + bytes(60)], ids=["text", "32 bits"])
def test_other_files_need_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    assert needed_libraries(path) == []
