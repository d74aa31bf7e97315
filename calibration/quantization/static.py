"""Static INT8: the same guard in a quarter of the bytes, which has to decide the same, and a threshold of its own.

Only the network is quantised (QuantizeLinear and DequantizeLinear around it, weights int8 per channel, activations
uint8); scaling before it and the rule behind it stay as they were, node for node. How ranges are chosen and what stays
in float is tried out: the choice whose verdicts agree with the float file's most often wins.

Source: Jacob et al. 2018 (integer-arithmetic-only inference), section 3, for what ONNX Runtime's quantiser does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from calibration.datasets import Dataset, Split
from calibration.golden import choose_golden, with_golden
from calibration.judge import Judge
from calibration.metrics import Interval, share
from calibration.quantization.layout import fuse_friendly, reshape_grey
from calibration.quantization.nodes import cut_network, float_choices, put_network
from calibration.quantization.ranges import METHODS, Method, measure_ranges, quiet
from calibration.stamping import stamp
from calibration.thresholds import CalibrationConfig, calibrate, held_out_images
from runtime.artifact import Artifact, read_artifact
from runtime.errors import GateFailed, UsageError
from runtime.spec import GuardSpec
from runtime.verdicts import Verdicts

PRECISION = "int8"
"""What the metadata of a quantised file says."""

_COMPARED = 2000
"""Held-out images that the choices are compared on, at most."""

_OPERATORS = sorted({*QDQRegistry, *QLinearOpsRegistry})

Stage = Callable[[str], Callable[[int, int], None]]
"""Announces a piece of work by name and returns what to tell of ``(done, total)``."""


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """How a file is quantised.

    Attributes:
        images: Training images that ranges are measured on, at least 1; all of them where there are fewer.
        n: Size of the attack's sample of test images, at least 1: they judge the finished file; the choices are
            compared, and the threshold is set, on the others.
        seed: What both samples are drawn with, at least 0.

    Raises:
        UsageError: A value is out of range.
    """

    images: int = 512
    n: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for option, value, least in (("--images", self.images, 1), ("-n", self.n, 1), ("--seed", self.seed, 0)):
            if value < least:
                raise UsageError(f"{option}: expected {least} or more, got {value}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice, and how often it decides as the float file does.

    Attributes:
        method: How ranges were chosen, a key of `METHODS`.
        floats: What stayed in float, see `float_choices`.
        float_nodes: How many nodes that were; decides between equals, for rounded logits saturate, and then neither
            their gradient nor their confidence says anything.
        agreement: Share of held-out images with the same label and the same acceptance, with its exact 95 % interval.
        confidence_gap: Mean absolute difference of the confidences, in [0, 1]; decides where that is equal too.
    """

    method: Method
    floats: str
    float_nodes: int
    agreement: Interval
    confidence_gap: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """A quantised file.

    Attributes:
        model: The file.
        trials: What was tried, the chosen one first.
        compared: How many held-out images they were compared on.
        bytes: Sizes of the float file and of this one.
        threshold: Smallest accepted confidence of the float file and of this one.
    """

    model: bytes
    trials: tuple[Trial, ...]
    compared: int
    bytes: tuple[int, int]
    threshold: tuple[float, float]

    @property
    def chosen(self) -> Trial:
        """The trial that the file is."""
        return self.trials[0]


