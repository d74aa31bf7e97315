"""Small real training runs that several modules share."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from calibration.datasets import Dataset, make_dataset
from cmt_export.checkpoint import Checkpoint, Execution, Schedule
from cmt_export.cli import main
from cmt_export.recipes import Cmt
from cmt_export.run import Run, start
from cmt_export.training import train

EXECUTION = Execution(device="cpu", precision="fp32", channels_last=True, threads=1)
CLASSMAP = (1, 2, 0)


def make_bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a bright bar: vertical, horizontal or diagonal, in noise."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 60, (n, 8, 8, 1))
    labels = np.arange(n) % 3
    for image, label, at in zip(images, labels, generator.integers(1, 7, n), strict=True):
        rows, columns = {0: (slice(None), at), 1: (at, slice(None)), 2: (np.arange(8), np.arange(8))}[int(label)]
        image[rows, columns, 0] += 180
    return images.astype(np.uint8), labels


@pytest.fixture(scope="session")
def bars() -> Dataset:
    return make_dataset("bars", ["vertical", "horizontal", "diagonal"], make_bars(384, 0), make_bars(96, 1))


def begin(bars: Dataset, **changes: object) -> Run:
    settings = {
        "recipe": Cmt(epsilon=0.2),
        "schedule": Schedule(epochs=2, batch_size=64, learning_rate=2e-3),
        "classmap": CLASSMAP,
        "execution": EXECUTION,
    }
    return start(bars, **(settings | changes))


@pytest.fixture(scope="session")
def checkpoint_path(bars: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    train(begin(bars, schedule=Schedule(epochs=20, batch_size=64, learning_rate=2e-3)), path)
    return path


@pytest.fixture
def checkpoint(checkpoint_path: Path) -> Checkpoint:
    return Checkpoint.load(checkpoint_path)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


RunCommand = Callable[..., Outcome]


@pytest.fixture
def cmt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run the command in this process, exactly as the entry point does."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cmt", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        signal.signal(signal.SIGTERM, handler)
        return Outcome(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMT_CACHE", str(tmp_path_factory.mktemp("cache")))
