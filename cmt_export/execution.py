"""Which arithmetic trains fastest on this processor: measured on the network itself, never guessed from a name."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from cmt_export.checkpoint import Execution
from cmt_export.recipes import Batch, Recipe
from runtime.cpus import usable_cpus
from runtime.errors import DeviceError, UsageError

_Placed = TypeVar("_Placed", Tensor, nn.Module)
_ROUNDS = 3
_PATIENCE = 20.0
"""Seconds after which no further round begins: a step of a recipe with many inner steps takes that long by itself."""
_WORTH_IT = 0.95  # a choice that changes the bits must win by more than the noise of the measurement


def resolve_device(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DeviceError: CUDA was asked for and does not run.
        UsageError: Another name.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: expected a GPU that PyTorch can use, got none; use --device cpu")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"--device: expected auto, cpu or cuda, got {name!r}")
    return name


def choose_execution(
    network: nn.Module,
    recipe: Recipe,
    batch: Batch,
    *,
    device: str = "auto",
    precision: str = "auto",
    memory_format: str = "auto",
    threads: int | None = None,
) -> Execution:
    """Time some training steps of each candidate and return the fastest.

    Two runs may choose differently, and then get other bits; one that names precision and memory format does not
    measure.

    Args:
        network: The network to train; a copy of it is used.
        recipe: The objective.
        batch: One batch, on the CPU.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16`` (autocast).
        memory_format: ``auto``, ``contiguous`` or ``channels-last``.
        threads: Of PyTorch on the CPU; all usable ones by default.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"--precision: expected auto, fp32 or bf16, got {precision!r}")
    if memory_format not in ("auto", "contiguous", "channels-last"):
        raise UsageError(f"--memory-format: expected auto, contiguous or channels-last, got {memory_format!r}")
    device, threads = resolve_device(device), threads or usable_cpus()
    candidates = [
        Execution(device=device, precision=kind, channels_last=channels_last, threads=threads)
        for kind in (("fp32", "bf16") if precision == "auto" else (precision,))
        for channels_last in ((False, True) if memory_format == "auto" else (memory_format == "channels-last",))
    ]
    if len(candidates) == 1:
        return candidates[0]
    with _kept_generator():
        trials = [_Trial(candidate, network, recipe, batch) for candidate in candidates]
        started = time.perf_counter()
        for rounds in range(_ROUNDS):
            if rounds and time.perf_counter() - started > _PATIENCE:
                break
            for trial in trials:
                trial.step()
    best = trials[0]
    for trial in trials[1:]:
        if trial.seconds < best.seconds * _WORTH_IT:
            best = trial
    return best.execution


class _Trial:
    """One candidate with its own copy of the network.

    Trials take turns, and each counts its best step, so that a busy moment of the machine decides nothing.
    """

    def __init__(self, execution: Execution, network: nn.Module, recipe: Recipe, batch: Batch) -> None:
        self.execution, self.seconds = execution, float("inf")
        self._network = place(copy.deepcopy(network), execution).train()
        self._recipe = recipe
        self._batch = replace(
            batch,
            pixels=place(batch.pixels, execution),
            labels=batch.labels.to(execution.device),
            classmap=None if batch.classmap is None else batch.classmap.to(execution.device),
            generator=torch.Generator(execution.device).manual_seed(0),
        )
        with running(execution):
            self._run()

    def step(self) -> None:
        """Time one forward and backward pass of the objective."""
        with running(self.execution):
            started = time.perf_counter()
            self._run()
            self.seconds = min(self.seconds, time.perf_counter() - started)

    def _run(self) -> None:
        with autocast(self.execution):
            loss = self._recipe.loss(self._network, self._batch)
        torch.autograd.backward(loss)
        if self.execution.device == "cuda":
            torch.cuda.synchronize()


@contextmanager
def _kept_generator() -> Iterator[None]:
    """Leave PyTorch's random state as it was: dropout in a trial must not change the weights that follow."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def place(value: _Placed, execution: Execution) -> _Placed:
    """Move a module or a batch of pixels to the device and memory format of `execution`."""
    memory_format = torch.channels_last if execution.channels_last else torch.contiguous_format
    return value.to(device=execution.device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def autocast(execution: Execution) -> torch.autocast:
    """Return the autocast context of `execution`; one that does nothing for float32."""
    return torch.autocast(execution.device, torch.bfloat16, enabled=execution.precision == "bf16")


@contextmanager
def running(execution: Execution) -> Iterator[None]:
    """Set PyTorch's threads, flush denormal numbers, and leave float32 on CUDA at float32: TF32 would change verdicts.

    Where the network is sure, gradients of its losses can be denormal, which many processors compute slowly.
    Threads inherit the mode, so it stays on.
    """
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(execution.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
