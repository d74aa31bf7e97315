"""Between which values every tensor of a network moves, measured by ONNX Runtime's own calibrators.

They write temporary files, print, and by themselves keep every activation of every image. Here the files lie in a
folder that goes away, nothing is printed, and one batch is kept at a time.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from calibration.pixels import to_pixels
from runtime.errors import CmtError, ModelError, one_line
from runtime.session import create_session

ByteArray = npt.NDArray[np.uint8]

Method = Literal["minmax", "entropy", "percentile"]

METHODS: dict[Method, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
"""How a range is chosen: all values seen; the cut that loses least information; all but a hundred-thousandth."""

_VALUES_AT_ONCE = 1 << 19
"""Pixels of a batch: a network's activations take some hundred times as much memory."""

_LARGEST_BATCH = 64


class _Batch(CalibrationDataReader):  # type: ignore[misc]
    """Hands one batch to a calibrator, once."""

    def __init__(self, images: ByteArray) -> None:
        self._feeds = [{"pixels": to_pixels(images)}]

    def get_next(self) -> dict[str, Any]:
        """Return the batch, then nothing."""
        return self._feeds.pop() if self._feeds else {}


def measure_ranges(
    network: ModelProto,
    images: ByteArray,
    method: Method,
    *,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Any:
    """Return what ONNX Runtime calls ``TensorsData``: the range of every float tensor on some images.

    Args:
        network: Float32 network with the one input ``pixels`` ``(N, C, H, W)``.
        images: uint8 ``(N, H, W, C)``, N at least 1.
        method: A key of `METHODS`.
        threads: As for `Guard`.
        report: Told of ``(done, total)`` images.

    Raises:
        ModelError: ONNX Runtime cannot run or measure the network.
    """
    size = max(1, min(_LARGEST_BATCH, _VALUES_AT_ONCE // images[0].size))
    with tempfile.TemporaryDirectory(prefix="cmt-ranges-") as folder, quiet():
        path, augmented = Path(folder) / "network.onnx", Path(folder) / "augmented.onnx"
        onnx.save(network, path)
        calibrator = create_calibrator(
            path,
            augmented_model_path=str(augmented),
            calibrate_method=METHODS[method],
            extra_options={"symmetric": False},  # percentiles are symmetric by default: half of uint8 behind a ReLU
        )
        calibrator.infer_session = create_session(augmented.read_bytes(), device="cpu", threads=threads)
        for start in range(0, len(images), size):
            calibrator.collect_data(_Batch(np.ascontiguousarray(images[start : start + size])))
            report(min(start + size, len(images)), len(images))
        return calibrator.compute_data()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's quantiser prints and logs off the terminal; turn what it raises into `ModelError`."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (CmtError, MemoryError):
        raise
    except Exception as error:  # neither ONNX Runtime nor its quantiser has a common base class for what can go wrong
        raise ModelError(f"expected a network that ONNX Runtime can quantise, got: {one_line(error)}") from error
    finally:
        logging.disable(level)