def quantize(
    guard: str | os.PathLike[str] | bytes,
    dataset: Dataset,
    config: QuantizationConfig,
    *,
    threads: int | None = None,
    stage: Stage = lambda what: lambda done, total: None,
) -> Quantized:
    """Quantise a guard file to INT8, choose how by its verdicts, and set its threshold anew.

    The threshold is set for the acceptance on record, with a record of its own; a file without one keeps threshold 0.

    Args:
        guard: A float32 guard file; it is not changed.
        dataset: Ranges come from its training images, everything else from its test images.
        config: How.
        threads: As for `Guard`.
        stage: Announces each piece of work.

    Raises:
        UsageError: The file is no float32 file, the data does not fit it, or too few test images are left.
        GateFailed: The acceptance on record can no longer be reached.
        ModelError: The file is invalid, or ONNX Runtime cannot quantise it.
    """
    artifact = read_artifact(guard)
    _check_fits(artifact.spec, dataset, owner="the file" if isinstance(guard, bytes) else os.fspath(guard))
    held_out = held_out_images(dataset, n=config.n, seed=config.seed)
    rows = held_out.sample(_COMPARED, seed=config.seed)
    images = np.ascontiguousarray(held_out.images[rows])
    before = _verdicts(artifact, images, threads)
    found = []
    for candidate in _candidates(artifact, dataset.train, config, threads, stage):
        file = _stamped(candidate.guard, artifact.spec, {})
        after = _verdicts(read_artifact(file, stale=True), images, threads)
        trial = Trial(
            method=candidate.method,
            floats=candidate.floats,
            float_nodes=len(candidate.nodes),
            agreement=agreement(before, after),
            confidence_gap=float(np.abs(before.confidence.astype(np.float64) - after.confidence).mean()),
        )
        found.append((trial, candidate.guard))
    found.sort(key=lambda pair: (-pair[0].agreement.value, -pair[0].float_nodes, pair[0].confidence_gap))
    trials = tuple(trial for trial, _ in found)
    record = {**asdict(config), "from": artifact.spec.digest, "method": trials[0].method, "float": trials[0].floats}
    model = _finished(_stamped(found[0][1], artifact.spec, record), held_out, dataset, config, threads, stage)
    return Quantized(
        model=model,
        trials=trials,
        compared=len(images),
        bytes=(len(artifact.model), len(model)),
        threshold=(artifact.spec.threshold, read_artifact(model).spec.threshold),
    )


def _check_fits(spec: GuardSpec, dataset: Dataset, *, owner: str) -> None:
    if spec.precision != "fp32":
        raise UsageError(f"{owner}: expected a file in fp32, got {spec.precision}; quantise the one it was made from")
    dataset.require_classes(spec.classes, owner=owner)
    dataset.require_shape(spec.input_shape, owner=owner)


class _Candidate(NamedTuple):
    """One choice, and the guard it makes, without metadata."""

    method: Method
    floats: str
    nodes: tuple[str, ...]
    guard: ModelProto


def _candidates(
    artifact: Artifact, train: Split, config: QuantizationConfig, threads: int | None, stage: Stage
) -> Iterator[_Candidate]:
    model = onnx.load_model_from_string(artifact.model)
    network = cut_network(model)
    prepared = fuse_friendly(network)
    images = train.images[train.sample(config.images, seed=config.seed)]
    choices = float_choices(network)
    for method in METHODS:
        ranges = measure_ranges(
            prepared, images, method, threads=threads, report=stage(f"quantising, ranges by {method}")
        )
        for floats, nodes in choices.items():
            quantised = put_network(model, _quantised(prepared, ranges, nodes), instead_of=network)
            reshape_grey(quantised)
            yield _Candidate(method, floats, nodes, quantised)


def _quantised(network: ModelProto, ranges: Any, floats: tuple[str, ...]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(network)
    with quiet():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(floats),
            op_types_to_quantize=_OPERATORS,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return cast(ModelProto, quantizer.model.model)


def _stamped(model: ModelProto, spec: GuardSpec, record: dict[str, Any]) -> bytes:
    """Return the file of a quantised guard; golden image and threshold are still the float file's, and stale."""
    document = spec.to_document()
    document["precision"] = PRECISION
    document["recipe"] = {**document["recipe"], "quantization": record}
    del document["digest"]
    return stamp(model, document)


def _verdicts(artifact: Artifact, images: npt.NDArray[np.uint8], threads: int | None) -> Verdicts:
    return Judge(artifact, source="images", device="cpu", threads=threads).verdicts(images)


def agreement(before: Verdicts, after: Verdicts) -> Interval:
    """Return the share of images with the same label and the same acceptance, with its exact 95 % interval."""
    same = (before.labels == after.labels) & (before.accepted == after.accepted)
    return share(int(same.sum()), len(same))


def _finished(
    model: bytes, held_out: Split, dataset: Dataset, config: QuantizationConfig, threads: int | None, stage: Stage
) -> bytes:
    """Return the file with a golden image of its own, and where it has a threshold, with that set anew."""
    artifact = read_artifact(model, stale=True)
    record = artifact.spec.calibration
    if record is None:
        verdicts = _verdicts(artifact, held_out.images, threads)
        return with_golden(model, choose_golden(held_out.images, verdicts, threshold=0.0))
    again = CalibrationConfig(acceptance=record.acceptance, per_class=record.per_class, n=config.n, seed=config.seed)
    report = stage("setting the threshold")
    try:
        return calibrate(model, dataset, again, device="cpu", threads=threads, progress=report).model
    except UsageError as error:
        raise GateFailed(
            f"quantize: expected to reach the acceptance {record.acceptance} on record in INT8, got: {error}"
        ) from None
