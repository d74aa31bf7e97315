"""Static INT8: `static` quantises a guard, and `gate` decides whether the result is as good as the float file.

`nodes` cuts the network out of the file and puts it back, `layout` brings it into a form that runs fast in integers,
`ranges` measures between which values its tensors move.
"""

from calibration.quantization.static import QuantizationConfig, Quantized, Trial, quantize

__all__ = ["QuantizationConfig", "Quantized", "Trial", "quantize"]
