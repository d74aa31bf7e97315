"""Seconds per epoch of `cmt train` against a plain float32 PyTorch loop of the same objective, in one run, as a ratio.

    python benchmarks/training.py [--data mnist/] [--images 8192] [--rounds 3] [--json FILE]

Both train the Table 1 oracle trunk with two heads and a trained lock. The plain loop is what a person would write from
the paper: contiguous float32, one forward pass for FGS, one for each term. Rounds alternate; medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from calibration.datasets import Dataset, Split, load_dataset, make_dataset
from cmt_export.checkpoint import Schedule
from cmt_export.networks import build_network, oracle_trunk
from cmt_export.recipes import Cmt
from cmt_export.run import start
from cmt_export.training import train
from runtime.cpus import usable_cpus

CLASSMAP = (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
BATCH = 128


def plain_epoch(network: torch.nn.Module, optimizer: torch.optim.Optimizer, split: Split) -> float:
    """Train one epoch the straightforward way and return its seconds."""
    classmap = torch.tensor(CLASSMAP)
    started = time.perf_counter()
    for rows in torch.randperm(len(split)).split(BATCH):
        x = torch.from_numpy(split.images[rows.numpy()]).permute(0, 3, 1, 2).float().contiguous() / 255
        y = torch.from_numpy(split.labels[rows.numpy()])
        probe = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(probe).logits, y), probe)
        attacked = (x + torch.rand(()) * 0.3 * gradient.sign()).clamp(0, 1)
        clean, adversarial = network(x), network(attacked)
        partner = classmap[y]
        leave = -torch.log1p(-F.softmax(adversarial.robust_logits, 1).gather(1, partner[:, None])).mean()
        loss = (
            0.4 * F.cross_entropy(clean.logits, y)
            + 0.4 * F.cross_entropy(adversarial.logits, y)
            + 0.2 * 0.5 * (F.cross_entropy(clean.robust_logits, partner) + leave)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def our_epoch(data: Dataset, execution: object, folder: Path) -> float:
    """Train one epoch as `cmt train` does, evaluation and checkpoint left out as in the plain loop."""
    run = start(
        data, recipe=Cmt(), schedule=Schedule(epochs=1, batch_size=BATCH), classmap=CLASSMAP, execution=execution
    )
    marks = []
    train(run, folder / "model.pt", on_step=lambda step: marks.append(time.perf_counter()) if not step.record else None)
    steps = np.diff(marks)
    return float(steps.sum() / len(steps) * (len(steps) + 1))


def _random_data(images: int) -> Dataset:
    generator = np.random.default_rng(0)

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.integers(0, 256, (n, 28, 28, 1)).astype(np.uint8), np.arange(n) % 10

    return make_dataset("random", map(str, range(10)), split(images), split(256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="A data set; by default random images of MNIST's shape, which cost the same.")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = _random_data(arguments.images)
    if arguments.data:
        loaded = load_dataset(arguments.data)
        rows = loaded.train.sample(arguments.images)
        train_split = (np.ascontiguousarray(loaded.train.images[rows]), loaded.train.labels[rows])
        data = make_dataset(
            loaded.name, loaded.classes, train_split, (loaded.test.images[:256], loaded.test.labels[:256])
        )
    torch.set_num_threads(usable_cpus())

    chosen = start(data, recipe=Cmt(), schedule=Schedule(epochs=1, batch_size=BATCH), classmap=CLASSMAP)
    execution = chosen.checkpoint.execution
    height, width, channels = data.input_shape
    network = build_network(
        oracle_trunk, input_shape=(channels, height, width), classes=10, dual=True, lock="trained"
    ).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            plain.append(plain_epoch(network, optimizer, data.train))
            ours.append(our_epoch(data, execution, Path(folder)))
    result = {
        "images": len(data.train),
        "execution": vars(execution),
        "plain_seconds": statistics.median(plain),
        "cmt_seconds": statistics.median(ours),
        "ratio": statistics.median(o / p for o, p in zip(ours, plain, strict=True)),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
