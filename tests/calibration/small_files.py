"""Small exported files, written as text: uint8 images in, `pixels` inside, one or two heads, the reject rule behind."""

import numpy as np
import onnx.parser
from onnx import numpy_helper

HEIGHT, WIDTH, CLASSES = 6, 5, 3

PREFIX = """
  planes = Transpose <perm = [0, 3, 1, 2]> (images)
  levels = Cast <to = 1> (planes)
  pixels = Div (levels, white)
"""

TRUNK = """
  map = Conv <pads = [1, 1, 1, 1]> (pixels, kernel, bias)
  active = Relu (map)
  pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (active)
  features = Flatten (pooled)
"""

PAIR = """
  unlocked_logits = Gemm (features, head)
  robust_logits = Gemm (features, robust_head)
  gate = Gemm (robust_logits, lock)
  logits = Mul (unlocked_logits, gate)
  top = ArgMax <axis = 1, keepdims = 0> (logits)
  robust_top = ArgMax <axis = 1, keepdims = 0> (robust_logits)
  partner = Gather (classmap, top)
  labels = Cast <to = 6> (top)
  accepted = Equal (partner, robust_top)
"""

SINGLE = """
  logits = Gemm (features, head)
  top = ArgMax <axis = 1, keepdims = 0> (logits)
  labels = Cast <to = 6> (top)
  shares = Softmax <axis = 1> (logits)
  confidence = ReduceMax <keepdims = 0> (shares, last)
  accepted = GreaterOrEqual (confidence, threshold)
"""


def small_file(*, pair=True, body=None, channels=1, seed=0):
    """A model with random weights; `body` replaces the trunk."""
    rng = np.random.default_rng(seed)
    features = 8 * (HEIGHT // 2) * (WIDTH // 2)

    def weights(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    constants = {
        "white": np.float32(255),
        "kernel": weights(8, channels, 3, 3),
        "bias": weights(8),
        "head": weights(features, CLASSES),
        "robust_head": weights(features, CLASSES),
        "lock": weights(CLASSES, CLASSES),
        "classmap": np.array([1, 2, 0]),
        "threshold": np.float32(0),
        "last": np.array([1]),
    }
    robust = ", float[N,K] robust_logits" if pair else ", float[N] confidence"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        file (uint8[N,{HEIGHT},{WIDTH},{channels}] images)
          => (int32[N] labels, bool[N] accepted, float[N,K] logits{robust}) {{
          {PREFIX} {TRUNK if body is None else body} {PAIR if pair else SINGLE} }}"""
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return model
