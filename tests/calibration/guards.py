"""Small real guard files that classify small real images: nearest template, written with onnx alone."""

import base64

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.datasets import make_dataset
from calibration.rules import assemble
from calibration.stamping import stamp
from runtime.session import create_session

CLASSES = ("cat", "dog", "eel", "fox")
CLASSMAP = (1, 0, 3, 2)
SHAPE = (6, 5, 1)
K = len(CLASSES)


def templates():
    return np.random.default_rng(0).random((K, 30), dtype=np.float32)


def dataset(n_test=240, noise=0.4, name="templates"):
    """Images of four templates under noise; all but a few are nearest to their own."""
    rng = np.random.default_rng(1)

    def split(n):
        labels = np.arange(n) % K
        pixels = np.clip(templates()[labels] + rng.normal(0, noise, (n, 30)), 0, 1)
        return np.rint(pixels * 255).astype(np.uint8).reshape(n, *SHAPE), labels

    return make_dataset(name, CLASSES, split(24), split(n_test))


def network(*, pair=True, unlocked=False, sharpness=4.0, doubt=0.4, ripple=0.0, opset=18):
    """``pixels`` to ``logits`` by distance to the templates; ``robust_logits`` follow the Classmap with some doubt.

    A ripple of that height on every pixel turns its gradient every thousandth of the way.
    """
    weights = sharpness * templates().T
    bias = -sharpness * (templates() ** 2).sum(axis=1) / 2
    robust = np.zeros_like(weights)
    robust_bias = np.zeros_like(bias)
    robust[:, list(CLASSMAP)] = weights
    robust_bias[list(CLASSMAP)] = bias
    robust += doubt * np.random.default_rng(2).standard_normal(robust.shape, dtype=np.float32)
    constants = {"w": weights, "b": bias, "v": robust, "c": robust_bias}
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    outputs = ["logits"]
    if pair:
        nodes.append(helper.make_node("Gemm", ["flat", "v", "c"], ["robust_logits"]))
        outputs.append("robust_logits")
    if unlocked:
        nodes.append(helper.make_node("Neg", ["logits"], ["unlocked_logits"]))
        outputs.append("unlocked_logits")
    if ripple:
        constants |= {"often": np.float32(5000), "ripple": np.float32(ripple)}
        nodes[:1] = [
            helper.make_node("Mul", ["pixels", "often"], ["fast"]),
            helper.make_node("Sin", ["fast"], ["wave"]),
            helper.make_node("Mul", ["wave", "ripple"], ["rippled"]),
            helper.make_node("Add", ["pixels", "rippled"], ["masked"]),
            helper.make_node("Flatten", ["masked"], ["flat"], axis=1),
        ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "templates",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, 6, 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", K]) for name in outputs],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def assembled(*, pair=True, threshold=0.0, **options):
    return assemble(
        network(pair=pair, **options),
        rule="pair" if pair else "confidence",
        classmap=CLASSMAP if pair else None,
        threshold=threshold,
        input_shape=SHAPE,
    )


def document(model, *, classes=CLASSES, recipe=None):
    """Honest metadata of an assembled model, without digest."""
    pair = any(tensor.name == "classmap" for tensor in model.graph.initializer)
    images = dataset().train.images[:1]
    session = create_session(model.SerializeToString(), device="cpu", threads=1)
    label, accepted, confidence = session.run(["labels", "accepted", "confidence"], {"images": images})
    return {
        "schema": 1,
        "rule": "pair" if pair else "confidence",
        "classes": list(classes),
        "classmap": list(CLASSMAP) if pair else None,
        "threshold": 0.0,
        "calibration": None,
        "input": {"height": 6, "width": 5, "channels": 1, "resize": "bilinear", "max_pixels": 10_000},
        "precision": "fp32",
        "recipe": recipe if recipe is not None else {"lock": "none"},
        "training": {"data": "0" * 64, "images": 24},
        "producer": {"name": "cmt tests", "version": "0"},
        "golden": {
            "image": base64.b64encode(images.tobytes()).decode(),
            "label": int(label[0]),
            "accepted": bool(accepted[0]),
            "confidence": float(confidence[0]),
        },
    }


def guard_file(*, pair=True, classes=CLASSES, recipe=None, **options):
    """The bytes of a guard; `options` are those of `network`."""
    model = assembled(pair=pair, **options)
    return stamp(model, document(model, classes=classes, recipe=recipe))


def edited(model, change):
    """The bytes of a model after `change` was applied to its ModelProto."""
    proto = onnx.load_model_from_string(model)
    change(proto)
    return proto.SerializeToString()
