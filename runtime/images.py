"""From an image file to the pixels a guard takes; every decision here is listed in ``docs/guard.md``.

Pillow is imported by the functions that need it. All its errors become `ImageError`, with the word for the row.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.causes import has_run_out, remedy
from runtime.errors import CmtError, ImageError, UsageError, one_line
from runtime.fast_jpeg import SMALL_FILE, decode_small_jpeg
from runtime.files import NotRegularError, max_bytes, open_regular
from runtime.png import check_chunks, shows_transparent_colour
from runtime.spec import InputSpec, Resize

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC, BLACK_IS_ZERO = 258, 262, 1  # TIFF 6.0
CHANNELS = {1: "L", 3: "RGB"}
UPRIGHT = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "gamma", "srgb", "interlace", "compression"}
"""What Pillow may know about a file without knowing an orientation; anything more, and it is asked for one."""

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes"

_quiet = threading.Lock()
"""Held while Pillow parses headers: silencing warnings is a change to the whole process, so one thread at a time."""


def read(source: Source, spec: InputSpec) -> Pixels:
    """Decode an image file and fit it to what a guard takes.

    Args:
        source: Path of the file, or its bytes.
        spec: Size, channels, filter and pixel limit.

    Returns:
        uint8 ``(H, W, C)``.

    Raises:
        ImageError: The file cannot be used; its `reason` says why in one word.
        UsageError: `spec` takes neither 1 nor 3 channels, or this process lets Pillow pass truncated images.
        CmtError: Too many files are open to open this one, which says nothing about it.
    """
    image = _decoded(source, spec.channels, spec.max_pixels)
    return _pixels(_fitted(image, spec.height, spec.width, spec.resize))


def decode(source: Source, *, channels: int, max_pixels: int) -> Pixels:
    """Decode an image file to 8 bits a channel, upright, without transparency.

    Args:
        source: Path of the file, or its bytes.
        channels: 1 for grey, 3 for RGB.
        max_pixels: Largest height * width that is decoded; the header is asked first.

    Returns:
        uint8 ``(h, w, channels)``.

    Raises:
        ImageError: The file cannot be used; its `reason` says why in one word.
        UsageError: `channels` is neither 1 nor 3, or this process lets Pillow pass truncated images.
        CmtError: Too many files are open to open this one, which says nothing about it.
    """
    return _pixels(_decoded(source, channels, max_pixels))


def fit(image: Pixels, *, height: int, width: int, resize: Resize) -> Pixels:
    """Bring an image to the size a guard takes, stretching it where the aspect differs.

    Args:
        image: uint8 ``(h, w, C)`` with C 1 or 3.
        height: Rows wanted.
        width: Columns wanted.
        resize: ``bilinear`` or ``bicubic``, both with antialiasing; ``none`` refuses another size.

    Returns:
        uint8 ``(height, width, C)``; `image` itself where nothing is to be done.

    Raises:
        ImageError: Another size under ``none``; its reason is ``wrong-size``.
    """
    if image.shape[:2] == (height, width):
        return image
    return _pixels(_fitted(_image(image), height, width, resize))


def _fitted(image: Image | Pixels, height: int, width: int, resize: Resize) -> Image | Pixels:
    size = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
    if size == (width, height):
        return image
    if resize == "none":
        got = f"{size[1]}x{size[0]}"
        raise ImageError(f"expected {height}x{width} pixels, got {got}; resize it first", reason="wrong-size")
    from PIL.Image import Resampling

    filter_ = Resampling.BILINEAR if resize == "bilinear" else Resampling.BICUBIC
    return _image(image).resize((width, height), filter_)


def _image(image: Image | Pixels) -> Image:
    if not isinstance(image, np.ndarray):
        return image
    from PIL.Image import fromarray

    return fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _pixels(image: Image | Pixels) -> Pixels:
    """Return 8-bit pixels as an array; ``tobytes`` is several times faster than numpy's way to ask Pillow."""
    if isinstance(image, np.ndarray):
        return image
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1)


