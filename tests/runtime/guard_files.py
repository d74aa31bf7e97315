"""Tiny real guard files: seeded weights, the rule as nodes, honest metadata, and the same decision in plain numpy."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from runtime.artifact import canonical_json, digest, graph_digest
from tests.runtime import onnx_bytes as onnx

HASH = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to build; every part can be replaced to build a bad file."""

    rule: str = "pair"
    height: int = 6
    width: int = 5
    channels: int = 1
    classes: tuple[str, ...] = ("cat", "dog", "eel", "fox")
    classmap: tuple[int, ...] = (1, 0, 3, 2)
    threshold: float = 0.0
    calibrated: bool = False
    resize: str = "bilinear"
    max_pixels: int = 10_000
    seed: int = 0
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


def weights(recipe: Recipe) -> dict[str, np.ndarray]:
    """Two linear heads; the second mostly follows the Classmap, so that some images match it and some do not."""
    rng = np.random.default_rng(recipe.seed)
    size = int(np.prod(recipe.shape))
    first = rng.normal(0, 2, (size, recipe.k)).astype(np.float32)
    second = np.zeros_like(first)
    second[:, list(recipe.classmap)] = first
    second += rng.normal(0, 0.7, second.shape).astype(np.float32)
    return {"w": first, "b": np.zeros(recipe.k, np.float32), "v": second, **recipe.weights}


def decide(recipe: Recipe, images: np.ndarray) -> dict[str, np.ndarray]:
    """The contract's rule, row by row, without any graph: an oracle for the runtime."""
    values = weights(recipe)
    pixels = (images.astype(np.float32) / 255).transpose(0, 3, 1, 2).reshape(len(images), -1)
    logits, robust = pixels @ values["w"] + values["b"], pixels @ values["v"]
    labels, accepted, confidence = [], [], []
    for z, z_robust in zip(logits, robust, strict=True):
        y = int(z.argmax())
        sure = softmax(z)[y]
        keep = True
        if recipe.rule == "pair":
            sure *= softmax(z_robust)[recipe.classmap[y]]
            keep = int(z_robust.argmax()) == recipe.classmap[y]
        labels.append(y)
        confidence.append(sure)
        accepted.append(keep and sure >= np.float32(recipe.threshold))
    return {
        "labels": np.array(labels),
        "accepted": np.array(accepted),
        "confidence": np.array(confidence),
        "logits": logits,
        "robust_logits": robust,
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def random_images(recipe: Recipe, n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *recipe.shape), np.uint8)


def nodes(recipe: Recipe) -> list[bytes]:
    body = [
        onnx.node("Transpose", "images", "planes", perm=[0, 3, 1, 2]),
        onnx.node("Cast", "planes", "floats", to=onnx.FLOAT),
        onnx.node("Div", "floats white", "pixels"),
        onnx.node("Flatten", "pixels", "flat", axis=1),
        onnx.node("Gemm", "flat w b", "logits"),
        onnx.node("ArgMax", "logits", "y", axis=1, keepdims=0),
        onnx.node("Softmax", "logits", "softmax", axis=1),
        onnx.node("ReduceMax", "softmax one", "sure", keepdims=0),
    ]
    if recipe.rule == "pair":
        body += [
            onnx.node("MatMul", "flat v", "robust_logits"),
            onnx.node("Concat", "logits robust_logits", "heads", axis=1),
            onnx.node("Gather", "classmap y", "partner", axis=0),
            onnx.node("ArgMax", "robust_logits", "robust_y", axis=1, keepdims=0),
            onnx.node("Equal", "partner robust_y", "matched"),
            onnx.node("Softmax", "robust_logits", "robust_softmax", axis=1),
            onnx.node("Unsqueeze", "partner one", "partner_column"),
            onnx.node("GatherElements", "robust_softmax partner_column", "robust_column", axis=1),
            onnx.node("Squeeze", "robust_column one", "robust_sure"),
            onnx.node("Mul", "sure robust_sure", "raw_confidence"),
        ]
    else:
        body += [
            onnx.node("Identity", "logits", "heads"),
            onnx.node("Identity", "sure", "raw_confidence"),
            onnx.node("Equal", "y y", "matched"),
        ]
    return [
        *body,
        onnx.node("Sub", "heads heads", "zero_or_nan"),
        onnx.node("ReduceSum", "zero_or_nan one", "zero_or_nan_row", keepdims=0),
        onnx.node("Equal", "zero_or_nan_row zero", "finite"),
        onnx.node("Where", "finite raw_confidence zero", "confidence"),
        onnx.node("GreaterOrEqual", "confidence threshold", "sure_enough"),
        onnx.node("And", "matched sure_enough", "kept"),
        onnx.node("And", "kept finite", "accepted"),
        onnx.node("Where", "finite y minus_one", "label"),
        onnx.node("Cast", "label", "labels", to=onnx.INT32),
    ]


