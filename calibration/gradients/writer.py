"""Nodes that stand for another one: written one after the other, with names nothing else has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Writer:
    """The nodes that take the place of one, in topological order.

    Attributes:
        node: The one they stand for.
        written: Those that were written so far.
    """

    def __init__(self, node: NodeProto, constants: dict[str, TensorProto]) -> None:
        """Begin; what the nodes need is added to `constants`."""
        self.node, self.written = node, list[NodeProto]()
        self._constants = constants
        self._count = 0

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append one node with one output and return that output's name."""
        name = self._fresh()
        self.written.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, tensor: str, sizes: Sequence[int], *, axis: int) -> list[str]:
        """Append a Split and return the names of its parts."""
        names = [self._fresh() for _ in sizes]
        node = helper.make_node("Split", [tensor, self.ints(*sizes)], names, name=names[0], axis=axis)
        self.written.append(node)
        return names

    def stack(self, tensors: Sequence[str]) -> str:
        """Append what joins tensors of one shape along a new first axis."""
        parts = [self.op("Unsqueeze", one, self.ints(0)) for one in tensors]
        return self.op("Concat", *parts, axis=0)

    def constant(self, value: npt.ArrayLike) -> str:
        """Add a constant of the type it has and return its name."""
        name = self._fresh()
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        return name

    def ints(self, *values: int) -> str:
        """Add an int64 vector, as axes and shapes are given."""
        return self.constant(np.array(values, np.int64))

    def result(self, index: int, made: str) -> None:
        """Give a tensor the name of an output of the node, where it has that output."""
        name = self.node.output[index] if index < len(self.node.output) else ""
        if name:
            self.written.append(helper.make_node("Identity", [made], [name], name=name))

    def _fresh(self) -> str:
        self._count += 1
        return f"{next(filter(None, self.node.output))}/part_{self._count}"
