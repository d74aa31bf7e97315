"""Every decision about image files, as listed in docs/guard.md."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from runtime.errors import ImageError, UsageError
from runtime.images import decode, fit, read
from runtime.spec import InputSpec
from tests.runtime.image_files import chunk, encode, exif, noise, png
from tests.runtime.limits import without_descriptors

GREY, RGB = noise(5, 7), noise(5, 7, 3)
LIMIT = 10_000


def refused(data: bytes | Path | str, reason: str, *, channels: int = 1, max_pixels: int = LIMIT) -> str:
    with pytest.raises(ImageError, match="expected") as caught:
        decode(data, channels=channels, max_pixels=max_pixels)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(data: bytes, *, channels: int = 3) -> str:
    """Why an image cannot be used; empty where it can."""
    try:
        assert decode(data, channels=channels, max_pixels=LIMIT).shape[2] == channels
    except ImageError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("format_", ["PNG", "BMP", "GIF", "TIFF", "PPM"])
def test_lossless_grey_is_exact(format_: str) -> None:
    decoded = decode(encode(GREY, format_), channels=1, max_pixels=LIMIT)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, GREY[..., np.newaxis])


@pytest.mark.parametrize("format_", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_lossless_colour_is_exact(format_: str) -> None:
    options = {"lossless": True} if format_ == "WEBP" else {}
    assert np.array_equal(decode(encode(RGB, format_, **options), channels=3, max_pixels=LIMIT), RGB)


def test_jpeg_is_decoded_at_full_size_and_quality() -> None:
    data = encode(noise(64, 48, 3), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    assert np.array_equal(decode(data, channels=3, max_pixels=LIMIT), expected)


def test_path_and_bytes_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "image.with-any-suffix"
    path.write_bytes(encode(RGB))
    assert np.array_equal(decode(path, channels=3, max_pixels=LIMIT), RGB)
    assert np.array_equal(decode(str(path), channels=3, max_pixels=LIMIT), RGB)


def test_grey_becomes_rgb_and_rgb_becomes_luma() -> None:
    assert np.array_equal(decode(encode(GREY), channels=3, max_pixels=LIMIT), np.repeat(GREY[..., None], 3, axis=2))
    luma = decode(encode(RGB), channels=1, max_pixels=LIMIT)[..., 0]
    np.testing.assert_allclose(luma, RGB @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, format_: str) -> None:
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # a white corner, top left
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encode(np.ascontiguousarray(undo[orientation]), format_, exif=exif(orientation), **options)
    decoded = decode(data, channels=1, max_pixels=LIMIT)[..., 0]
    np.testing.assert_allclose(decoded, upright, atol=8)


def test_palette_is_expanded() -> None:
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for format_ in ("PNG", "GIF", "BMP"):
        assert np.array_equal(decode(encode(image, format_), channels=3, max_pixels=LIMIT), expected)


def test_bilevel_becomes_black_and_white() -> None:
    image = Image.fromarray(GREY > 127)
    assert np.array_equal(decode(encode(image), channels=1, max_pixels=LIMIT)[..., 0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_opaque_alpha_is_dropped(mode: str, format_: str) -> None:
    grey = Image.fromarray(GREY).convert(mode)
    assert np.array_equal(decode(encode(grey, format_), channels=1, max_pixels=LIMIT)[..., 0], GREY)


@pytest.mark.parametrize("alpha", [0, 128, 254])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_one_transparent_pixel_is_refused(alpha: int, mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    mask = Image.new("L", image.size, 255)
    mask.putpixel((3, 2), alpha)
    image.putalpha(mask)
    refused(encode(image), "transparent")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_transparent_colour_is_refused_where_it_occurs(mode: str) -> None:
    """PNG can name one colour as transparent instead of an alpha channel."""
    black = np.zeros((4, 4, 3), np.uint8)
    image = Image.fromarray(np.zeros((4, 4), np.uint16)) if mode == "I;16" else Image.fromarray(black).convert(mode)
    colour = {"L": 0, "RGB": (0, 0, 0), "P": image.getpixel((0, 0)), "I;16": 0}[mode]
    other = {"L": 7, "RGB": (1, 2, 3), "P": 200, "I;16": 9}[mode]
    refused(encode(image, transparency=colour), "transparent")
    assert not decode(encode(image, transparency=other), channels=1, max_pixels=LIMIT).any()


def png_with_colour(depth: int, colour: int, sample: bytes, named: bytes) -> bytes:
    """A PNG of 4x4 whose pixels all are `sample`, with a transparent colour."""
    return png(4, 4, depth=depth, colour=colour, extra=chunk(b"tRNS", named), rows=(b"\0" + sample) * 4)


@pytest.mark.parametrize(
    ("depth", "sample", "named"),
    [
        (1, b"\xf0", 1),
        (2, b"\x55", 1),
        (2, b"\xff", 3),
        (4, b"\x55\x55", 5),
        (8, b"\x55" * 4, 0x55),
        (16, b"\1\2" * 4, 258),
    ],
)
def test_transparent_grey_is_refused_at_every_depth(depth: int, sample: bytes, named: int) -> None:
    refused(png_with_colour(depth, 0, sample, struct.pack(">H", named)), "transparent")
    other = png_with_colour(depth, 0, sample, struct.pack(">H", named ^ 1))
    assert decode(other, channels=1, max_pixels=LIMIT).shape == (4, 4, 1)


def test_16_bit_colour_that_names_a_transparent_one_is_refused() -> None:
    """Of its pixels only the high bytes are left to compare with."""
    refused(png_with_colour(16, 2, b"\x12\x34" * 12, b"\x12\x34" * 3), "transparent")


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_a_png_whose_checksums_fail_is_refused(place: float) -> None:
    data = bytearray(encode(noise(8, 8, high=3)))
    start, length = data.index(b"IDAT") + 4, int.from_bytes(data[data.index(b"IDAT") - 4 : data.index(b"IDAT")], "big")
    for bit in range(8):
        flipped = bytearray(data)
        flipped[start + round(place * (length + 3))] ^= 1 << bit
        refused(bytes(flipped), "unreadable")


def test_a_png_without_its_end_is_refused() -> None:
    data = encode(GREY)
    for length in range(len(data) - 16, len(data)):
        refused(data[:length], "unreadable")
    decode(data + b"more behind its end", channels=1, max_pixels=LIMIT)


def tiff(bits: int, photometric: int, data: bytes) -> bytes:
    """A grey TIFF of 4x4, uncompressed, in one strip."""
    tags = {256: 4, 257: 4, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 4, 279: len(data)}
    tags[273] = 10 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_grey_tiffs_that_pillow_takes_for_16_bit_are_refused() -> None:
    white = tiff(16, 1, b"\xff" * 32)
    assert decode(white, channels=1, max_pixels=LIMIT).min() == 255
    refused(tiff(12, 1, b"\xff" * 24), "unsupported-mode")
    refused(tiff(16, 0, b"\xff" * 32), "unsupported-mode")
    assert decode(tiff(8, 0, b"\xff" * 16), channels=1, max_pixels=LIMIT).max() == 0


def test_transparent_gif_is_refused() -> None:
    image = Image.fromarray(GREY).convert("P")
    refused(encode(image, "GIF", transparency=image.getpixel((0, 0))), "transparent")


def test_16_bit_grey_is_scaled_and_rounded_never_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 385, 386, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    expected = np.rint(values / 257.0).astype(np.uint8)
    for format_ in ("PNG", "TIFF"):
        assert np.array_equal(decode(encode(values, format_), channels=1, max_pixels=LIMIT)[..., 0], expected)
        colour = decode(encode(values, format_), channels=3, max_pixels=LIMIT)
        assert np.array_equal(colour, np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_grey_scales_every_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = decode(encode(values), channels=1, max_pixels=65536)[..., 0]
    assert np.array_equal(decoded, np.rint(values / 257.0).astype(np.uint8))


def test_16_bit_colour_keeps_its_high_bytes() -> None:
    rows = b"\0" + struct.pack(">HHH", 0x1234, 0xFFFF, 0x00FF)
    decoded = decode(png(1, 1, depth=16, colour=2, rows=rows), channels=3, max_pixels=LIMIT)
    assert decoded.tolist() == [[[0x12, 0xFF, 0x00]]]


@pytest.mark.parametrize(
    ("mode", "format_"),
    [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("LAB", "TIFF"), ("I", "TIFF"), ("F", "TIFF")],
)
def test_other_modes_are_refused(mode: str, format_: str) -> None:
    message = refused(encode(Image.new(mode, (4, 4)), format_), "unsupported-mode")
    assert f"got mode {mode}" in message


def test_animations_are_refused() -> None:
    frames = [Image.fromarray(noise(5, 7, seed=seed)) for seed in range(3)]
    for format_ in ("GIF", "PNG", "WEBP", "TIFF"):
        refused(encode(frames[0], format_, save_all=True, append_images=frames[1:]), "animated")


def test_the_preview_beside_a_photograph_is_no_animation() -> None:
    frames = [Image.fromarray(noise(16, 16, 3, seed=seed)) for seed in range(2)]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    first = decode(encode(frames[0], "JPEG"), channels=3, max_pixels=LIMIT)
    assert np.array_equal(decode(data, channels=3, max_pixels=LIMIT), first)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_truncated_files_are_refused(format_: str) -> None:
    data = encode(noise(40, 40, 3), format_)
    refused(data[: len(data) // 2], "unreadable", channels=3)


def test_no_prefix_of_a_file_raises_anything_else() -> None:
    for format_ in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        data = encode(noise(12, 12, 3), format_)
        reasons = {outcome(data[:length]) for length in range(1, len(data), 11)}
        assert reasons <= {"", "unreadable", "not-an-image"}


def test_no_mutation_of_a_file_raises_anything_else(recwarn: pytest.WarningsRecorder) -> None:
    rng = np.random.default_rng(0)
    for format_ in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        original = encode(noise(12, 12, 3), format_, **({"exif": exif(6)} if format_ in ("JPEG", "PNG") else {}))
        for _ in range(150):
            data = bytearray(original)
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(0, 256)
            assert outcome(bytes(data)) in {"", "unreadable", "not-an-image", "too-large", "animated", "transparent"}
    assert not recwarn.list


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 100, b"%PDF-1.4", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"PK\x03\x04" + bytes(60)]
)
def test_other_files_are_no_image(data: bytes) -> None:
    refused(data, "not-an-image")


@pytest.mark.parametrize("format_", ["ICO", "TGA", "PCX", "EPS", "PDF", "JPEG2000"])
def test_other_formats_are_no_image(format_: str) -> None:
    refused(encode(Image.fromarray(noise(16, 16, 3)), format_), "not-an-image")


def test_empty_file(tmp_path: Path) -> None:
    refused(b"", "empty")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty")


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.png", "unreadable")
    assert "null" in refused("a\0b", "unreadable")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_no_file(tmp_path: Path, kind: str) -> None:
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / "x")
    refused(tmp_path / "x", "not-a-file")


@pytest.mark.parametrize(
    ("width", "height"),
    [(101, 100), (10_000, 10_000), (2**31 - 1, 2**31 - 1)],
    ids=["just", "bomb that Pillow warns of", "bomb that Pillow refuses"],
)
def test_pixels_are_counted_before_decoding(width: int, height: int) -> None:
    assert "expected at most 10000 pixels" in refused(png(width, height), "too-large") or width > 10_000


@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
def test_bytes_are_counted_before_decoding(tmp_path: Path, as_bytes: bool) -> None:
    """A small picture in front of a hole: Pillow would read all of it."""
    path = tmp_path / "hole.png"
    path.write_bytes(encode(GREY))
    limit = 8 * LIMIT + (1 << 20)
    os.truncate(path, limit)
    assert decode(path.read_bytes() if as_bytes else path, channels=1, max_pixels=LIMIT).shape == (*GREY.shape, 1)
    os.truncate(path, limit + 1)
    got = refused(path.read_bytes() if as_bytes else path, "too-large")
    assert got == f"expected at most {limit} bytes, got {limit + 1}; save it anew"


def test_the_limit_itself_is_fine() -> None:
    assert decode(encode(noise(100, 100)), channels=1, max_pixels=LIMIT).shape == (100, 100, 1)


def test_compressed_bomb_of_text_is_refused() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000), 9))
    refused(png(1, 1, extra=bomb, rows=b"\0\0"), "unreadable")


@pytest.mark.parametrize(
    "data",
    [
        png(10_000, 10_000),
        png(4, 4, extra=chunk(b"acTL", bytes(8))),
        encode(RGB, "TIFF", exif=exif(1)).replace(struct.pack("<HHI", 0x0112, 3, 1), struct.pack("<HHI", 0x0112, 3, 2)),
    ],
    ids=["bomb", "animation without frames", "two orientations"],
)
def test_warnings_of_pillow_stay_inside(data: bytes) -> None:
    def plainly() -> None:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "TIFF":
                image.getexif().get(0x0112)

    with pytest.warns(Warning, match="exceeds limit|Invalid APNG|Metadata Warning"):
        plainly()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        outcome(data)
    assert leaked == []


def test_truncated_images_are_never_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES: expected False") as caught:
        decode(encode(GREY), channels=1, max_pixels=LIMIT)
    assert not isinstance(caught.value, ImageError)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_channels_must_be_1_or_3(channels: int) -> None:
    with pytest.raises(UsageError, match="channels: expected 1 or 3"):
        decode(encode(GREY), channels=channels, max_pixels=LIMIT)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("resize", "filter_"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
def test_fit_is_pillows_antialiased_filter(channels: int, resize: str, filter_: Image.Resampling) -> None:
    image = noise(31, 17, channels)
    planes = [np.asarray(Image.fromarray(image[..., plane]).resize((9, 8), filter_)) for plane in range(channels)]
    fitted = fit(image, height=8, width=9, resize=resize)  # type: ignore[arg-type]
    assert np.array_equal(fitted, np.stack(planes, axis=-1))


def test_fit_leaves_the_right_size_alone() -> None:
    image = noise(8, 9, 3)
    for resize in ("bilinear", "bicubic", "none"):
        assert fit(image, height=8, width=9, resize=resize) is image  # type: ignore[arg-type]


def test_fit_refuses_another_size_under_none() -> None:
    with pytest.raises(ImageError, match="expected 8x9 pixels, got 9x8") as caught:
        fit(noise(9, 8, 1), height=8, width=9, resize="none")
    assert caught.value.reason == "wrong-size"


def test_read_is_decode_then_fit() -> None:
    spec = InputSpec(height=4, width=6, channels=3, resize="bicubic", max_pixels=LIMIT)
    decoded = decode(encode(GREY), channels=3, max_pixels=LIMIT)
    assert np.array_equal(read(encode(GREY), spec), fit(decoded, height=4, width=6, resize="bicubic"))


@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/mem"])
def test_a_file_without_an_end_is_unreadable(path: str) -> None:
    with pytest.raises(ImageError) as raised:
        decode(path, channels=1, max_pixels=100)
    assert raised.value.reason in ("unreadable", "empty")


def test_too_many_open_files_say_nothing_about_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(GREY))
    imports = "from PIL import ImageFile\nfrom runtime.images import decode"
    printed = without_descriptors(imports, "decode(sys.argv[1], channels=1, max_pixels=100)", tmp_path / "a.png")
    assert printed.startswith("CmtError ")
    assert "a.png': expected to open it, got: Too many open files; use fewer --threads" in printed
