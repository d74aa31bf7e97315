"""What a checkpoint's document has to hold, and where its parts have to agree, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runtime.spec import is_text

_PROGRESS = {"epoch": int, "step": int, "loss_sum": Tensor, "optimizer": dict, "schedule": dict, "generator": Tensor}
_FACTS = {"name": str, "train": str, "images": int, "test": str}


def check_document(document: Mapping[str, Any]) -> None:
    """Raise where a part is of another form than `Checkpoint` says, or contradicts another one.

    Args:
        document: What the file holds, of a known format and version.

    Raises:
        KeyError: A part is missing.
        TypeError: A part is of another type.
        ValueError: A part has another form, or is out of range.
    """
    _expect(is_text(document["trunk"]), "trunk as a line of text", document["trunk"])
    _check_classes(document["classes"], document["classmap"])
    shape = document["input_shape"]
    _expect(_are_ints(shape, low=1) and len(shape) == 3, "input_shape of three whole numbers from 1", shape)
    _check_types("data", document["data"], _FACTS)
    _expect(is_text(document["data"]["train"]), "data.train as a line of text", document["data"]["train"])
    _check_execution(document["execution"])
    _check_schedule(document["schedule"])
    _check_weights(document["weights"])
    _check_probes(document["probe_images"], document["probe_labels"], shape, len(document["classes"]))
    _check_progress(document["progress"], document["history"], document["schedule"]["epochs"])


def _check_execution(execution: Any) -> None:
    _check_types("execution", execution, {"device": str, "precision": str, "channels_last": bool, "threads": int})
    _expect(execution["device"] in ("cpu", "cuda"), "execution.device cpu or cuda", execution["device"])
    _expect(execution["precision"] in ("fp32", "bf16"), "execution.precision fp32 or bf16", execution["precision"])
    _expect(execution["threads"] >= 1, "execution.threads from 1", execution["threads"])


def _check_schedule(schedule: Any) -> None:
    _check_types("schedule", schedule, {"epochs": int, "batch_size": int, "learning_rate": (int, float), "seed": int})
    for key, value in schedule.items():
        _expect(type(value) in (int, float, bool), f"schedule.{key} as a number", value)


def _check_classes(classes: Any, classmap: Any) -> None:
    valid = type(classes) is list and len(classes) >= 2 and all(map(is_text, classes))
    _expect(valid and len(set(classes)) == len(classes), "classes of at least two distinct lines of text", classes)
    if classmap is not None:
        fits = _are_ints(classmap, low=0) and len(classmap) == len(classes)
        another = fits and all(partner < len(classes) and partner != y for y, partner in enumerate(classmap))
        _expect(another, f"classmap of another one of {len(classes)} labels for each", classmap)


def _check_weights(weights: Any) -> None:
    _expect(isinstance(weights, dict), "weights as a dict", weights)
    for key, value in weights.items():
        _expect(isinstance(key, str) and isinstance(value, Tensor), "weights of tensors by their names", key)


def _check_probes(images: Any, labels: Any, shape: list[int], classes: int) -> None:
    channels, height, width = shape
    wanted = f"probe_images uint8 (N, {height}, {width}, {channels}), N from 1"
    _expect(_is_array(images, torch.uint8) and len(images.shape) == 4, wanted, images)
    _expect(len(images) > 0 and list(images.shape[1:]) == [height, width, channels], wanted, images)
    wanted = f"probe_labels int64 ({len(images)},) in [0, {classes})"
    _expect(_is_array(labels, torch.int64) and labels.shape == images.shape[:1], wanted, labels)
    _expect(int(labels.min()) >= 0 and int(labels.max()) < classes, wanted, f"{int(labels.min())}..{int(labels.max())}")


def _check_progress(progress: Any, history: Any, epochs: Any) -> None:
    _expect(isinstance(progress, dict), "progress as a dict", progress)
    done = epochs
    if progress:
        _check_types("progress", progress, _PROGRESS)
        done = progress["epoch"]
        _expect(0 <= done < epochs, f"progress.epoch in [0, {epochs})", done)
        _expect(progress["step"] >= 0, "progress.step from 0", progress["step"])
        _expect(progress["loss_sum"].shape == (), "progress.loss_sum as one number", progress["loss_sum"])
        _expect(_is_array(progress["generator"], torch.uint8), "progress.generator as uint8", progress["generator"])
    _expect(type(history) is list and len(history) == done, f"history of the {done} epochs done", history)
    for record in history:
        valid = isinstance(record, dict) and all(type(value) in (int, float) for value in record.values())
        _expect(valid, "history of numbers by their names", record)


def _check_types(name: str, record: Any, types: Mapping[str, type | tuple[type, ...]]) -> None:
    """Check the types of the entries a record must have; it may have others."""
    _expect(isinstance(record, dict), f"{name} as a dict", record)
    for key, kind in types.items():
        value = record[key]
        valid = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        _expect(valid, f"{name}.{key} as {wanted}", value)


def _are_ints(value: Any, *, low: int) -> bool:
    return type(value) is list and all(type(each) is int and each >= low for each in value)


def _is_array(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype and value.layout == torch.strided


def _expect(condition: bool, expected: str, got: Any) -> None:
    if not condition:
        shown = f"{got.dtype} {tuple(got.shape)}" if isinstance(got, Tensor) else ascii(got)
        raise ValueError(f"expected {expected}, got {shown[:80]}")
