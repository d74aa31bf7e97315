"""What a person would write: torchvision's ImageFolder, a DataLoader and the torch model; run by `scoring.py`.

Usage: scoring_peer.py FOLDER HEIGHT WIDTH CHANNELS PROCESSORS, in an environment with torch and torchvision.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(ROOT := Path(__file__).resolve().parent.parent))

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.torchvision_import import import_torchvision


class Oracle(nn.Module):
    """The network of Table 1 with two heads."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        """Make it with random weights."""
        super().__init__()
        layers: list[nn.Module] = []
        for filters in (32, 64, 128):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(filters, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = filters
        layers += [nn.Flatten(), nn.Linear(128 * (height // 8) * (width // 8), 512), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head, self.robust_head = nn.Linear(512, 10), nn.Linear(512, 10)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both heads' logits."""
        features = self.trunk(pixels)
        return self.head(features), self.robust_head(features)


def main(folder: str, height: int, width: int, channels: int, processors: int) -> None:
    """Score a folder and write one line an image, as a script would; its clock runs from the second batch on."""
    torch.set_num_threads(processors)
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    steps = [transforms.Resize((height, width)), transforms.ToTensor()]
    data = torchvision.datasets.ImageFolder(
        folder, transforms.Compose(steps if channels == 3 else [transforms.Grayscale(), *steps])
    )
    loader = DataLoader(data, batch_size=64, num_workers=processors)
    model = Oracle(height, width, channels).eval()
    rows = []
    started, first = 0.0, 0
    with torch.inference_mode():
        for pixels, _ in loader:
            if len(rows) and not started:  # the first batch is done: workers run, and are some batches ahead
                started, first = time.monotonic(), len(rows)
            logits, robust = model(pixels)
            sure = torch.softmax(logits, 1).amax(1) * torch.softmax(robust, 1).amax(1)
            rows += zip(logits.argmax(1).tolist(), robust.argmax(1).tolist(), sure.tolist(), strict=True)
    with open("/dev/null", "w") as out:
        for (path, _), row in zip(data.samples, rows, strict=True):
            out.write(f"{path},{row}\n")
    wall = time.monotonic() - started
    print(json.dumps({"images": len(rows) - first, "wall": wall, "cpu": 0.0}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
