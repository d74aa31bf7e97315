"""Gradients of a shipped ``.onnx`` without a training framework: `graph` has `GradientGraph`, the rest is behind it.

`forward` cuts the classifier open, `reverse` walks back over its nodes with one rule per operator (`rules`), `assembly`
serialises what a gradient graph runs, `check` compares it with differences, `unrounded` undoes what a quantised file
rounds.
"""

from calibration.gradients.graph import GradientGraph, ValueAndGradient

__all__ = ["GradientGraph", "ValueAndGradient"]
