import numpy as np
import onnxruntime
import pytest

from calibration.pixels import to_images, to_pixels
from runtime.errors import UsageError
from tests.calibration.small_files import HEIGHT, WIDTH, small_file

LEVELS = np.arange(2 * HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(2, HEIGHT, WIDTH, 3)


def test_pixels_are_bit_for_bit_those_of_the_graph():
    model = small_file(channels=3)
    model.graph.output.append(next(value for value in graph_values(model) if value.name == "pixels"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["pixels"], {"images": LEVELS})
    np.testing.assert_array_equal(to_pixels(LEVELS), expected)


def graph_values(model):
    import onnx

    return onnx.shape_inference.infer_shapes(model).graph.value_info


def test_every_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    pixels = to_pixels(levels)
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(to_images(pixels), levels)


@pytest.mark.parametrize(("value", "level"), [(0.4 / 255, 0), (0.6 / 255, 1), (254.6 / 255, 255), (1.0, 255)])
def test_images_round_to_the_nearest_level(value, level):
    assert to_images(np.full((1, 1, 1, 1), value, dtype=np.float32))[0, 0, 0, 0] == level


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: to_pixels(LEVELS / 255), "expected images as uint8", id="float images"),
        pytest.param(
            lambda: to_pixels(LEVELS[0]),
            r"expected images as uint8 \(N, H, W, C\), got uint8 \(6, 5, 3\)",
            id="one image",
        ),
        pytest.param(lambda: to_images(LEVELS), "expected pixels as floats", id="integer pixels"),
        pytest.param(
            lambda: to_images(np.full((1, 1, 1, 1), 1.1, np.float32)), r"expected pixels in \[0, 1\]", id="above 1"
        ),
        pytest.param(
            lambda: to_images(np.full((1, 1, 1, 1), np.nan, np.float32)), r"expected pixels in \[0, 1\]", id="NaN"
        ),
    ],
)
def test_refuses_other_arrays(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_no_images_are_images():
    assert to_images(to_pixels(LEVELS[:0])).shape == (0, HEIGHT, WIDTH, 3)
