"""The networks of Table 1, and one or two heads on any trunk.

A *trunk* is a `torch.nn.Module` that maps pixels ``(N, C, H, W)`` to features ``(N, F)``: everything up to and
including the last hidden layer. A trunk factory takes the input shape ``(C, H, W)`` and returns a fresh trunk:

```python
def my_trunk(input_shape: tuple[int, int, int]) -> torch.nn.Module: ...
```
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cmt_export.lock import Lock, build_lock
from cmt_export.own_code import explained
from cmt_export.probing import count_features
from runtime.errors import UsageError, one_line

Shape = tuple[int, int, int]
TrunkFactory = Callable[[Shape], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What a network returns.

    Attributes:
        logits: Z*, or Z of a network without a lock, ``(N, K)``.
        robust_logits: Z', ``(N, K)``; None for a single head.
        unlocked_logits: Z before the lock, ``(N, K)``; None without a lock.
        anomalies: What each of D detectors reads as a share of its limit, ``(N, D)``, at least 0: above 1 it rejects;
            None without detectors.
    """

    logits: Tensor
    robust_logits: Tensor | None = None
    unlocked_logits: Tensor | None = None
    anomalies: Tensor | None = None


class SingleHead(nn.Module):
    """A trunk and one head."""

    def __init__(self, trunk: nn.Module, *, features: int, classes: int) -> None:
        """Put a head of `classes` logits on a trunk of `features`."""
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(features, classes)

    def forward(self, pixels: Tensor) -> Logits:
        """Classify pixels, float32 ``(N, C, H, W)`` in [0, 1]."""
        return Logits(logits=self.head(self.trunk(pixels)))


class DualHead(nn.Module):
    """Two heads on one trunk, joined by the gradient lock (paper §3.3)."""

    def __init__(self, trunk: nn.Module, *, features: int, classes: int, lock: Lock, lock_width: int) -> None:
        """Put both heads of `classes` logits on a trunk of `features`; `lock_width` is the width of g."""
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(features, classes)
        self.robust_head = nn.Linear(features, classes)
        self.lock = build_lock(lock, classes, width=lock_width)

    def forward(self, pixels: Tensor) -> Logits:
        """Classify pixels, float32 ``(N, C, H, W)`` in [0, 1]."""
        features = self.trunk(pixels)
        unlocked, robust = self.head(features), self.robust_head(features)
        if self.lock is None:
            return Logits(logits=unlocked, robust_logits=robust)
        return Logits(logits=self.lock(unlocked, robust), robust_logits=robust, unlocked_logits=unlocked)


def oracle_trunk(input_shape: Shape, *, dropout: float = 0.2) -> nn.Module:
    """Build the oracle of Table 1 up to its last hidden layer: six 3×3 convolutions, then 512 units.

    Args:
        input_shape: ``(C, H, W)``.
        dropout: After every pair of convolutions and after the hidden layer.
    """
    return _table1(input_shape, convolutions=(32, 64, 128), hidden=(512,), dropouts=(dropout, dropout))


def wide_trunk(input_shape: Shape, *, dropout: float = 0.2) -> nn.Module:
    """Build the oracle of Table 1 with twice the filters and no dropout between its convolutions; ours.

    Args:
        input_shape: ``(C, H, W)``.
        dropout: After the hidden layer.
    """
    return _table1(input_shape, convolutions=(64, 128, 256), hidden=(512,), dropouts=(0.0, dropout))


def s_mnist_trunk(input_shape: Shape) -> nn.Module:
    """Build the substitute S_MNIST of Table 1 up to its last hidden layer."""
    return _table1(input_shape, convolutions=(32, 64), hidden=(200, 200), dropouts=(0.0, 0.0))


def s_cifar10_trunk(input_shape: Shape) -> nn.Module:
    """Build the substitute S_CIFAR10 of Table 1 up to its last hidden layer."""
    return _table1(input_shape, convolutions=(64, 128), hidden=(256, 256), dropouts=(0.0, 0.0))


TRUNKS: dict[str, TrunkFactory] = {
    "oracle": oracle_trunk,
    "s-mnist": s_mnist_trunk,
    "s-cifar10": s_cifar10_trunk,
    "wide": wide_trunk,
}
"""The built-in trunks by the name that ``--network`` takes and a checkpoint records."""


def _table1(
    input_shape: Shape, *, convolutions: Sequence[int], hidden: Sequence[int], dropouts: tuple[float, float]
) -> nn.Module:
    """Build pairs of 3×3 convolutions, then fully connected layers; `dropouts` after the ones and after the others."""
    channels, height, width = input_shape
    smallest = 2 ** len(convolutions)
    if min(height, width) < smallest:
        raise UsageError(
            f"expected images of at least {smallest}x{smallest} for this network, got {height}x{width}; "
            "choose larger images, those of a folder by --size, or another --trunk"
        )
    layers: list[nn.Module] = []
    for filters in convolutions:
        layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
        # Max-pooling commutes with ReLU, so pooling first is the same function and rectifies a quarter as much.
        layers += [nn.Conv2d(filters, filters, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        layers += [nn.Dropout(dropouts[0])] if dropouts[0] else []
        channels, height, width = filters, height // 2, width // 2
    layers.append(nn.Flatten())
    inputs = channels * height * width
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        layers += [nn.Dropout(dropouts[1])] if dropouts[1] else []
        inputs = units
    return nn.Sequential(*layers)


def load_trunk_factory(name: str) -> TrunkFactory:
    """Return the built-in trunk `name`, or import ``package.module:factory``.

    Raises:
        UsageError: There is no such trunk, module or callable.
    """
    if name in TRUNKS:
        return TRUNKS[name]
    module_name, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"--trunk: expected one of {', '.join(TRUNKS)} or package.module:factory, got {name!r}")
    expected = f"--trunk: expected an importable {name!r}"
    with explained(expected):
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{expected}, got: {one_line(error)}; is its folder on PYTHONPATH?") from error
    if not callable(factory):
        raise UsageError(f"--trunk: expected a callable at {name!r}, got {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


def build_network(
    factory: TrunkFactory, *, input_shape: Shape, classes: int, dual: bool, lock: Lock = "none", lock_width: int = 64
) -> nn.Module:
    """Build a `DualHead` or a `SingleHead` on a fresh trunk.

    Args:
        factory: Makes the trunk.
        input_shape: ``(C, H, W)``.
        classes: K.
        dual: Two heads, or one.
        lock: The gradient lock of a dual head.
        lock_width: Hidden units of g.

    Raises:
        UsageError: The factory fails, or its trunk is not what `count_features` expects.
    """
    with explained(f"trunk: expected the factory to take an input shape ({', '.join(map(str, input_shape))})"):
        trunk = factory(input_shape)
    features = count_features(trunk, input_shape)
    if dual:
        return DualHead(trunk, features=features, classes=classes, lock=lock, lock_width=lock_width)
    return SingleHead(trunk, features=features, classes=classes)
