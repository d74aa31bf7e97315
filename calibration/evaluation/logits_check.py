"""Whether what attacks take for logits are logits."""

from __future__ import annotations

import numpy as np
import onnx

from calibration.attacks.attack import FloatArray
from calibration.gradients import GradientGraph
from calibration.results.records import LogitsCheck

_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"})
_ROUNDING = 1e-3


def check_logits(file: str, model: bytes, graph: GradientGraph, pixels: FloatArray) -> tuple[LogitsCheck, ...]:
    """Look at each logits tensor of a graph: what it comes from, and whether its rows are probabilities.

    Args:
        file: What messages call the file.
        model: Its bytes.
        graph: The same file, started.
        pixels: Images to try it on, ``(n, C, H, W)`` float32 in [0, 1].
    """
    operators = {name: node.op_type for node in onnx.load_model_from_string(model).graph.node for name in node.output}
    return tuple(
        LogitsCheck(
            file=file,
            tensor=name,
            operator=operators.get(name, "input"),
            probabilities=operators.get(name) in _SQUASHING or _are_shares(values),
        )
        for name, values in graph.logits(pixels).items()
    )


def _are_shares(rows: FloatArray) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=_ROUNDING))
