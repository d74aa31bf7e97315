import numpy as np
from onnx import TensorProto, helper, numpy_helper

from calibration.gradients.sizes import fixed_numbers
from calibration.graphs.types import TensorType

TYPES = {"x": TensorType(element=TensorProto.FLOAT, dims=("N", 3, 8))}


def of(*nodes, types=TYPES, **constants):
    made = {name: numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()}
    found = fixed_numbers([helper.make_node(*node) for node in nodes], made, types)
    return {name: numpy_helper.to_array(value).tolist() for name, value in found.items()}


SHAPE = ("Shape", ["x"], ["shape"])


def test_what_the_batch_does_not_change_is_fixed():
    nodes = [SHAPE, ("Gather", ["shape", "two"], ["width"]), ("Div", ["width", "two"], ["half"])]
    assert of(*nodes, two=np.int64(2)) == {"width": 8, "half": 4}


def test_what_the_batch_changes_stays():
    nodes = [SHAPE, ("Gather", ["shape", "zero"], ["n"]), ("Mul", ["n", "three"], ["tripled"])]
    assert of(*nodes, zero=np.int64(0), three=np.int64(3)) == {}


def test_what_only_some_batches_change_stays():
    nodes = [SHAPE, ("Gather", ["shape", "zero"], ["n"]), ("Min", ["n", "most"], ["few"])]
    assert of(*nodes, zero=np.int64(0), most=np.int64(64)) == {}


def test_a_node_of_which_the_batch_changes_one_output_stays_whole():
    nodes = [SHAPE, ("Split", ["shape", "sizes"], ["n", "rest"]), ("Neg", ["rest"], ["negative"])]
    assert of(*nodes, sizes=np.array([1, 2])) == {"negative": [-3, -8]}


def test_nothing_is_known_of_a_shape_that_pixels_decide():
    types = {"x": TensorType(element=TensorProto.FLOAT, dims=("N", None, 8))}
    assert of(SHAPE, ("Neg", ["shape"], ["negative"]), types=types) == {}
