"""Gradients of a shipped ``.onnx`` without a training framework.

`GradientGraph` adds to the nodes of a classifier the reverse nodes of each operator. The result is one more ONNX graph
with a symbolic batch axis, and ONNX Runtime runs it on any of its devices.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from calibration.gradients.assembly import (
    check_differentiable,
    cotangent_of,
    jacobian_model,
    logits_model,
    objective_model,
    stack_of,
    vjp_model,
)
from calibration.gradients.check import GradientCheck, check_gradient
from calibration.gradients.forward import ForwardGraph, forward_graph
from calibration.gradients.unrounded import unrounded
from calibration.graphs.reading import Model
from calibration.objectives import Objective, one_hot
from runtime.errors import UsageError
from runtime.session import create_session

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class ValueAndGradient(NamedTuple):
    """What one run of an objective returns.

    Attributes:
        loss: One value per image, ``(N,)`` float32.
        gradient: Its derivative with respect to the input, ``(N, ...)`` float32.
        logits: The logits of the same run, each ``(N, K)`` float32.
    """

    loss: FloatArray
    gradient: FloatArray
    logits: dict[str, FloatArray]


class GradientGraph:
    """Logits of a classifier and their derivatives with respect to its pixels.

    Every kind of derivative is one graph of its own, built and started when it is first asked for, then kept.

    Attributes:
        wrt: The tensor it differentiates with respect to.
        of: The logits tensors it differentiates.
        shape: The axes of `wrt` behind the batch axis, ``(C, H, W)`` for images; None where the size is free.
        classes: K of each logits tensor.
        straight_through: Whether the model rounds on the way (QuantizeLinear, DequantizeLinear), or rounds its pixels
            or compares them with a threshold so that nothing varies smoothly with them (`activity.straight_through`).
            Its true gradient is zero almost everywhere; derivatives are then those of the straight-through estimator,
            which passes where integers can represent the value, and results must say so.
    """

    def __init__(
        self,
        model: Model,
        wrt: str = "pixels",
        of: Sequence[str] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Cut the model at `wrt` and check that everything behind it can be differentiated.

        Args:
            model: Path, bytes or ModelProto of a float32 classifier: one of our files, or any other with a float input.
            wrt: Float32 tensor ``(N, ...)`` that becomes the input; for other files, the name of their input.
            of: Float32 logits tensors ``(N, K)``, inner ones too (``unlocked_logits``); None takes ``logits`` and
                ``robust_logits``, as far as the model has them.
            device: As for `Guard`.
            threads: As for `Guard`.

        Raises:
            ModelError: The model is invalid, not float32, computes on integers, or has an operator without a gradient
                rule.
            UsageError: The model has no tensor of that name.
        """
        self._forward = forward_graph(model, wrt=wrt, of=of)
        self._device, self._threads = device, threads
        self._sessions: dict[Hashable, onnxruntime.InferenceSession] = {}
        self.wrt, self.of = wrt, self._forward.of
        self.shape = (self._forward.types[wrt].dims or ())[1:]
        self.classes = {name: _classes(self._forward, name) for name in self.of}
        self.straight_through = self._forward.straight_through
        check_differentiable(self._forward)

    def logits(self, x: FloatArray) -> dict[str, FloatArray]:
        """Return the logits, each ``(N, K)`` float32.

        Args:
            x: Values of `wrt`, ``(N, C, H, W)`` float32.

        Raises:
            UsageError: `x` has another type or shape.
        """
        session = self._session("logits", lambda: logits_model(self._forward))
        return dict(zip(self.of, self._run(session, x, {}), strict=True))

    def vjp(self, x: FloatArray, cotangents: Mapping[str, FloatArray]) -> FloatArray:
        """Return the sum over the given logits of cotangent times d logits / d x, ``(N, C, H, W)`` float32.

        Args:
            x: Values of `wrt`, ``(N, C, H, W)`` float32.
            cotangents: One ``(N, K)`` float32 array for each logits tensor that takes part.

        Raises:
            UsageError: `x` or a cotangent has another type, shape or name.
        """
        names = self._heads(cotangents)
        session = self._session(
            ("vjp", names), lambda: vjp_model(self._forward, {name: self.classes[name] for name in names})
        )
        feeds = {cotangent_of(name): self._rows(name, cotangents[name], len(x)) for name in names}
        return self._run(session, x, feeds)[0]

    def value_and_gradient(self, objective: Objective, x: FloatArray, **inputs: npt.ArrayLike) -> ValueAndGradient:
        """Return an objective's loss and its gradient in one run.

        Args:
            objective: What to differentiate; its session is kept.
            x: Values of `wrt`, ``(N, C, H, W)`` float32.
            **inputs: The inputs the objective names: integer labels ``(N,)``, or one-hot float32 rows ``(N, K)``.

        Raises:
            UsageError: `x` or an input has another type, shape or name, or the objective reads a tensor that is not in
                `of`.
        """
        self._heads(objective.reads)
        classes = self.classes[objective.reads[0]]
        if set(inputs) != set(objective.inputs):
            raise UsageError(f"expected inputs {list(objective.inputs)} for {objective}, got {sorted(inputs)}")
        session = self._session(objective, lambda: objective_model(self._forward, objective, classes))
        feeds = {}
        for name, value in inputs.items():
            rows = np.asarray(value)
            feeds[name] = _checked(name, one_hot(rows, classes) if rows.ndim == 1 else rows, (len(x), classes))
        loss, gradient, *logits = self._run(session, x, feeds)
        return ValueAndGradient(loss, gradient, dict(zip(self.of, logits, strict=True)))

    def jacobian(self, x: FloatArray, *, classes: IntArray | None = None) -> dict[str, FloatArray]:
        """Return d logits / d x of every logits tensor, each ``(N, K, C, H, W)`` float32.

        See `logits_and_jacobian`.
        """
        return self.logits_and_jacobian(x, classes=classes)[1]

    def logits_and_jacobian(
        self, x: FloatArray, *, classes: IntArray | None = None
    ) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """Return the logits and their Jacobian: one forward pass, then one reverse pass per row, all in one run.

        Args:
            x: Values of `wrt`, ``(N, C, H, W)`` float32.
            classes: Which rows each image needs, ``(N, R)`` integers, the same for every logits tensor; None means all
                K.

        Returns:
            Logits, each ``(N, K)``, and Jacobians, each ``(N, K or R, C, H, W)``, float32.

        Raises:
            UsageError: `x` or `classes` has another type or shape.
        """
        count = len(x)
        blocks = {name: _directions(self.classes[name], count, classes) for name in self.of}
        total = sum(len(block) for block in blocks.values())
        feeds, start = dict[str, FloatArray](), 0
        for name, block in blocks.items():
            stack = np.zeros((total, count, self.classes[name]), dtype=np.float32)
            stack[start : start + len(block)] = block
            feeds[stack_of(name)] = stack
            start += len(block)
        session = self._session("jacobian", lambda: jacobian_model(self._forward, self.classes))
        rows, *logits = self._run(session, x, feeds)
        jacobians, start = {}, 0
        for name, block in blocks.items():
            jacobians[name] = np.moveaxis(rows[start : start + len(block)], 0, 1)
            start += len(block)
        return dict(zip(self.of, logits, strict=True)), jacobians

    def self_check(self, x: FloatArray, *, seed: int = 0) -> GradientCheck:
        """Compare the gradient with central differences of the graph's own logits at `x`, ``(N, C, H, W)`` float32.

        See `calibration.gradients.check.check_gradient`. Where gradients go straight through rounding, both are taken
        without it.
        """
        smooth = self
        if self.straight_through:
            smooth = copy(self)
            smooth._forward, smooth._sessions = unrounded(self._forward), {}
        return check_gradient(smooth.logits, smooth.vjp, x, seed=seed)

    def _heads(self, names: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in self.classes]
        if unknown or not names:
            raise UsageError(
                f"expected logits among {', '.join(self.of)}, got {', '.join(unknown) or 'none'}; name them in `of`"
            )
        return tuple(name for name in self.of if name in names)

    def _rows(self, name: str, value: FloatArray, count: int) -> FloatArray:
        return _checked(f"cotangent of {name}", value, (count, self.classes[name]))

    def _session(self, key: Hashable, build: Callable[[], bytes]) -> onnxruntime.InferenceSession:
        if key not in self._sessions:
            self._sessions[key] = create_session(build(), device=self._device, threads=self._threads)
        return self._sessions[key]

    def _run(
        self, session: onnxruntime.InferenceSession, x: FloatArray, feeds: Mapping[str, FloatArray]
    ) -> list[FloatArray]:
        _checked(self.wrt, x, (self._forward.batch, *self.shape))
        return list(session.run(None, {self.wrt: np.ascontiguousarray(x), **feeds}))


