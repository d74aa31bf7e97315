"""onnx-ad, another source transformation of ONNX graphs, as an oracle at a frozen batch."""

import numpy as np
import onnx_ad
import onnxruntime
import pytest

from calibration.gradients import GradientGraph
from tests.calibration.gradients.cases import COUNT, model_of, pixels
from tests.calibration.gradients.rules import test_functions, test_layout, test_linear, test_windows

ALL = (
    test_functions.CASES
    | test_layout.CASES
    | test_layout.LINEAR
    | test_linear.CASES
    | test_windows.CASES
    | {name: case for name, (case, _) in test_functions.ERROR_FUNCTION.items()}
    | {name: case for name, (case, _) in test_linear.BY_TORCH.items()}
    | {name: case for name, (case, _) in test_windows.BY_TORCH.items()}
)

# The first case of each operator. Others onnx-ad 0.3 refuses (steps, batch axes of indices, repeating pads, auto_pad),
# or gets wrong (pads wider than the kernel, computed kernels with strides or groups): differences decide there.
CASES = {case.op_type: case for case in reversed(ALL.values())}


def reverse_by_onnx_ad(model, x, cotangents):
    """The cotangent of ``x`` by onnx-ad's reverse model in ONNX Runtime."""
    reverse = onnx_ad.reverse(model, layout="onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(reverse.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(["adj_x"], {"x": x, "adj_logits": cotangents[..., None]})
    return result[..., 0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_agrees_with_onnx_ad(case):
    graph = GradientGraph(model_of(case), wrt="x", of=["logits"], threads=1)
    x = pixels()
    cotangents = np.random.default_rng(3).normal(size=(COUNT, graph.classes["logits"])).astype(np.float32)
    gradient = graph.vjp(x, {"logits": cotangents})
    expected = reverse_by_onnx_ad(model_of(case, batch=COUNT), x, cotangents)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
