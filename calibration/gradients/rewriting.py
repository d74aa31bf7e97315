"""Nodes written differently for the same values: what differentiates to less, and what ONNX Runtime gets wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.graphs.types import TensorType


def pooled_before_relu(nodes: Sequence[NodeProto], of: Sequence[str]) -> list[NodeProto]:
    """Move a ReLU behind the max-pooling that alone reads it: the values are the same, the reverse mask is smaller.

    The gradient is the same too: where a window's maximum is positive both take it, elsewhere both are zero.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    moved = {}
    for node in nodes:
        followers = readers.get(node.output[0], [])
        alone = len(followers) == 1 and followers[0].op_type == "MaxPool" and len(followers[0].output) == 1
        if node.op_type == "Relu" and node.output[0] not in of and alone:
            moved[node.output[0]] = node
    ordered = []
    for node in nodes:
        if node.op_type == "MaxPool" and node.input[0] in moved:
            relu, pool, pooled = moved[node.input[0]], NodeProto(), f"{node.output[0]}/before_relu"
            pool.CopyFrom(node)
            pool.input[0], pool.output[0] = relu.input[0], pooled
            ordered += [pool, helper.make_node("Relu", [pooled], list(node.output), name=relu.name)]
        elif node.output[0] not in moved:
            ordered.append(node)
    return ordered


def padded_on_all_axes(
    nodes: Sequence[NodeProto], constants: dict[str, TensorProto], types: Mapping[str, TensorType]
) -> Iterator[NodeProto]:
    """Give every Pad of some axes the widths of all, and add those to `constants`.

    ONNX Runtime moves a Transpose over a Pad as if the widths were those of all axes, and then fails when it runs.
    """
    for node in nodes:
        names = [*node.input, "", "", ""][1:4]
        dims = types[node.input[0]].dims if node.op_type == "Pad" and node.input[0] in types else None
        if dims is None or names[0] not in constants or names[2] not in constants:
            yield node
            continue
        widths = numpy_helper.to_array(constants[names[0]]).reshape(2, -1)
        every = np.zeros((2, len(dims)), np.int64)
        every[:, numpy_helper.to_array(constants[names[2]]).astype(int)] = widths
        whole = NodeProto()
        whole.CopyFrom(node)
        name = f"{node.output[0]}/pads"
        constants[name] = numpy_helper.from_array(every.reshape(-1), name)
        del whole.input[:]
        whole.input.extend([node.input[0], name, names[1]][: 3 if names[1] else 2])
        yield whole
