"""What Pillow does not check of a PNG file: the checksums of its pixels, its end, and a transparent colour it scaled.

Source: PNG specification, third edition, sections 5.3 (chunks) and 11.3.1 (tRNS).
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO

from runtime.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNATURE = 8
GREY, RGB = 0, 2
PIECE = 1 << 16


def check_chunks(file: BinaryIO) -> bytes:
    """Refuse a PNG file of which a chunk is damaged, or that ends before it says so.

    Args:
        file: The whole file, its signature seen by Pillow; read from its start, in pieces.

    Returns:
        The start of its chunk tRNS, which names a transparent colour; empty where there is none.

    Raises:
        ImageError: A chunk is cut off or has another checksum than its own, or there is no IEND.
    """
    file.seek(SIGNATURE)
    kind = named = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise ImageError("expected a PNG file with an end, got one that is cut off", reason="unreadable")
        length, kind = struct.unpack(">I4s", head)
        checksum, left = zlib.crc32(kind), length
        while left and (piece := file.read(min(left, PIECE))):
            checksum, left = zlib.crc32(piece, checksum), left - len(piece)
            if kind == b"tRNS":
                named = piece
        if file.read(4) != checksum.to_bytes(4, "big"):
            raise ImageError(f"expected an intact PNG file, got a damaged chunk {kind!a}", reason="unreadable")
    return named


def shows_transparent_colour(image: Image, file: BinaryIO, named: bytes) -> bool:
    """Return whether pixels of a PNG file may have its transparent colour, where Pillow compares other numbers.

    Pillow scales grey of less than 8 bits to 8, and takes the high byte of 16-bit RGB, but leaves the colour as it
    stands in the file. Of 16-bit RGB the low bytes are gone: a file that names a colour at all counts.

    Args:
        image: What Pillow decoded.
        file: The same file.
        named: Its chunk tRNS, not empty.
    """
    file.seek(SIGNATURE + 16, os.SEEK_SET)
    depth, colour = file.read(2)
    if colour == RGB:
        return depth == 16
    if colour != GREY or depth >= 8:
        return False
    scaled = int.from_bytes(named[:2], "big") * 255 // ((1 << depth) - 1)
    return scaled <= 255 and bool(image.histogram()[scaled])
