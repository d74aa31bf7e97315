"""Cost of a gradient in forward passes, on the oracle of Table 1 with random weights or on a file.

Each repetition times every call once, in turn, so that a busy machine slows all of them alike; the ratio of the medians
counts. The forward pass is the same network in the same ONNX Runtime with the same options, without any reverse node.

    python benchmarks/gradients.py --batch 64 --threads 2 --json gradients.json

The aim is 2.2 forward passes; one thread of a busy machine takes 2.4 at batch 8 and 2.6 at batch 64. By ONNX Runtime's
profile, of the quietest of 300 runs each (batch 8, 64):

    1.0   1.0   the forward nodes
    0.95  1.1   reverse convolutions and Gemm: the arithmetic of forward; at 64 their inputs have left the cache
    0.3   0.3   which pixel of a max-pooling window gets the gradient: a mask, then its product with the gradient
    0.15  0.15  ReLU: a mask and a product for each

The last two read and write whole activations and compute next to nothing; ONNX Runtime has no operator that does either
in one pass. MaxPool's own second output takes 0.45 instead of 0.3, a dense index built from strided slices 0.3 too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calibration.gradients import GradientGraph
from calibration.objectives import CROSS_ENTROPY

CLASSES = 10
AIM = 2.2


def main() -> None:
    """Measure, print one line a call, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images per call")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--repeats", type=int, default=20, help="timings of each call")
    parser.add_argument("--image", choices=("mnist", "cifar10"), default="mnist", help="28x28 grey or 32x32 colour")
    parser.add_argument("--model", type=Path, metavar="FILE", help="measure this file instead, through `logits`")
    parser.add_argument("--jacobian", action="store_true", help="time all rows of the Jacobian too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers")
    arguments = parser.parse_args()
    channels, size = (1, 28) if arguments.image == "mnist" else (3, 32)
    model = arguments.model or oracle(channels, size)
    graph = GradientGraph(model, of=["logits"], threads=arguments.threads, device="cpu")
    seconds = measure(calls(graph, arguments.batch, arguments.jacobian), arguments.repeats)
    forward = statistics.median(seconds["forward"])
    rows = {
        name: {"milliseconds": 1000 * statistics.median(times), "forward_passes": statistics.median(times) / forward}
        for name, times in seconds.items()
    }
    for name, row in rows.items():
        print(f"{name:20} {row['milliseconds']:9.2f} ms {row['forward_passes']:7.2f} forward passes")
    if arguments.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "processor": platform.processor()}
        document = {"settings": settings, "versions": versions, "aim": AIM, "calls": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def oracle(channels: int, size: int) -> ModelProto:
    """The oracle network of Table 1 at inference, where dropout does nothing."""
    rng = np.random.default_rng(0)
    nodes, initializers, value = [], [], "pixels"

    def weights(*shape: int) -> str:
        name = f"weights_{len(initializers)}"
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        initializers.append(numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name))
        return name

    def append(op_type: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = output or f"{op_type}_{len(nodes)}"
        nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    for width in (32, 64, 128):
        for _ in range(2):
            value = append("Conv", value, weights(width, channels, 3, 3), weights(width), pads=[1, 1, 1, 1])
            value, channels = append("Relu", value), width
        value, size = append("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2]), size // 2
    value = append("Flatten", value)
    value = append("Relu", append("Gemm", value, weights(512, channels * size**2), weights(512), transB=1))
    append("Gemm", value, weights(CLASSES, 512), weights(CLASSES), transB=1, output="logits")
    first = initializers[0].dims[1]
    side = {1: 28, 3: 32}[first]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", first, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
    network = helper.make_graph(nodes, "oracle", [pixels], [logits], initializer=initializers)
    return helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def calls(graph: GradientGraph, batch: int, jacobian: bool) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    x = np.random.default_rng(1).random((batch, *graph.shape), dtype=np.float32)
    classes = graph.classes["logits"]
    labels = np.arange(batch) % classes
    rows = {"logits": np.eye(classes, dtype=np.float32)[labels]}
    timed: dict[str, Callable[[], object]] = {
        "forward": lambda: graph.logits(x),
        "vjp": lambda: graph.vjp(x, rows),
        "value_and_gradient": lambda: graph.value_and_gradient(CROSS_ENTROPY, x, labels=labels),
    }
    return timed | ({"jacobian": lambda: graph.jacobian(x)} if jacobian else {})


def measure(timed: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, interleaved, after one call each that does not count."""
    for call in timed.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
