"""The one place that imports onnxruntime: devices, threads and options of a session.

What really runs is read back from the session: ONNX Runtime lists CUDA as available on machines without a GPU and
falls back to the CPU without an error.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import onnxruntime

from runtime.cpus import usable_cpus
from runtime.errors import DeviceError, ModelError, UsageError, one_line
from runtime.records import Record

if TYPE_CHECKING:
    from pathlib import Path

InferenceSession: TypeAlias = onnxruntime.InferenceSession
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FATAL_ONLY = 4


class _Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that never goes on with other providers by itself, lets go of the file once it is parsed, and runs.

    Before 1.23 ONNX Runtime has no option for the first. It has none for the second: what it is given it holds while
    it builds the session, when memory peaks, although it works on its own copy. So it is given nothing, and finds the
    bytes in the attribute where it would have put them. Its own `run` checks in Python what `Guard` has checked.
    """

    _enable_fallback = property(lambda self: False, lambda self, wanted: None)
    _model_bytes = property(lambda self: self._take(), lambda self, given: None)

    def __init__(self, held: list[bytes], *args: Any, **options: Any) -> None:
        self._held = held
        super().__init__(b"", *args, **options)
        held.clear()  # what a second attempt would have taken
        self._names = [output.name for output in self.get_outputs()]

    def _take(self) -> bytes:
        if not self._held:
            raise ValueError(f"ONNX Runtime {onnxruntime.__version__} asks for the model twice, install an older one")
        return self._held.pop()

    def run(self, output_names: list[str] | None, input_feed: dict[str, Any], run_options: Any = None) -> list[Any]:
        """Run: without the checks of names and devices, which take a small network 2 % of its time."""
        return self._sess.run(output_names or self._names, input_feed, run_options)  # type: ignore[no-any-return]


class Device(Record):
    """A device that was asked for.

    Attributes:
        name: ``auto``, ``cpu`` or ``cuda``.
        gpu: Which GPU; 0 unless said otherwise.
    """

    name: str
    gpu: int = 0


def parse_device(text: str) -> Device:
    """Read ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: It is none of them.
    """
    name, colon, index = text.partition(":") if isinstance(text, str) else ("", "", "")
    numbered = name == "cuda" and index.isdecimal() and index.isascii() and len(index) <= 3
    if name not in ("auto", "cpu", "cuda") or (colon and not numbered):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {text!a:.80}")
    return Device(name=name, gpu=int(index or 0))


def providers_for(device: Device, available: Sequence[str]) -> list[str | tuple[str, dict[str, str]]]:
    """Return the execution providers to ask ONNX Runtime for.

    Args:
        device: What was asked for.
        available: What this build of ONNX Runtime lists, whether it starts or not.

    Raises:
        DeviceError: CUDA was asked for by name and this build has none.
    """
    if device.name == "cpu" or (device.name == "auto" and CUDA not in available):
        return [CPU]
    if CUDA not in available:
        raise DeviceError("device cuda: expected a build with CUDA, got one without; install cmt[gpu] or use cpu")
    return [(CUDA, {"device_id": str(device.gpu), "use_tf32": "0"}), CPU]


def running_device(device: Device, providers: Sequence[str]) -> str:
    """Return where a session really runs.

    Args:
        device: What was asked for.
        providers: What `session.get_providers()` says after creation.

    Returns:
        ``cpu`` or ``cuda:N``.

    Raises:
        DeviceError: CUDA was asked for by name and does not run.
    """
    if CUDA in providers and device.name != "cpu":
        return f"cuda:{device.gpu}"
    if device.name == "cuda":
        raise DeviceError(
            f"device cuda:{device.gpu}: expected it to start, got only {', '.join(providers) or 'none'}"
            "; `cmt doctor` names what is missing"
        )
    return "cpu"


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """Return the options every session of this project runs with.

    Chosen by measurement (``benchmarks/guard.py``, table in ``docs/guard.md``): the highest optimisation level is twice
    as fast as the next one; memory arena and pattern, on by default, help large batches.

    Args:
        threads: Threads inside one operator; None takes what affinity and control group allow.

    Raises:
        UsageError: `threads` is no whole number from 1 to 1024.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise UsageError(f"threads: expected a whole number from 1 to 1024, got {threads!a:.80}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def create_session(
    model: bytes, *, device: str = "auto", threads: int | None = None, options: onnxruntime.SessionOptions | None = None
) -> InferenceSession:
    """Start a session on bytes that were checked before; it never reads another file.

    Args:
        model: An ONNX file without external data. A caller who keeps no reference has its memory back before the
            session is built from it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads inside one operator; None takes what affinity and control group allow.
        options: Other options than `session_options(threads)`, for measurements.

    Raises:
        UsageError: `device` or `threads` is none of the above.
        DeviceError: CUDA was asked for by name and does not run.
        ModelError: ONNX Runtime refuses the file.
    """
    wanted = parse_device(device)
    options = options or session_options(threads)
    providers = providers_for(wanted, onnxruntime.get_available_providers())
    if len(providers) > 1:
        _preload_cuda()
    held = [model] * len(providers)  # one for each attempt
    del model
    try:
        session = _start(held, options, providers)
    except ModelError:
        if len(providers) == 1:
            raise
        session = _start(held, options, [CPU])
    running_device(wanted, session.get_providers())
    return session


def available_providers() -> list[str]:
    """Return the execution providers this build of ONNX Runtime lists, whether they start or not."""
    return list(onnxruntime.get_available_providers())


def try_provider(model: bytes, provider: str) -> str:
    """Start a session on one execution provider alone.

    Returns:
        Empty where it really runs there, else why not.
    """
    if provider == CUDA:
        _preload_cuda()
    try:
        session = _start([model], session_options(1), [provider])
    except ModelError as error:
        return one_line(error)
    active = session.get_providers()
    return "" if provider in active else f"it fell back to {', '.join(active)}"


def cuda_library() -> Path:
    """Return where ONNX Runtime keeps its CUDA provider; only builds with CUDA have it."""
    from pathlib import Path  # 4 ms on Python 3.13, for `cmt doctor` alone

    return Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"


def _start(
    held: list[bytes], options: onnxruntime.SessionOptions, providers: list[str | tuple[str, dict[str, str]]]
) -> InferenceSession:
    given = len(held)
    try:
        return _Session(held, options, providers=providers)
    except Exception as error:  # ONNX Runtime has no common base class, and bad bytes surface as many
        unread = f", but {onnxruntime.__version__} never asked for it" if len(held) == given else ""
        raise ModelError(f"expected a graph that ONNX Runtime loads{unread}, got: {one_line(error)}") from None


def _preload_cuda() -> None:
    """Find CUDA where pip puts it; what is missing shows when the session starts, so the printed advice is dropped."""
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload(directory="")
