"""Whether what attacks take for logits are logits, and those of the file."""

from __future__ import annotations

import numpy as np
import onnx

from calibration.attacks.attack import FloatArray
from calibration.gradients import GradientGraph
from calibration.judge import cut_at_pixels
from calibration.results.records import LogitsCheck
from runtime.errors import ModelError
from runtime.session import create_session

_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"})
_ROUNDING = 1e-3
_REWRITTEN = 1e-3
_QUANTISED = 0.1
"""How far logits may be from those of the file, of the largest one; a quantised value may fall to the other side."""


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


def require_logits_of_file(file: str, model: bytes, graph: GradientGraph, pixels: FloatArray) -> None:
    """Compare the logits of a gradient graph, which rewrites nodes, with those of the file as it is.

    Args:
        file: What messages call the file.
        model: Its bytes.
        graph: The same file, started, differentiated with respect to ``pixels``.
        pixels: Images to try it on, ``(n, C, H, W)`` float32 in [0, 1].

    Raises:
        ModelError: They differ by more than rounding: an attack would be told of another network.
    """
    session = create_session(cut_at_pixels(model, graph.of), device="cpu", threads=1)
    expected = dict(zip(graph.of, session.run(list(graph.of), {"pixels": pixels}), strict=True))
    share = _QUANTISED if graph.straight_through else _REWRITTEN
    for name, found in graph.logits(pixels).items():
        limit = share * max(1.0, float(np.abs(np.nan_to_num(expected[name])).max()))
        if not np.allclose(found, expected[name], rtol=0, atol=limit, equal_nan=True):
            raise ModelError(
                f"{file}: expected the gradient graph to give {name} as the file does, got up to "
                f"{np.nanmax(np.abs(found - expected[name])):.3g} away; this is a mistake of ours, report it"
            )


def _are_shares(rows: FloatArray) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=_ROUNDING))