def initializers(recipe: Recipe) -> dict[str, np.ndarray]:
    values = weights(recipe)
    if recipe.rule == "pair":
        values["classmap"] = np.array(recipe.classmap, np.int64)
    else:
        del values["v"]
    return values | {
        "white": np.float32(255) * np.ones((), np.float32),
        "zero": np.zeros((), np.float32),
        "one": np.ones(1, np.int64),
        "minus_one": np.full((), -1, np.int64),
        "threshold": np.array(recipe.threshold, np.float32),
    }


def inputs(recipe: Recipe) -> list[bytes]:
    return [onnx.value_info("images", onnx.UINT8, ["N", *recipe.shape])]


def outputs(recipe: Recipe) -> list[bytes]:
    heads = ["logits", "robust_logits"] if recipe.rule == "pair" else ["logits"]
    return [
        onnx.value_info("labels", onnx.INT32, ["N"]),
        onnx.value_info("accepted", onnx.BOOL, ["N"]),
        onnx.value_info("confidence", onnx.FLOAT, ["N"]),
        *(onnx.value_info(head, onnx.FLOAT, ["N", recipe.k]) for head in heads),
    ]


def unstamped(recipe: Recipe) -> bytes:
    return onnx.model(onnx.graph(nodes(recipe), initializers(recipe), inputs(recipe), outputs(recipe)))


def document(recipe: Recipe, graph: str) -> dict[str, Any]:
    """Honest metadata without `digest`, overridden by `recipe.document`."""
    clean = replace(recipe, weights={})
    image = random_images(recipe, 64, seed=2)
    verdicts = decide(clean, image)
    best = int(np.argmax(verdicts["confidence"] * verdicts["accepted"]))
    calibration = {
        "data": HASH,
        "images": 100,
        "acceptance": 0.99,
        "per_class": False,
        "reached": 0.991,
        "interval": [0.98, 0.997],
        "precision": "fp32",
        "graph": graph,
    }
    return {
        "schema": 1,
        "rule": recipe.rule,
        "classes": list(recipe.classes),
        "classmap": list(recipe.classmap) if recipe.rule == "pair" else None,
        "threshold": recipe.threshold,
        "calibration": calibration if recipe.calibrated else None,
        "input": {
            "height": recipe.height,
            "width": recipe.width,
            "channels": recipe.channels,
            "resize": recipe.resize,
            "max_pixels": recipe.max_pixels,
        },
        "precision": "fp32",
        "recipe": {"alpha": 0.4},
        "training": {"data": HASH, "images": 10},
        "producer": {"name": "cmt tests", "version": "0"},
        "golden": {
            "image": base64.b64encode(image[best].tobytes()).decode(),
            "label": int(verdicts["labels"][best]),
            "accepted": bool(verdicts["accepted"][best]),
            "confidence": float(verdicts["confidence"][best]),
        },
    } | recipe.document


def stamp(model: bytes, document_: dict[str, Any]) -> bytes:
    """Append metadata whose digest is right, whatever the document says."""
    signed = document_ | {"digest": digest(model, document_)}
    return model + onnx.field(14, onnx.entry("cmt.guard", canonical_json(signed)))


def build(recipe: Recipe = Recipe()) -> bytes:
    model = unstamped(recipe)
    return stamp(model, document(recipe, graph_digest(model)))


def restamp(model: bytes, document_: dict[str, Any] | None = None) -> bytes:
    """Replace the metadata at the end of a file that `build` made, with a digest that is right again."""
    at = model.rindex(b"cmt.guard") - 2
    bare = model[: at - len(onnx.varint(len(model) - at)) - 1]
    return stamp(bare, read_document(model) if document_ is None else document_)


def read_document(model: bytes) -> dict[str, Any]:
    text = model[model.rindex(b"cmt.guard") :].split(b"{", 1)[1]
    found = json.loads(b"{" + text)
    found.pop("digest")
    return found
