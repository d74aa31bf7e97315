"""Small real guards of any image size: a convolution of random filters, fitted heads, with and without a lock."""

import numpy as np
import onnx
from onnx import numpy_helper

from calibration.datasets import make_dataset
from calibration.golden import choose_golden
from calibration.pixels import to_pixels
from calibration.rules import assemble
from calibration.stamping import stamp
from runtime.session import create_session
from runtime.verdicts import Verdicts

CLASSES = ("ant", "bee", "cod", "doe")
CLASSMAP = (2, 3, 1, 0)
K = len(CLASSES)
FILTERS = 16

TRUNK = """
  c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pixels, kernel, bias)
  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
  r = Relu (p)
  features = Flatten (r)
"""
SINGLE = "logits = Gemm <transB = 1> (features, head, head_bias)"
PAIR = f"""
  robust_logits = Gemm <transB = 1> (features, robust_head, robust_bias)
  {SINGLE}
"""
LOCKED = """
  robust_logits = Gemm <transB = 1> (features, robust_head, robust_bias)
  unlocked_logits = Gemm <transB = 1> (features, head, head_bias)
  hidden = Gemm <transB = 1> (robust_logits, lock, lock_bias)
  opened = Relu (hidden)
  key = Gemm <transB = 1> (opened, unlock, unlock_bias)
  logits = Mul (unlocked_logits, key)
"""
HEADS = {"single": SINGLE, "pair": PAIR, "locked": LOCKED}


def dataset(shape=(8, 8, 1), n_train=160, n_test=400, noise=0.25):
    rng = np.random.default_rng(3)
    patterns = rng.random((K, *shape))

    def split(n):
        labels = np.arange(n) % K
        pixels = np.clip(patterns[labels] + rng.normal(0, noise, (n, *shape)), 0, 1)
        return np.rint(pixels * 255).astype(np.uint8), labels

    return make_dataset("patterns", CLASSES, split(n_train), split(n_test))


def _fit(features, targets):
    """Ridge regression of log-odds: weights ``(K, D)`` and bias ``(K,)``."""
    centre = features.mean(axis=0)
    x = features - centre
    wanted = 12.0 * (np.eye(K)[targets] - 1 / K)
    weights = np.linalg.solve(x.T @ x + 5.0 * np.eye(x.shape[1]), x.T @ wanted).T
    return weights.astype(np.float32), (wanted.mean(axis=0) - weights @ centre).astype(np.float32)


def network(kind="locked", shape=(8, 8, 1), *, opset=20):
    height, width, channels = shape
    outputs = {"single": "", "pair": ", float[N,K] robust_logits"}
    outputs["locked"] = outputs["pair"] + ", float[N,K] unlocked_logits"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        network (float[N,{channels},{height},{width}] pixels) => (float[N,K] logits{outputs[kind]}) {{
          {TRUNK} {HEADS[kind]} }}"""
    )
    rng = np.random.default_rng(5)
    weights = {
        "kernel": rng.normal(0, 0.5, (FILTERS, channels, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.1, FILTERS).astype(np.float32),
    }
    data = dataset(shape).train
    features = _features(weights, data.images)
    weights["head"], weights["head_bias"] = _fit(features, data.labels)
    weights["robust_head"], weights["robust_bias"] = _fit(features, np.array(CLASSMAP)[data.labels])
    weights["lock"], weights["lock_bias"] = np.eye(K, dtype=np.float32) * 0.05, np.full(K, 0.5, np.float32)
    weights["unlock"], weights["unlock_bias"] = np.eye(K, dtype=np.float32) * 0.2, np.ones(K, np.float32)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in weights.items() if name in used
    )
    return model


def _features(weights, images):
    height, width = images.shape[1:3]
    trunk = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        trunk (float[N,{images.shape[3]},{height},{width}] pixels) => (float[N,D] features) {{ {TRUNK} }}"""
    )
    trunk.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in ("kernel", "bias"))
    session = create_session(trunk.SerializeToString(), device="cpu", threads=1)
    return session.run(["features"], {"pixels": to_pixels(images)})[0].astype(np.float64)


def guard_file(kind="locked", shape=(8, 8, 1), *, opset=20):
    """The bytes of a guard that labels nearly all images of `dataset` right."""
    pair = kind != "single"
    model = assemble(
        network(kind, shape, opset=opset),
        rule="pair" if pair else "confidence",
        classmap=CLASSMAP if pair else None,
        threshold=0.0,
        input_shape=shape,
    )
    height, width, channels = shape
    images = dataset(shape).train.images[:40]
    session = create_session(model.SerializeToString(), device="cpu", threads=1)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"images": images}), strict=True))
    verdicts = Verdicts(**outputs, classes=CLASSES)
    return stamp(
        model,
        {
            "schema": 1,
            "rule": "pair" if pair else "confidence",
            "classes": list(CLASSES),
            "classmap": list(CLASSMAP) if pair else None,
            "threshold": 0.0,
            "calibration": None,
            "input": {"height": height, "width": width, "channels": channels, "resize": "none", "max_pixels": 10_000},
            "precision": "fp32",
            "recipe": {"lock": "trained" if kind == "locked" else "none"},
            "training": {"data": "0" * 64},
            "producer": {"name": "cmt tests", "version": "0"},
            "golden": choose_golden(images, verdicts, threshold=0.0).to_document(),
        },
    )
