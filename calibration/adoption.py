"""Any classifier as a guard file: other people's networks, put into the contract so that they can be attacked.

The network is left as it is. Around it come the way from 8-bit images to its input, and the rule of a single head with
threshold 0: it accepts everything, as a classifier without a reject rule does.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.compose import add_prefix
from onnx.utils import Extractor

from calibration.datasets import Dataset
from calibration.golden import choose_golden
from calibration.graphs.reading import Model, opset_of, read_model
from calibration.rules import OPSETS, assemble
from calibration.stamping import METADATA_KEY, stamp
from runtime.errors import ModelError, UsageError, one_line
from runtime.session import create_session
from runtime.verdicts import Verdicts

_PREFIX = "network/"
_CANDIDATES = 64


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """How a classifier is to be read.

    Attributes:
        input: Name of its float32 input, images as ``(N, C, H, W)`` or ``(N, H, W, C)``; None where it has only one.
        logits: Name of its float32 logits ``(N, K)``; None where it has only one output of that form.
        mean: What is subtracted from pixels in [0, 1] before the network, one number or one a channel.
        std: What they are then divided by, one number or one a channel; 1/255 gives the network 0 to 255.

    Raises:
        UsageError: A number is not finite, or `std` holds a 0.
    """

    input: str | None = None
    logits: str | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not np.isfinite(self.mean).all():
            raise UsageError(f"--mean: expected finite numbers, got {self.mean}")
        if not np.isfinite(self.std).all() or 0 in self.std:
            raise UsageError(f"--std: expected finite numbers other than 0, got {self.std}")


class _Images(NamedTuple):
    """The input of a network: its name, and whether its channels come last."""

    name: str
    channels_last: bool


def is_guard_file(model: ModelProto) -> bool:
    """Return whether a model carries the metadata of a guard file, valid or not."""
    return any(entry.key == METADATA_KEY for entry in model.metadata_props)


def adopt(model: Model, adoption: Adoption, dataset: Dataset) -> bytes:
    """Return a guard file that decides as the classifier does and accepts all its answers.

    Args:
        model: Path, bytes or ModelProto of a float32 classifier.
        adoption: How to read it.
        dataset: What it classifies: the size of its images and the names of its classes are taken from here.

    Raises:
        ModelError: The model is invalid, or cannot be put into the contract.
        UsageError: A tensor was not named that has to be, or does not fit the images or classes.
    """
    proto = read_model(model)
    height, width, channels = dataset.input_shape
    images = _images(proto, adoption.input, dataset)
    named = _logits(proto, adoption.logits, len(dataset.classes))
    logits = _before_softmax(proto, named)
    network = _as_network(_part(proto, images.name, logits), images, logits, adoption, channels)
    try:
        guard = assemble(
            network, rule="confidence", classmap=None, threshold=0.0, input_shape=(height, width, channels)
        )
    except ModelError as error:
        raise ModelError(
            f"expected a classifier from {images.name!r} alone to {logits!r}, for any batch size, got: {error}"
        ) from None
    _check_columns(guard, named, len(dataset.classes))
    return stamp(
        guard,
        {
            "schema": 1,
            "rule": "confidence",
            "classes": list(dataset.classes),
            "classmap": None,
            "threshold": 0.0,
            "calibration": None,
            "input": {"height": height, "width": width, "channels": channels, "resize": "none", "max_pixels": 1 << 24},
            "precision": "fp32",
            "recipe": {"adopted": {"input": images.name, "logits": logits, "mean": adoption.mean, "std": adoption.std}},
            "training": {"data": "unknown"},
            "producer": {"name": "cmt", "version": version("cmt")},
            "golden": _golden(guard, dataset),
        },
    )


def _images(proto: ModelProto, name: str | None, dataset: Dataset) -> _Images:
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    found = _named("--input", name, [each for each, value in inputs.items() if len(_dims(value)) == 4], list(inputs))
    value, (height, width, channels) = inputs[found], dataset.input_shape
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        raise UsageError(f"--input {found}: expected float32, got {kind}; name a float tensor behind its conversion")
    for channels_last, want in ((False, (channels, height, width)), (True, (height, width, channels))):
        if all(got in (0, size) for got, size in zip(_dims(value)[1:], want, strict=True)):
            return _Images(found, channels_last)
    got = ", ".join(str(size or "?") for size in _dims(value)[1:])
    fits = dataset.from_files and channels in (_dims(value)[1], _dims(value)[3])
    raise UsageError(
        f"--input {found}: expected {channels} channels of {height} x {width} as in the data, first or last, "
        f"got (N, {got}); choose other data{', or --size' * fits}"
    )


def _logits(proto: ModelProto, name: str | None, classes: int) -> str:
    outputs = {value.name: value for value in proto.graph.output}
    if name is not None and name not in outputs:
        made = {each for node in proto.graph.node for each in node.output}
        if name not in made:
            raise UsageError(f"--logits: expected a tensor of the model, got {name}; its outputs: {', '.join(outputs)}")
        return name
    rows = [each for each, value in outputs.items() if len(_dims(value)) == 2]
    fitting = [each for each in rows if _dims(outputs[each])[1] in (0, classes)]
    # Where none fits, the only rows are taken nevertheless: how many columns they have is the better reason to give.
    return _named("--logits", name, fitting or rows, list(outputs))


def _named(option: str, name: str | None, fitting: list[str], known: list[str]) -> str:
    if name is None and len(fitting) == 1:
        return fitting[0]
    if name is None or name not in known:
        raise UsageError(f"{option}: expected one of {', '.join(known)}, got {name or 'none'}; name the tensor")
    return name


def _check_columns(guard: ModelProto, named: str, classes: int) -> None:
    """Refuse logits of another K than the data has classes; only the assembled guard has it for any tensor."""
    found = next(_dims(value)[1] for value in guard.graph.output if value.name == "logits")
    if found != classes:
        raise UsageError(
            f"--logits {named}: expected {classes} columns, one for each class of the data, got {found}; "
            "name another tensor, or choose the data that the classifier was made for"
        )


def _before_softmax(proto: ModelProto, logits: str) -> str:
    """Return the input of a softmax that makes `logits`: probabilities saturate, and their gradients with them."""
    for node in proto.graph.node:
        if logits in node.output and node.op_type in ("Softmax", "LogSoftmax"):
            return str(node.input[0])
    return logits


def _part(proto: ModelProto, source: str, logits: str) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(proto)
    del model.graph.value_info[:]
    _free_batch(next(value for value in model.graph.input if value.name == source))
    target = opset_of(model)
    try:
        if target not in OPSETS:
            model = onnx.version_converter.convert_version(model, OPSETS[-1])
        typed = onnx.shape_inference.infer_shapes(model)
        if logits not in {value.name for value in typed.graph.output}:
            typed.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
        for value in typed.graph.output:
            _free_batch(value)
        return Extractor(typed).extract_model([source], [logits])
    except (ValueError, KeyError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"expected a classifier from {source!r} to {logits!r}, got: {one_line(error)}") from None


def _free_batch(value: ValueInfoProto) -> None:
    axes = value.type.tensor_type.shape.dim
    if axes:
        axes[0].dim_param = "N"


def _as_network(part: ModelProto, images: _Images, logits: str, adoption: Adoption, channels: int) -> ModelProto:
    """Return the network with the input ``pixels``, the output ``logits`` and no other name that is not its own."""
    network = add_prefix(part, _PREFIX)
    graph = network.graph
    nodes, tensors = _preprocessing(adoption, channels, images.channels_last, target=_PREFIX + images.name)
    named = helper.make_node("Identity", [_PREFIX + logits], ["logits"])
    body = [*nodes, *graph.node, named]
    del graph.node[:], graph.input[:], graph.output[:], network.metadata_props[:]
    graph.node.extend(body)
    graph.initializer.extend(tensors)
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", channels, None, None]))
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    return network


def _preprocessing(
    adoption: Adoption, channels: int, channels_last: bool, *, target: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes from ``pixels`` to the network's input, and their constants."""
    nodes, tensors, current = [], [], "pixels"
    for operator, name, values, neutral in (("Sub", "mean", adoption.mean, 0.0), ("Div", "std", adoption.std, 1.0)):
        if len(values) not in (1, channels):
            raise UsageError(f"--{name}: expected 1 or {channels} numbers, got {len(values)}")
        if set(values) == {neutral}:
            continue
        tensors.append(numpy_helper.from_array(np.array(values, np.float32).reshape(1, -1, 1, 1), f"adopted_{name}"))
        nodes.append(helper.make_node(operator, [current, f"adopted_{name}"], [f"adopted_{operator.lower()}"]))
        current = f"adopted_{operator.lower()}"
    last = {"op_type": "Transpose", "perm": [0, 2, 3, 1]} if channels_last else {"op_type": "Identity"}
    return [*nodes, helper.make_node(inputs=[current], outputs=[target], **last)], tensors


def _golden(guard: ModelProto, dataset: Dataset) -> dict[str, object]:
    images = np.ascontiguousarray(dataset.test.images[:_CANDIDATES])
    session = create_session(guard.SerializeToString(), device="cpu")
    names = [output.name for output in session.get_outputs()]
    try:
        outputs = dict(zip(names, session.run(names, {"images": images}), strict=True))
    except Exception as error:  # ONNX Runtime has no common base class for what can go wrong
        raise ModelError(
            f"expected a classifier of any batch size, got: {one_line(error)}; export it with a symbolic batch axis"
        ) from None
    verdicts = Verdicts(**outputs, classes=dataset.classes)
    return choose_golden(images, verdicts, threshold=0.0).to_document()


def _dims(value: ValueInfoProto) -> tuple[int, ...]:
    """Return the sizes of a tensor's axes, 0 where one is symbolic or unknown."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
