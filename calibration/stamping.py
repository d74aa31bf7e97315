"""Writing the metadata of an exported file: one entry, its digest, and a threshold that is never stale.

Source: ``docs/file-format.md``. `runtime` reads what is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from runtime.artifact import read_artifact
from runtime.digests import digest, graph_digest
from runtime.errors import ModelError, UsageError
from runtime.spec import GuardSpec, canonical_json

METADATA_KEY = "cmt.guard"


def stamp(model: onnx.ModelProto, document: Mapping[str, Any]) -> bytes:
    """Return the file of a model with its metadata in it.

    Args:
        model: What `rules.assemble` returns; other metadata it carries is dropped.
        document: Every field of the format except ``digest``.

    Raises:
        ModelError: A field is missing, unknown or contradicts itself.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    graph = bare.SerializeToString(deterministic=True)
    complete = {**document, "digest": digest(graph, document)}
    text = canonical_json(complete)
    GuardSpec.from_json(text)
    metadata = onnx.ModelProto()
    metadata.metadata_props.add(key=METADATA_KEY, value=text)
    # Protobuf messages concatenate: the fields before the metadata keep the very bytes that were digested.
    file: bytes = graph + metadata.SerializeToString()
    return file


def set_threshold(
    model: bytes,
    threshold: float,
    *,
    data: str,
    images: int,
    acceptance: float,
    per_class: bool,
    reached: float,
    interval: tuple[float, float],
) -> bytes:
    """Return the file with another threshold and the record of how it was found.

    Args:
        model: A guard file, its old threshold stale or not.
        threshold: Smallest confidence to accept, in [0, 1]; rounded to float32.
        data: SHA-256 of the held-out benign images it was measured on.
        images: How many they were.
        acceptance: The share of correctly classified images that was asked for, in (0, 1).
        per_class: Whether for each class by itself.
        reached: The share that this threshold accepts.
        interval: Its exact 95 % interval.

    Raises:
        ModelError: `model` is no valid guard file.
        UsageError: The threshold is out of range.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold: expected a number in [0, 1], got {threshold}")
    spec = read_artifact(model, stale=True).spec
    proto = onnx.load_model_from_string(model)
    stored = np.float32(threshold)
    initializers = [tensor for tensor in proto.graph.initializer if tensor.name == "threshold"]
    if len(initializers) != 1:
        raise ModelError(f"expected one initializer 'threshold', got {len(initializers)}")
    initializers[0].raw_data = stored.tobytes()
    document = spec.to_document()
    document["threshold"] = float(stored)
    document["calibration"] = {
        "data": data,
        "images": images,
        "acceptance": acceptance,
        "per_class": per_class,
        "reached": reached,
        "interval": list(interval),
        "precision": spec.precision,
        "graph": graph_digest(proto.SerializeToString(deterministic=True)),
    }
    del document["digest"]
    return stamp(proto, document)