def _classes(forward: ForwardGraph, name: str) -> int:
    dims = forward.types[name].dims
    if dims is None or len(dims) != 2 or not isinstance(dims[1], int):
        raise UsageError(
            f"expected {name!r} to be logits (N, K) with a fixed K, got {list(dims or ())}; name others in `of`"
        )
    return dims[1]


def _checked(name: str, value: FloatArray, shape: tuple[int | str | None, ...]) -> FloatArray:
    wanted = [size if isinstance(size, int) else None for size in shape]
    fits = value.ndim == len(wanted) and all(want in (None, got) for want, got in zip(wanted, value.shape, strict=True))
    if value.dtype != np.float32 or not fits:
        text = ", ".join("N" if size is None else str(size) for size in wanted)
        raise UsageError(f"expected {name} as float32 ({text}), got {value.dtype} {value.shape}")
    return np.ascontiguousarray(value)


def _directions(k: int, count: int, classes: IntArray | None) -> FloatArray:
    """Return one-hot cotangents ``(R, N, K)``: all K classes, or those `classes` ``(N, R)`` names for each image."""
    unit = np.eye(k, dtype=np.float32)
    if classes is None:
        return np.broadcast_to(unit[:, None], (k, count, k))
    if classes.ndim != 2 or len(classes) != count or not np.issubdtype(classes.dtype, np.integer):
        raise UsageError(f"expected classes as integers ({count}, R), got {classes.dtype} {classes.shape}")
    if classes.size and not (classes.min() >= 0 and classes.max() < k):
        raise UsageError(f"expected classes in [0, {k}), got {classes.min()} to {classes.max()}")
    return unit[classes.T]
