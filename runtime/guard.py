"""The guard: load a trusted file once, then classify or reject as many images as you like."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from runtime.artifact import PathOrBytes, read_artifact
from runtime.consistency import check_answer, check_golden, golden_image
from runtime.errors import ModelError, UsageError, one_line
from runtime.session import InferenceSession, create_session, parse_device, running_device
from runtime.spec import GuardSpec
from runtime.verdicts import Verdicts

if TYPE_CHECKING:
    import threading

    from numpy.typing import NDArray

    from runtime.rows import Row

    Images: TypeAlias = NDArray[np.uint8]

BATCH = 32
LARGEST_BATCH = 65_536
UINT8 = np.dtype(np.uint8)
MASK = "mask"
"""What only masked arrays have; `numpy.ma` takes longer to import than a verdict."""

_left_behind: list[Any] = []
"""Sessions inherited through a fork: their threads live in the parent, so they are neither used nor destroyed here."""


class Guard:
    """A trusted classifier that knows when to say no.

    One guard may be used from many threads, pickled to other processes and inherited through a fork, where it starts
    a session of its own. It holds one session; `close` or a `with` block ends it.

    Attributes:
        spec: What the file says about itself.
        device: Where the session really runs, ``cpu`` or ``cuda:N``.
        digest: Digest of graph and metadata; names the model in verdict rows.
        sha256: SHA-256 of the file; pin it with ``Guard(path, sha256=...)``.
    """

    def __init__(
        self, model: PathOrBytes, *, device: str = "auto", sha256: str | None = None, threads: int | None = None
    ) -> None:
        """Read, check and start a guard file, and run its golden image.

        Args:
            model: Path of the file, or its bytes.
            device: ``auto`` (CUDA where it runs, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
            sha256: The SHA-256 the file must have; None pins nothing.
            threads: Threads inside one operator; None takes what CPU affinity and control group allow.

        Raises:
            UsageError: An argument is none of the above.
            ModelError: The file cannot be read, is not the pinned one, is no guard file or contradicts itself.
            StaleError: Its threshold was measured on another graph or precision.
            DeviceError: CUDA was asked for by name and does not run.
        """
        if not isinstance(model, str | os.PathLike | bytes):
            raise UsageError(f"model: expected a path or bytes, got {type(model).__name__}")
        parse_device(device)
        self._source: PathOrBytes = model if isinstance(model, bytes) else os.path.abspath(os.fsdecode(model))
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._locks: dict[int, threading.Lock] = {}
        self._closed = False
        self._session: InferenceSession | None = None
        self._open(sha256)

    def classify(self, images: Images) -> Verdicts:
        """Classify or reject images.

        Args:
            images: uint8 ``(N, H, W, C)`` with N >= 1, or one image ``(H, W, C)``; contiguous or not. Decoded pixels
                as `spec.input` describes them: scaling happens in the graph.

        Returns:
            N verdicts, one for a single image.

        Raises:
            UsageError: `images` is anything else, or the guard is closed.
            ModelError: ONNX Runtime stopped, or the graph answered what no guard may answer.
        """
        batch = self._batch(images)
        ours = self._pid == os.getpid()  # before the session: after a fork another thread may be opening one
        session = self._session
        if session is None or not ours:
            session = self._reopen()
        verdicts = self._run(session, batch)
        check_answer(verdicts, len(batch), self.spec, threshold=self._threshold)
        return verdicts

    def classify_files(self, paths: Iterable[str | os.PathLike[str]], *, batch: int = BATCH) -> list[Row]:
        """Decode image files, fit them to `spec.input` and classify or reject them, exactly as `cmt score` does.

        Args:
            paths: Image files. One that cannot be used does not stop the others.
            batch: Images run at once, in [1, 65,536]; every run is padded to it, so that no verdict depends on others.

        Returns:
            One row a path, in order; its `reason` says why it was not accepted.

        Raises:
            UsageError: `batch` is out of range, `spec.input` takes neither grey nor RGB images, or the guard is closed.
            ModelError: As for `classify`.
        """
        self._check_open()
        from runtime.rows import classify_files  # needs Pillow, which `classify` does not

        return list(classify_files(self, paths, batch=batch))

    def warmup(self, batch: int = 1) -> None:
        """Run once on black images, so that the first real call of this batch size pays for nothing else.

        Args:
            batch: Images to run at once, in [1, 65,536].

        Raises:
            UsageError: `batch` is below 1 or above 65,536, or the guard is closed.
        """
        check_batch(batch)
        self.classify(np.zeros((batch, *self.spec.input_shape), np.uint8))

    def close(self) -> None:
        """End the session; calls that are running finish, later ones raise UsageError. Closing twice is fine."""
        self._closed = True
        self._session = None

    def __enter__(self) -> Self:
        """Return the guard itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the guard."""
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as path (or bytes), options and the SHA-256 of what was loaded, which the copy insists on."""
        return _restore, (self._source, self.sha256, self._options)

    def __repr__(self) -> str:
        """Return the file, its rule and where it runs."""
        return f"<Guard {self._name}: {self.spec.rule}, {len(self.spec.classes)} classes, {self.device}>"

    @property
    def _name(self) -> str:
        return "model bytes" if isinstance(self._source, bytes) else ascii(self._source)

    def _batch(self, images: Images) -> Images:
        """Return `images` as one contiguous batch, or say exactly what is wrong with them."""
        if isinstance(images, np.ndarray) and images.dtype == UINT8 and not hasattr(images, MASK):
            shape = images.shape
            if shape[1:] == self._shape and shape[0]:
                return images if images.flags.c_contiguous else _contiguous(images)
            if shape == self._shape:
                return _contiguous(images[np.newaxis])
        height, width, channels = self._shape
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        got += " with a mask" if hasattr(images, MASK) else ""
        raise UsageError(
            f"images: expected uint8 (N, {height}, {width}, {channels}) with N >= 1, or ({height}, {width}, {channels})"
            f", got {got}; pass decoded pixels in 0..255, or use classify_files for files"
        )

    def _open(self, sha256: str | None) -> InferenceSession:
        """Load the file and start the session of this process."""
        held = [self._read(sha256)]
        try:
            session = create_session(held.pop(), device=self._options["device"], threads=self._options["threads"])
            self.device: str = running_device(parse_device(self._options["device"]), session.get_providers())
            check_golden(self._run(session, golden_image(self.spec)), self.spec)
        except ModelError as error:
            raise ModelError(f"{self._name}: {error}") from None
        self._session = session
        self._pid = os.getpid()  # after the session, which it vouches for
        if self._closed:  # by another thread meanwhile
            self._session = None
        return session

    def _read(self, sha256: str | None) -> bytes:
        """Check the file, note what it says of itself, and return its bytes, which nobody else holds then."""
        artifact = read_artifact(self._source, sha256=sha256)
        self.spec: GuardSpec = artifact.spec
        self.digest: str = artifact.spec.digest
        self.sha256: str = artifact.sha256
        self._shape = self.spec.input_shape
        self._threshold = self.spec.threshold32
        self._outputs = ["labels", "accepted", "confidence", "logits"]
        if self.spec.rule == "pair":
            self._outputs.append("robust_logits")
        return artifact.model

    def _reopen(self) -> InferenceSession:
        """Start a session in a forked child, from the same file as before."""
        import threading  # only forked children pay for it

        with self._locks.setdefault(os.getpid(), threading.Lock()):
            self._check_open()
            if self._session is not None and self._pid == os.getpid():
                return self._session
            _left_behind.append(self._session)
            return self._open(self.sha256)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self._name}: expected an open guard, got a closed one; make a new Guard")

    def _run(self, session: InferenceSession, batch: Images) -> Verdicts:
        try:
            outputs = session.run(self._outputs, {"images": batch})
        except Exception as error:  # ONNX Runtime has no common base class for what can go wrong
            raise ModelError(f"expected a run on {len(batch)} images, got: {one_line(error)}") from None
        return Verdicts(*outputs, classes=self.spec.classes)


def check_batch(batch: int) -> None:
    """Refuse what is no number of images to run at once.

    Raises:
        UsageError: It is no whole number in [1, 65,536].
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= LARGEST_BATCH:
        raise UsageError(f"batch: expected a whole number from 1 to {LARGEST_BATCH}, got {batch!a:.80}")


def _contiguous(images: Images) -> Images:
    try:
        return np.ascontiguousarray(images)
    except MemoryError:
        raise UsageError(f"images: expected a batch that fits into memory, got {len(images)}; pass fewer") from None


def _restore(source: PathOrBytes, sha256: str, options: dict[str, Any]) -> Guard:
    return Guard(source, sha256=sha256, **options)
