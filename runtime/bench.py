"""What a guard costs over the bare ONNX Runtime session of the same file, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.artifact import PathOrBytes, read_artifact
from runtime.guard import Guard
from runtime.session import InferenceSession, create_session

BATCHES = (1, 16, 256)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One batch size.

    Attributes:
        batch: Images per call.
        bare: Median seconds of `InferenceSession.run`, all outputs.
        guard: Median seconds of `Guard.classify`.
        ratio: Median of guard / bare over the pairs; 1 costs nothing.
    """

    batch: int
    bare: float
    guard: float
    ratio: float


def compare(
    model: PathOrBytes, *, device: str = "auto", threads: int | None = None, seconds: float = 2.0
) -> list[Cost]:
    """Time `Guard.classify` against the bare session, one after the other in turn.

    Args:
        model: A guard file, or its bytes.
        device: As for `Guard`; both run on it.
        threads: As for `Guard`; both use as many.
        seconds: Roughly how long to measure each batch size.

    Raises:
        UsageError: As for `Guard`.
        ModelError: As for `Guard`.
        DeviceError: As for `Guard`.
    """
    session = create_session(read_artifact(model).model, device=device, threads=threads)
    with Guard(model, device=device, threads=threads) as guard:
        return [_compare(session, guard, batch, seconds) for batch in BATCHES]


def _compare(session: InferenceSession, guard: Guard, batch: int, seconds: float) -> Cost:
    images = np.random.default_rng(0).integers(0, 256, (batch, *guard.spec.input_shape), np.uint8)
    feed = {"images": images}
    bare, ours = interleave(
        lambda: InferenceSession.run(session, None, feed),  # as ONNX Runtime has it, which a guard's session shortens
        lambda: guard.classify(images),
        seconds=seconds,
    )
    ratio = statistics.median(b / a for a, b in zip(bare, ours, strict=True))
    return Cost(batch=batch, bare=statistics.median(bare), guard=statistics.median(ours), ratio=ratio)


def interleave(
    first: Callable[[], object], second: Callable[[], object], *, seconds: float, least: int = 7
) -> tuple[list[float], list[float]]:
    """Time two functions in turn, so that what slows the machine down slows both.

    The order changes with every pair, as the one that runs second finds the caches filled.

    Args:
        first: One function.
        second: The other one.
        seconds: Roughly how long to go on.
        least: Pairs to take in any case.

    Returns:
        Seconds per call of the first and of the second, pair by pair.
    """
    times: tuple[list[float], list[float]] = [], []
    for function in (first, second):
        function()
    stop = time.perf_counter() + seconds
    while len(times[0]) < least or time.perf_counter() < stop:
        order = (0, 1) if len(times[0]) % 2 else (1, 0)
        for index in order:
            start = time.perf_counter()
            (first, second)[index]()
            times[index].append(time.perf_counter() - start)
    return times
