"""Sizes that a graph computes while it runs, though the model fixes them: written down as constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.graphs.tape import attributes_of
from calibration.graphs.type_inference import numbers_from_shapes
from calibration.graphs.types import TensorType

_BATCHES = (1, 2, 3, 61, 4096)
"""Batch sizes of which none may change a number that is taken for fixed."""


def local_shapes(
    nodes: Sequence[NodeProto], wrt: str, types: Mapping[str, TensorType], constants: dict[str, TensorProto]
) -> Iterator[NodeProto]:
    """Write fixed sizes down as constants; take the batch size from `wrt` where a node takes it from before the cut."""
    after = _descendants(nodes, wrt)
    batch = (types[wrt].dims or (None,))[0]
    for node in nodes:
        dims = types[node.input[0]].dims if node.op_type == "Shape" and node.input[0] in types else None
        if dims is None:
            yield node
            continue
        attributes = attributes_of(node)
        sizes = dims[attributes.get("start", 0) : attributes.get("end")]
        if all(isinstance(size, int) for size in sizes):
            constants[node.output[0]] = numpy_helper.from_array(np.array(sizes, dtype=np.int64), node.output[0])
            continue
        movable = batch is not None and dims[0] == batch and None not in dims
        if node.input[0] in after or not movable:
            yield node
            continue
        parts = []
        for axis, size in enumerate(sizes):
            part = f"{node.output[0]}/axis_{axis}"
            parts.append(part)
            if size == batch:
                yield helper.make_node("Shape", [wrt], [part], name=part, start=0, end=1)
            else:
                constants[part] = numpy_helper.from_array(np.array([size], dtype=np.int64), part)
        yield helper.make_node("Concat", parts, [node.output[0]], name=node.output[0], axis=0)


def _descendants(nodes: Iterable[NodeProto], source: str) -> set[str]:
    reached = {source}
    for node in nodes:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
    return reached


def fixed_numbers(
    nodes: Sequence[NodeProto], constants: Mapping[str, TensorProto], types: Mapping[str, TensorType]
) -> dict[str, TensorProto]:
    """Return what is computed from shapes and constants alone, and is the same for every batch size."""
    first, *others = (numbers_from_shapes(nodes, constants, types, batch) for batch in _BATCHES)
    fixed = {
        name
        for name, value in first.items()
        if all(name in other and np.array_equal(value, other[name]) for other in others)
    }
    whole = [node for node in nodes if fixed.issuperset(filter(None, node.output))]
    return {name: numpy_helper.from_array(first[name], name) for node in whole for name in node.output if name}
