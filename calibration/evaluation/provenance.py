"""What a result has to carry so that it can be repeated: the file, the images, the machine, every hyper-parameter."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.datasets import Dataset
from calibration.evaluation.victims import Opened
from calibration.results.image_columns import pack_labels
from calibration.results.records import DataRecord, Environment, ModelRecord
from runtime.cpus import usable_cpus


def model_record(opened: Opened) -> ModelRecord:
    """Return the record of a checked file."""
    artifact = opened.artifact
    document = artifact.spec.to_document()
    shared = {field.name: document[field.name] for field in dataclasses.fields(ModelRecord) if field.name in document}
    shared["classes"] = artifact.spec.classes
    shared["classmap"] = artifact.spec.classmap
    return ModelRecord(file=opened.file, sha256=opened.sha256, graph=artifact.graph, **shared)


def data_record(dataset: Dataset, sample: npt.NDArray[np.int64], *, seed: int, eight_bit: bool) -> DataRecord:
    """Return the record of a sample of the test split."""
    return DataRecord(
        name=dataset.name,
        split="test",
        digest=dataset.test.digest,
        images=len(dataset.test),
        sample=tuple(sample.tolist()),
        seed=seed,
        eight_bit=eight_bit,
        labels=pack_labels(dataset.test.labels[sample]),
    )


def environment(*, device: str, threads: int | None) -> Environment:
    """Return versions and machine.

    Args:
        device: Where the file really runs.
        threads: What was asked for; None is what the process may use.
    """
    return Environment(
        cmt=version("cmt"),
        python=platform.python_version(),
        numpy=np.__version__,
        onnxruntime=_version("onnxruntime", "onnxruntime-gpu"),
        onnx=version("onnx"),
        system=f"{platform.system()} {platform.machine()}",
        device=device,
        threads=threads or usable_cpus(),
    )


def parameters(config: Any) -> dict[str, Any]:
    """Return every field of an attack's configuration as plain JSON values; a nested one gets its type as ``name``."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {"name": type(value).__name__, **parameters(value)}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"
