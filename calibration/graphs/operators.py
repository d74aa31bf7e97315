"""Operators that no gradient passes, and those on integers that stand for floats."""

from __future__ import annotations

from onnx import TensorProto

# fmt: off
RANDOM = frozenset([
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
])
"""Operators that draw numbers; what they draw does not depend on the values of their input."""

FLAT = RANDOM | frozenset([
    "And", "ArgMax", "ArgMin", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "ConstantOfShape",
    "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "NonZero", "Not", "OneHot", "Or", "Range", "Round", "Shape", "Sign", "Size", "Xor",
])
"""Operators whose derivative is zero wherever it exists."""

ROUNDING = frozenset(["Ceil", "Floor", "Round"])
"""Those that approximate their input by whole numbers."""

STEPS = frozenset(["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Sign"])
"""Those that tell two sides of a threshold apart."""

INTEGER = frozenset([
    "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
])
"""Operators that compute on quantised numbers themselves."""
# fmt: on

QUANTIZED_RANGE: dict[int, tuple[int, int]] = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}
"""The smallest and the largest number of each element type that QuantizeLinear writes."""


def is_integer_arithmetic(domain: str, op_type: str) -> bool:
    """Return whether an operator computes on quantised numbers itself, as a QOperator file does."""
    return op_type in INTEGER or (
        domain not in ("", "ai.onnx") and op_type.startswith(("QLinear", "QGemm", "QAttention"))
    )
