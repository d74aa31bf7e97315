"""A small residual trunk, as a user would bring it: ``--trunk residual:make_trunk`` with this folder on PYTHONPATH."""

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, filters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.body(x))


def make_trunk(input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, padding=1),
        Block(16),
        nn.MaxPool2d(2),
        Block(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def make_wrong_trunk(input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Conv2d(input_shape[0], 4, 3)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("a broken\ntrunk")


class Empty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :0]


def fail(input_shape: tuple[int, int, int]) -> nn.Module:
    return {}["no such layer"]


not_callable = 3