def _decoded(source: Source, channels: int, max_pixels: int) -> Image | Pixels:
    """Decode to mode L or RGB; small plain JPEG files may come as an array, with the same pixels."""
    from PIL import ImageFile

    if channels not in CHANNELS:
        raise UsageError(f"channels: expected 1 or 3 to read image files, got {channels}; pass arrays to classify")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "ImageFile.LOAD_TRUNCATED_IMAGES: expected False, got True; half an image must not get a verdict"
        )
    with _open(source, max_bytes(max_pixels)) as (file, size):
        try:
            if size <= SMALL_FILE:
                data = file.read(SMALL_FILE)
                pixels = decode_small_jpeg(data, channels=channels, max_pixels=max_pixels)
                if pixels is not None:
                    return pixels
                file = io.BytesIO(data)
            return _decode(file, CHANNELS[channels], max_pixels)
        except ImageError:
            raise
        except Exception as error:  # hostile bytes make Pillow raise nearly anything
            raise ImageError(f"expected an intact image, got: {one_line(error)}", reason="unreadable") from None


@contextmanager
def _open(source: Source, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file that is not empty, and say how many bytes it has: no more than a limit."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    except NotRegularError as error:
        raise ImageError(f"expected a regular file, got {error}", reason="not-a-file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and has_run_out(error):
            raise CmtError(f"{source!a}: expected to open it, got: {error.strerror}; {remedy(error, '')}") from None
        raise ImageError(f"expected a readable file, got: {one_line(error)}", reason="unreadable") from None
    with file:
        size = _count_bytes(file)
        if size == 0:
            raise ImageError("expected an image, got 0 bytes", reason="empty")
        if size > limit:
            raise ImageError(f"expected at most {limit} bytes, got {size}; save it anew", reason="too-large")
        yield file, size


def _count_bytes(file: BinaryIO) -> int:
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
    except OSError as error:  # files of the kernel look regular and have no end
        raise ImageError(f"expected a file with an end, got: {one_line(error)}", reason="unreadable") from None
    return size


def _decode(file: BinaryIO, mode: str, max_pixels: int) -> Image:
    from PIL import ImageOps

    image = _parse(file, max_pixels)
    image.load()
    _check_size(image, max_pixels)
    if image.format == "PNG":
        _check_png(image, file)
    if image.format == "TIFF" or not image.info.keys() <= UPRIGHT:
        with _quietly():
            ImageOps.exif_transpose(image, in_place=True)
    plain = _eight_bits(image)
    return plain if plain.mode == mode else plain.convert(mode)


def _parse(file: BinaryIO, max_pixels: int) -> ImageFile:
    """Read the header, and decide by it alone what can be decided."""
    from PIL import Image, UnidentifiedImageError

    with _quietly():
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            expected = ", ".join(FORMATS)
            raise ImageError(f"expected one of {expected}, got another file", reason="not-an-image") from None
        except Image.DecompressionBombError as error:
            raise ImageError(f"expected a smaller image, got: {one_line(error)}", reason="too-large") from None
        _check_size(image, max_pixels)
        if image.mode not in MODES + DEEP_GREY:
            raise ImageError(f"expected a grey or RGB image, got mode {image.mode}", reason="unsupported-mode")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise ImageError("expected one picture, got several frames or pages", reason="animated")
        if image.format == "TIFF":
            _check_deep_grey(image)
            image.load()  # goes on parsing headers, with warnings
    return image


def _check_png(image: ImageFile, file: BinaryIO) -> None:
    named = check_chunks(file)
    if named and shows_transparent_colour(image, file, named):
        raise _transparent()


def _check_deep_grey(image: ImageFile) -> None:
    """Refuse a TIFF whose numbers are no 16-bit grey from black to white, although Pillow has no other mode for it."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if image.mode in DEEP_GREY and (tags.get(BITS_PER_SAMPLE), tags.get(PHOTOMETRIC)) != ((16,), BLACK_IS_ZERO):
        raise ImageError("expected 16-bit grey from black to white, got another TIFF", reason="unsupported-mode")


def _check_size(image: Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        got = f"{image.width}x{image.height}"
        raise ImageError(f"expected at most {max_pixels} pixels, got {got}; resize it first", reason="too-large")


def _eight_bits(image: Image) -> Image:
    """Return the image with 8 bits a channel and without transparency, refusing what that would change."""
    from PIL.Image import fromarray

    if image.mode in DEEP_GREY:
        values = np.asarray(image).astype(np.uint32)
        if "transparency" in image.info and np.any(values == image.info["transparency"]):
            raise _transparent()
        return fromarray(((values + 128) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        raise _transparent()
    return image.convert("RGB")


def _transparent() -> ImageError:
    return ImageError("expected an opaque image, got transparent pixels; flatten it first", reason="transparent")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Pillow's warnings about odd headers from the caller; what matters in them is an `ImageError` here."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
