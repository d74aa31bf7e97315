"""What `benchmarks/scoring.py` measures on: pictures of three kinds, and guard files with the network of Table 1."""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))

from runtime.artifact import graph_digest
from runtime.session import create_session
from tests.runtime import onnx_bytes as onnx
from tests.runtime.guard_files import Recipe, document, initializers, inputs, nodes, outputs, random_images, stamp

TEN = tuple(f"class {index}" for index in range(10))
PARTNERS = (1, 0, 3, 2, 5, 4, 7, 6, 9, 8)


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Pictures of one kind.

    Attributes:
        height: Of a picture.
        width: Of a picture.
        channels: 1 or 3.
        suffix: ``jpg`` or ``png``.
        network: Height, width and channels of the guard that judges them.
        files: How many are timed.
        convolutions: Whether the guard is the oracle of Table 1, or two linear layers that cost next to nothing.
    """

    height: int
    width: int
    channels: int
    suffix: str
    network: tuple[int, int, int]
    files: int
    convolutions: bool = True


SETS = {
    "32x32 JPEG": ImageSet(height=32, width=32, channels=3, suffix="jpg", network=(32, 32, 3), files=5000),
    "28x28 PNG": ImageSet(height=28, width=28, channels=1, suffix="png", network=(28, 28, 1), files=5000),
    "640x480 JPEG": ImageSet(height=480, width=640, channels=3, suffix="jpg", network=(32, 32, 3), files=1500),
    "28x28 PNG, cheap network": ImageSet(
        height=28, width=28, channels=1, suffix="png", network=(28, 28, 1), files=20_000, convolutions=False
    ),
}


def make_images(folder: Path, images: ImageSet, count: int, *, different: int = 200) -> None:
    """Write `count` files into two folders named like classes; every picture occurs several times, as hard links."""
    first: list[Path] = []
    for index in range(count):
        path = folder / TEN[index % 2] / f"{index:06}.{images.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < different:
            picture(images, index).save(path, **({"quality": 90} if images.suffix == "jpg" else {}))
            first.append(path)
        else:
            os.link(first[index % different], path)


def picture(images: ImageSet, seed: int) -> Image.Image:
    """Return smooth shapes with some grain: neither a flat colour nor pure noise, either of which no camera takes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (images.height // 8 + 2, images.width // 8 + 2, images.channels), np.uint8)
    coarse = coarse if images.channels == 3 else coarse[..., 0]
    smooth = np.asarray(Image.fromarray(coarse).resize((images.width, images.height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


def make_guard(path: Path, shape: tuple[int, int, int], *, convolutions: bool = True) -> None:
    """Write a guard file with random weights: the oracle of Table 1 with two heads, or two linear heads alone."""
    height, width, channels = shape
    recipe = Recipe(height=height, width=width, channels=channels, classes=TEN, classmap=PARTNERS, max_pixels=1 << 24)
    body, values = nodes(recipe), initializers(recipe)
    if convolutions:
        trunk, weights = _oracle(shape)
        body[3:4] = trunk
        values |= weights
    model = onnx.model(onnx.graph(body, values, inputs(recipe), outputs(recipe)))
    golden = random_images(recipe, 1, seed=2)
    session = create_session(model, device="cpu", threads=1)
    label, accepted, confidence = session.run(["labels", "accepted", "confidence"], {"images": golden})
    known = {
        "image": base64.b64encode(golden.tobytes()).decode(),
        "label": int(label[0]),
        "accepted": bool(accepted[0]),
        "confidence": float(confidence[0]),
    }
    path.write_bytes(stamp(model, document(replace(recipe, document={"golden": known}), graph_digest(model))))


def _oracle(shape: tuple[int, int, int]) -> tuple[list[bytes], dict[str, np.ndarray]]:
    """Return nodes from `pixels` to `flat`, and their weights with those of the heads."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    body, weights, last = [], {}, "pixels"
    for block, filters in enumerate((32, 64, 128)):
        for layer in range(2):
            name = f"c{block}{layer}"
            weights[name] = rng.normal(0, (2 / 9 / channels) ** 0.5, (filters, channels, 3, 3)).astype(np.float32)
            body.append(onnx.node("Conv", f"{last} {name}", f"{name}_sum", pads=[1, 1, 1, 1]))
            body.append(onnx.node("Relu", f"{name}_sum", f"{name}_out"))
            last, channels = f"{name}_out", filters
        body.append(onnx.node("MaxPool", last, f"p{block}", kernel_shape=[2, 2], strides=[2, 2]))
        last, height, width = f"p{block}", height // 2, width // 2
    size = channels * height * width
    weights["full"] = rng.normal(0, (2 / size) ** 0.5, (size, 512)).astype(np.float32)
    weights["zeros"] = np.zeros(512, np.float32)
    body.append(onnx.node("Flatten", last, "features", axis=1))
    body.append(onnx.node("Gemm", "features full zeros", "full_sum"))
    body.append(onnx.node("Relu", "full_sum", "flat"))
    weights |= {name: rng.normal(0, 0.1, (512, 10)).astype(np.float32) for name in ("w", "v")}
    return body, weights
