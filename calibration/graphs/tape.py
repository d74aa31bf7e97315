"""The tape: the nodes of one gradient graph while it is written, and what is known of its tensors.

A tape starts as a copy of the forward nodes. Objectives append to them, and the reverse rules append the nodes that
carry cotangents. The two are kept apart: a node that no cotangent reaches (a ReLU mask, a precomputed kernel) is
computed once, also when the reverse nodes run many times, as they do for a Jacobian.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.graphs.operators import FLAT
from calibration.graphs.types import TensorType
from runtime.errors import ModelError

Array = npt.NDArray[Any]

FLOATS = frozenset([TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
"""The element types of numbers a gradient flows through."""


class Tape:
    """Forward and reverse nodes of one graph, its constants, extra inputs and tensor types."""

    def __init__(
        self,
        nodes: Iterable[NodeProto],
        *,
        constants: Mapping[str, TensorProto],
        types: Mapping[str, TensorType],
        active: Iterable[str],
        wrt: str,
        straight: Collection[str] = (),
    ) -> None:
        """Copy the forward `nodes`.

        Args:
            nodes: In topological order.
            constants: Every initializer by name.
            types: What is known of each tensor.
            active: The tensors that depend on `wrt`.
            wrt: The tensor being differentiated with respect to.
            straight: Outputs of flat nodes that a gradient passes all the same.
        """
        self.wrt = wrt
        self._straight = straight
        self.batch = (types[wrt].dims or (None,))[0]
        self.forward = [_copy(node) for node in nodes]
        self.reverse: list[NodeProto] = []
        self.constants = dict(constants)
        self.types = dict(types)
        self.active = set(active)
        self.inputs: dict[str, TensorType] = {}
        self._carriers: set[str] = set()
        self._shapes: dict[str, str] = {}
        self._count_of_images = ""
        self._count = 0

    def is_flat(self, node: NodeProto) -> bool:
        """Return whether no gradient passes a node, for it is zero wherever it exists."""
        return node.op_type in FLAT and node.output[0] not in self._straight

    def input(self, name: str, *dims: int | str | None) -> str:
        """Declare a float32 input of the graph, such as one-hot labels; a name declared twice is one input."""
        self.inputs[name] = self.types[name] = TensorType(element=TensorProto.FLOAT, dims=dims)
        return name

    def cotangent(self, name: str) -> str:
        """Declare `name` as a tensor whose dependants belong to the reverse nodes."""
        self._carriers.add(name)
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append one node with one output and return that output's name."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append one node with several outputs and return their names."""
        names = [self._fresh(op_type) for _ in range(outputs)]
        node = helper.make_node(op_type, list(inputs), names, name=names[0], **attributes)
        if self._carriers.isdisjoint(inputs):
            self.forward.append(node)
            if op_type not in FLAT and not self.active.isdisjoint(inputs):
                self.active.update(names)
        else:
            self.reverse.append(node)
            self._carriers.update(names)
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an initializer and return its name."""
        name = self._fresh("constant")
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype)).reshape(np.shape(value))
        self.constants[name] = numpy_helper.from_array(array, name)
        self.types[name] = TensorType(element=self.constants[name].data_type, dims=tuple(array.shape))
        return name

    def ints(self, *values: int) -> str:
        """Add an int64 vector, as axes and shapes are given."""
        return self.constant(list(values), np.int64)

    def shape(self, name: str) -> str:
        """Return the name of the int64 shape of `name`, computed once.

        Where only the batch size is unknown it is taken from `wrt`: ONNX Runtime rearranges a tensor for Shape, if it
        holds it in a blocked layout.
        """
        if name not in self._shapes:
            dims = self.types[name].dims if name in self.types else None
            sizes = [size for size in dims or () if isinstance(size, int)]
            if dims is not None and len(sizes) == len(dims):
                self._shapes[name] = self.ints(*sizes)
            elif (
                dims is not None and isinstance(dims[0], str) and dims[0] == self.batch and len(sizes) == len(dims) - 1
            ):
                self._shapes[name] = self.per_image(*sizes)
            else:
                self._shapes[name] = self.op("Shape", name)
        return self._shapes[name]

    def per_image(self, *sizes: int) -> str:
        """Append the int64 shape ``(N, *sizes)``, with the batch size of `wrt`."""
        if not self._count_of_images:
            self._count_of_images = self.op("Shape", self.wrt, start=0, end=1)
        count = self._count_of_images
        return self.op("Concat", count, self.ints(*sizes), axis=0) if sizes else count

    def value(self, name: str) -> Array | None:
        """Return the value of a constant, or None when `name` is computed at run time."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def constant_input(self, node: NodeProto, index: int) -> Array:
        """Return the value of an input of `node`.

        Raises:
            ModelError: It is computed at run time.
        """
        value = self.value(node.input[index])
        if value is None:
            raise ModelError(
                f"expected input {index} of {described(node)} to be constant, got the computed {node.input[index]!r}; "
                "export the model with constants folded"
            )
        return value

    def optional_input(self, node: NodeProto, index: int) -> Array | None:
        """Return the value of an input of `node`, or None when the node leaves it out.

        Raises:
            ModelError: It is computed at run time.
        """
        return self.constant_input(node, index) if len(node.input) > index and node.input[index] else None

    def dims(self, name: str) -> tuple[int | str | None, ...]:
        """Return what is known of the axes of `name`.

        Raises:
            ModelError: Not even the rank is known.
        """
        dims = self._type(name).dims
        if dims is None:
            raise ModelError(f"expected tensor {name!r} to have a known rank, got none; export the model with shapes")
        return dims

    def static_dims(self, name: str, axes: Sequence[int]) -> list[int]:
        """Return the sizes of the given axes.

        Raises:
            ModelError: One of them is not a number.
        """
        dims = self.dims(name)
        sizes = [dims[axis] for axis in axes]
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) != len(sizes):
            raise ModelError(
                f"expected tensor {name!r} to have fixed sizes on axes {list(axes)}, got {list(dims)}; "
                "export the model with only the batch axis symbolic"
            )
        return numbers

    def free_dims(self, name: str) -> list[int]:
        """Return the sizes of all axes as Reshape takes them, with -1 for the one that is not a number.

        Raises:
            ModelError: More than one is not a number.
        """
        dims = self.dims(name)
        free = [axis for axis, size in enumerate(dims) if not isinstance(size, int)]
        fixed = self.static_dims(name, [axis for axis in range(len(dims)) if axis not in free[:1]])
        return [*fixed[: free[0]], -1, *fixed[free[0] :]] if free else fixed

    def reshape_like(self, tensor: str, like: str) -> str:
        """Append a Reshape of `tensor` to the shape of `like`."""
        return self.op("Reshape", tensor, self.shape(like), allowzero=1)

    def expand_like(self, tensor: str, like: str) -> str:
        """Append an Expand of `tensor` to the shape of `like`."""
        return self.op("Expand", tensor, self.shape(like))

    def zeros_like(self, like: str) -> str:
        """Append float32 zeros in the shape of `like`."""
        return self.op("ConstantOfShape", self.shape(like))

    def pad(self, tensor: str, widths: Mapping[int, tuple[int, int]], *, rank: int) -> str:
        """Append zeros before and after `tensor` on some of its axes; negative widths cut off.

        The widths of all axes are written down: see `gradients.rewriting.padded_on_all_axes`.
        """
        every = np.zeros((2, rank), np.int64)
        for axis, (before, after) in widths.items():
            every[:, axis] = before, after
        return self.op("Pad", tensor, self.ints(*every.reshape(-1).tolist()))

    def unbroadcast(self, tensor: str, *, output: str, operand: str) -> str:
        """Sum `tensor`, shaped like `output`, over the axes along which `operand` was broadcast to it.

        Where an axis is unknown, as the heads of an attention times its batch are, the sizes are compared in each run.
        """
        wide, narrow = self.dims(output), self.dims(operand)
        lead = len(wide) - len(narrow)
        axes = list(range(lead))
        for axis, size in enumerate(narrow, start=lead):
            if size == 1 and wide[axis] != 1:
                axes.append(axis)
            elif size is None or (isinstance(size, str) and size != wide[axis]):
                return self._sum_to_shape_of(operand, tensor, lead=lead)
        if not axes:
            return tensor
        summed = self.op("ReduceSum", tensor, self.ints(*axes), keepdims=1)
        return self.reshape_like(summed, operand) if lead else summed

    def _sum_to_shape_of(self, operand: str, tensor: str, *, lead: int) -> str:
        """Sum over the axes on which the shapes differ when the graph runs; `operand` has `lead` axes less."""
        narrow = self.shape(operand)
        if lead:
            narrow = self.op("Concat", self.ints(*[1] * lead), narrow, axis=0)
        different = self.op("Not", self.op("Equal", narrow, self.op("Shape", tensor)))
        axes = self.op("Squeeze", self.op("NonZero", different), self.ints(0))
        summed = self.op("ReduceSum", tensor, axes, keepdims=1, noop_with_empty_axes=1)
        return self.reshape_like(summed, operand)

    def _type(self, name: str) -> TensorType:
        if name not in self.types:
            raise ModelError(
                f"expected the type of tensor {name!r} to follow from the model's inputs, got none; check the model"
            )
        return self.types[name]

    def _fresh(self, stem: str) -> str:
        self._count += 1
        name = f"grad/{stem}_{self._count}"
        return self._fresh(stem) if name in self.types or name in self.constants else name


def _copy(node: NodeProto) -> NodeProto:
    twin = NodeProto()
    twin.CopyFrom(node)
    return twin


def described(node: NodeProto) -> str:
    """Name a node in a message."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def listed(titles: Sequence[str]) -> str:
    """Join the first eight titles, and say how many more there are."""
    return ", ".join(titles[:8]) + (f" and {len(titles) - 8} more" if len(titles) > 8 else "")


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values; strings are decoded."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
