"""What a trunk has to do before anything is trained on it, tried on a few random images.

A trunk of a person's own may work in one mode, at one batch size or without gradients, and fail after an epoch in a
loss, in a checkpoint or in the attack of the parity gate.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cmt_export.own_code import explained
from runtime.errors import UsageError

_BATCHES = {"evaluation": (1, 3), "training": (2, 3)}
"""Batch sizes of each mode: a guard is asked about single images, batch normalisation is trained on two or more."""


def count_features(trunk: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return F of a trunk that maps pixels ``(N, C, H, W)`` to features ``(N, F)``.

    A copy is tried, so that statistics of batch normalisation and PyTorch's random state stay as they are.

    Args:
        trunk: What a factory returned.
        input_shape: ``(C, H, W)``.

    Raises:
        UsageError: It is no module, fails, gives anything but float32 ``(N, F)`` with one F in both modes and at every
            batch size, changes its input, does not differentiate to the pixels, or has a state that no file can keep.
    """
    if not isinstance(trunk, nn.Module):
        raise UsageError(f"trunk: expected the factory to return a torch.nn.Module, got {type(trunk).__name__}")
    with _one_thread():
        features = _first_look(trunk, input_shape)
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            _try_copy(trunk, input_shape, features)
    return features


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute without helpers, which cost a busy machine far more time than a few images take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _first_look(trunk: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return F as the trunk itself shows it: a lazy layer gets its weights here."""
    training = trunk.training
    with explained(f"trunk: expected it to take pixels {_batch(input_shape)}"):
        trunk.eval()
        with torch.no_grad():
            features = trunk(torch.zeros(2, *input_shape))
        trunk.train(training)
    return _width(features, 2, input_shape, "evaluation")


def _try_copy(trunk: nn.Module, input_shape: tuple[int, int, int], features: int) -> None:
    with explained("trunk: expected a module that copy.deepcopy can copy"):
        copied = copy.deepcopy(trunk)
    for mode, sizes in _BATCHES.items():
        copied.train(mode == "training")
        for size in sizes:
            _check_gradient(copied, torch.rand(size, *input_shape), features, mode)
    _check_state(copied)


def _check_gradient(trunk: nn.Module, pixels: Tensor, expected: int, mode: str) -> None:
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    given = pixels.clone()
    wanted = f"pixels {_batch(shape)} that need a gradient, N = {len(pixels)}, in {mode} mode"
    with explained(f"trunk: expected it to take {wanted}"):
        features = trunk(pixels.requires_grad_())
    width = _width(features, len(pixels), shape, mode)
    if width != expected:
        raise UsageError(
            f"trunk: expected {expected} features as of the first images, got {width} for N = {len(pixels)} in {mode} "
            "mode; give every image as many, in both modes"
        )
    if not torch.equal(pixels, given):
        raise UsageError(f"trunk: expected its pixels unchanged, got them changed in place in {mode} mode; copy them")
    _differentiate(features, pixels, mode)


def _width(features: Any, size: int, shape: tuple[int, int, int], mode: str) -> int:
    """Return F of features, which are of a person's own code and may be anything."""
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != size or not features.shape[1]:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UsageError(
            f"trunk: expected features (N, F) for pixels {_batch(shape)}, got {got} for N = {size} in {mode} mode; "
            "keep the first axis and flatten the others"
        )
    if features.dtype != torch.float32:
        got = str(features.dtype).removeprefix("torch.")
        raise UsageError(f"trunk: expected float32 features, got {got} in {mode} mode; keep the dtype of the pixels")
    return int(features.shape[1])


def _differentiate(features: Tensor, pixels: Tensor, mode: str) -> None:
    gradient = None
    if features.requires_grad:
        with explained(f"trunk: expected features that can be differentiated in {mode} mode"):
            (gradient,) = torch.autograd.grad(features.sum(), pixels, allow_unused=True)
    if gradient is None:
        raise UsageError(
            f"trunk: expected features with a gradient to the pixels, got none in {mode} mode; compute them by torch "
            "alone, without detach, no_grad or numpy"
        )


def _check_state(trunk: nn.Module) -> None:
    with explained("trunk: expected a state_dict of tensors that can be saved and loaded"):
        state = trunk.state_dict()
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is a {type(value).__name__}; keep it in a buffer, or out of the state")
        file = io.BytesIO()
        torch.save(dict(state), file)
        file.seek(0)
        trunk.load_state_dict(torch.load(file, weights_only=True))


def _batch(shape: tuple[int, int, int]) -> str:
    return f"(N, {', '.join(map(str, shape))})"
