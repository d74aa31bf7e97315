"""Verdicts do not depend on simplejpeg: with it and without it every file has the same pixels or the same reason."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from runtime import fast_jpeg
from runtime.errors import ImageError
from runtime.fast_jpeg import decode_small_jpeg
from runtime.images import decode
from tests.runtime.image_files import encode, exif, noise

HAS_SIMPLEJPEG = find_spec("simplejpeg") is not None
GREY, COLOUR = noise(19, 30), noise(19, 30, 3)
SMOOTH = np.asarray(Image.fromarray(noise(5, 8, 3)).resize((30, 19)))
PLAIN = {
    f"{name} {subsampling} {quality}{' progressive' if progressive else ''}": encode(
        pixels, "JPEG", quality=quality, progressive=progressive, subsampling=subsampling
    )
    for name, pixels in (("noise", COLOUR), ("smooth", SMOOTH))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0")
    for quality in (5, 75, 100)
    for progressive in (False, True)
}
PLAIN["grey"] = encode(GREY, "JPEG")
PLAIN["comment"] = encode(COLOUR, "JPEG", comment=b"a comment")
ODD = {
    "exif": encode(COLOUR, "JPEG", exif=exif(6)),
    "cmyk": encode(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "profile": encode(COLOUR, "JPEG", icc_profile=b"profile"),
    "two pictures": encode(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[Image.fromarray(COLOUR)]),
    "rgb inside": encode(COLOUR, "JPEG", keep_rgb=True),
    "behind the end": encode(COLOUR, "JPEG") + b"more",
    "cut": encode(COLOUR, "JPEG")[:-40],
    "only a start": b"\xff\xd8",
    "start and end": b"\xff\xd8\xff\xd9",
    "png": encode(COLOUR),
}


def outcome(data: bytes, channels: int) -> bytes | str:
    try:
        return decode(data, channels=channels, max_pixels=1000).tobytes()
    except ImageError as error:
        return error.reason


def with_pillow_alone(data: bytes, channels: int) -> bytes | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.images.decode_small_jpeg", lambda *_, **__: None)
        return outcome(data, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_pixels_are_those_of_pillow(name: str, channels: int) -> None:
    data = {**PLAIN, **ODD}[name]
    assert outcome(data, channels) == with_pillow_alone(data, channels)


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_plain_is_decoded_fast_where_simplejpeg_is(name: str) -> None:
    assert (decode_small_jpeg(PLAIN[name], channels=3, max_pixels=1000) is not None) == HAS_SIMPLEJPEG


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_plain_is_left_to_pillow(name: str) -> None:
    assert decode_small_jpeg(ODD[name], channels=3, max_pixels=1000) is None


def test_what_is_too_large_is_left_to_pillow() -> None:
    assert decode_small_jpeg(PLAIN["grey"], channels=1, max_pixels=100) is None


def test_damaged_files_end_as_with_pillow_alone() -> None:
    rng = np.random.default_rng(0)
    seeds = [PLAIN["noise 4:2:0 75"], PLAIN["smooth 4:4:4 75 progressive"], PLAIN["grey"]]
    for index in range(900):
        data = bytearray(seeds[index % 3])
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        assert outcome(bytes(data), 3) == with_pillow_alone(bytes(data), 3), bytes(data).hex()


def test_a_decoder_that_differs_from_pillow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    black = np.zeros((37, 43, 3), np.uint8)  # an image that wraps it does not keep it alive
    fast_jpeg._trusted_decoder.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "__array_interface__", property(lambda self: black.__array_interface__))
        assert fast_jpeg._trusted_decoder() is None
    fast_jpeg._trusted_decoder.cache_clear()
