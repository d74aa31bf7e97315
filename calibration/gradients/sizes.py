"""Sizes that a graph computes while it runs, though the model fixes them: written down as constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.graphs.operators import RANDOM
from calibration.graphs.reading import computed, has_subgraph
from calibration.graphs.tape import Array, attributes_of
from calibration.graphs.types import BATCH, TensorType

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
    """Return what is computed from shapes and constants alone, and is the same for every batch size.

    Raises:
        ModelError: A node of that kind cannot be computed.
    """
    first, *others = (_computed_from_shapes(nodes, constants, types, batch) for batch in _BATCHES)
    fixed = {
        name
        for name, value in first.items()
        if all(name in other and np.array_equal(value, other[name]) for other in others)
    }
    whole = [node for node in nodes if fixed.issuperset(node.output)]
    return {name: numpy_helper.from_array(first[name], name) for node in whole for name in node.output}


def _computed_from_shapes(
    nodes: Sequence[NodeProto], constants: Mapping[str, TensorProto], types: Mapping[str, TensorType], batch: int
) -> dict[str, Array]:
    """Return the value of every tensor that depends on shapes and constants alone, at one batch size."""
    found: dict[str, Array] = {}
    for node in nodes:
        read = [name for name in node.input if name]
        if node.op_type == "Shape":
            dims = types[read[0]].dims if read[0] in types else None
            if dims is not None and all(size == BATCH or isinstance(size, int) for size in dims):
                attributes = attributes_of(node)
                sizes = [batch if size == BATCH else size for size in dims]
                found[node.output[0]] = np.array(sizes[attributes.get("start", 0) : attributes.get("end")], np.int64)
        elif (
            not found.keys().isdisjoint(read)
            and all(name in found or name in constants for name in read)
            and node.op_type not in RANDOM
            and not has_subgraph(node)
        ):
            values = {name: found[name] if name in found else numpy_helper.to_array(constants[name]) for name in read}
            found.update(computed(node, values))
    return found
