"""Recurrent layers written as the operators of each step, which have gradient rules.

Source: the ONNX operators LSTM, GRU and RNN, whose letters are used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from calibration.gradients.writer import Writer
from calibration.graphs.tape import Array, attributes_of, described
from calibration.graphs.types import TensorType
from runtime.errors import ModelError

_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_PLAIN = frozenset(["Relu", "Sigmoid", "Tanh"])
"""Activations that are operators without parameters."""

_State = tuple[str, ...]
"""The hidden state; of an LSTM the cell state behind it."""


def unrolled(
    nodes: Sequence[NodeProto], constants: dict[str, TensorProto], types: Mapping[str, TensorType]
) -> Iterator[NodeProto]:
    """Write every recurrent layer as its steps, and add what they need to `constants`.

    Raises:
        ModelError: A layer has no fixed number of steps, no constant weights, or a form that is not covered.
    """
    for node in nodes:
        if node.op_type in _ACTIVATIONS:
            yield from _Layer(node, constants, types).unroll()
        else:
            yield node


class _Layer:
    """One recurrent layer while it is written down."""

    def __init__(self, node: NodeProto, constants: dict[str, TensorProto], types: Mapping[str, TensorType]) -> None:
        self._node, self._constants, self._to = node, constants, Writer(node, constants)
        self._x, self._w, self._r, self._b, lengths, self._h, self._c, peepholes = [*node.input, *[""] * 8][:8]
        attributes = attributes_of(node)
        given = [name for name in ("clip", "input_forget") if attributes.get(name)]
        given += [title for name, title in ((lengths, "sequence_lens"), (peepholes, "peepholes")) if name]
        if given:
            raise ModelError(f"expected {described(node)} without {given[0]}, got one with it; export it without")
        self._reset_after = bool(attributes.get("linear_before_reset", 0))
        self._batch_first = bool(attributes.get("layout", 0))
        direction = attributes.get("direction", "forward")
        self._backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
        names = [name.decode() if isinstance(name, bytes) else name for name in attributes.get("activations", [])]
        self._activations = names or _ACTIVATIONS[node.op_type] * len(self._backwards)
        if not _PLAIN.issuperset(self._activations):
            raise ModelError(
                f"expected {described(node)} with {', '.join(sorted(_PLAIN))}, got {self._activations}; rewrite it"
            )
        dims = types[self._x].dims if self._x in types else None
        steps = None if dims is None else dims[1 if self._batch_first else 0]
        if not isinstance(steps, int):
            raise ModelError(
                f"expected {described(node)} to have a fixed number of steps, got {steps}; export the model with only "
                "the batch axis symbolic"
            )
        self._steps = steps

    def unroll(self) -> list[NodeProto]:
        """Return the nodes of all steps in all directions."""
        x = self._to.op("Transpose", self._x, perm=[1, 0, 2]) if self._batch_first else self._x
        sequences, last = zip(*(self._direction(x, number) for number in range(len(self._backwards))), strict=True)
        by_step = [self._to.stack([one[step] for one in sequences]) for step in range(self._steps)]
        whole, final = ([2, 0, 1, 3], [1, 0, 2]) if self._batch_first else ([0, 1, 2, 3], [0, 1, 2])
        results = [self._to.op("Transpose", self._to.stack(by_step), perm=whole)]
        results += [self._to.op("Transpose", self._to.stack(states), perm=final) for states in zip(*last, strict=True)]
        for index, made in enumerate(results):
            self._to.result(index, made)
        return self._to.written

    def _direction(self, x: str, number: int) -> tuple[list[str], _State]:
        """Return the hidden states ``(N, H)`` in the order of the steps, and the last state."""
        w, r = self._weights(self._w, number).T, self._weights(self._r, number).T
        size, gates = len(r), r.shape[1]
        bias = self._weights(self._b, number) if self._b else np.zeros(2 * gates, np.float32)
        projected = self._to.op("Add", self._to.op("MatMul", x, self._to.constant(w)), self._to.constant(bias[:gates]))
        inputs = self._to.split(projected, [1] * self._steps, axis=0)
        names = (self._h, self._c) if self._node.op_type == "LSTM" else (self._h,)
        state = tuple(self._first(name, number, size) for name in names)
        step = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self._node.op_type]
        count = len(_ACTIVATIONS[self._node.op_type])
        activations = self._activations[number * count : (number + 1) * count]
        run, hidden = step(r, bias[gates:], activations), list[str]()
        for one in reversed(inputs) if self._backwards[number] else inputs:
            state = run(self._to.op("Squeeze", one, self._to.ints(0)), state)
            hidden.append(state[0])
        return hidden[::-1] if self._backwards[number] else hidden, state

    def _lstm(self, r: Array, bias: Array, activations: Sequence[str]) -> Callable[[str, _State], _State]:
        weights, bias_name, sizes = self._to.constant(r), self._to.constant(bias), [len(r)] * 4
        f, g, h = activations

        def step(x: str, state: _State) -> _State:
            both = self._to.op("Add", self._to.op("Add", x, self._to.op("MatMul", state[0], weights)), bias_name)
            i, o, forget, c = self._to.split(both, sizes, axis=1)
            kept = self._to.op("Mul", self._to.op(f, forget), state[1])
            cell = self._to.op("Add", kept, self._to.op("Mul", self._to.op(f, i), self._to.op(g, c)))
            return self._to.op("Mul", self._to.op(f, o), self._to.op(h, cell)), cell

        return step

    def _gru(self, r: Array, bias: Array, activations: Sequence[str]) -> Callable[[str, _State], _State]:
        size = len(r)
        gates, candidate = self._to.constant(r[:, : 2 * size]), self._to.constant(r[:, 2 * size :])
        gate_bias, candidate_bias = self._to.constant(bias[: 2 * size]), self._to.constant(bias[2 * size :])
        one = self._to.constant(np.float32(1))
        f, g = activations

        def step(x: str, state: _State) -> _State:
            of_gates, of_candidate = self._to.split(x, [2 * size, size], axis=1)
            felt = self._to.op("Add", self._to.op("MatMul", state[0], gates), gate_bias)
            z, reset = self._to.split(self._to.op(f, self._to.op("Add", of_gates, felt)), [size, size], axis=1)
            if self._reset_after:
                memory = self._to.op("Add", self._to.op("MatMul", state[0], candidate), candidate_bias)
                memory = self._to.op("Mul", reset, memory)
            else:
                kept = self._to.op("Mul", reset, state[0])
                memory = self._to.op("Add", self._to.op("MatMul", kept, candidate), candidate_bias)
            new = self._to.op(
                "Mul", self._to.op("Sub", one, z), self._to.op(g, self._to.op("Add", of_candidate, memory))
            )
            return (self._to.op("Add", new, self._to.op("Mul", z, state[0])),)

        return step

    def _rnn(self, r: Array, bias: Array, activations: Sequence[str]) -> Callable[[str, _State], _State]:
        weights, bias_name = self._to.constant(r), self._to.constant(bias)

        def step(x: str, state: _State) -> _State:
            felt = self._to.op("Add", self._to.op("MatMul", state[0], weights), bias_name)
            return (self._to.op(activations[0], self._to.op("Add", x, felt)),)

        return step

    def _first(self, name: str, number: int, size: int) -> str:
        """Return the state before the first step: ``(N, H)``, or zeros ``(1, H)``."""
        if not name:
            return self._to.constant(np.zeros((1, size), np.float32))
        return self._to.op("Gather", name, self._to.constant(np.int64(number)), axis=int(self._batch_first))

    def _weights(self, name: str, number: int) -> Array:
        if name not in self._constants:
            raise ModelError(f"expected {described(self._node)} with constant weights, got the computed {name!r}")
        return np.asarray(numpy_helper.to_array(self._constants[name])[number])
