"""Small torch networks and their exports, as oracles for gradients."""

import io
import warnings

import torch
from torch import nn


def table_1(widths=(16, 32), hidden=24, channels=1, classes=10):
    """The oracle of Table 1, narrow: twice [conv3x3 ReLU] x 2, max-pool, dropout; then two fully connected layers."""
    layers = []
    for width in widths:
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers += [nn.MaxPool2d(2), nn.Dropout(0.2)]
    layers += [nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A ResNet basic block."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 7),
    )


class SqueezeExcite(nn.Module):
    """A MobileNetV3 block: depthwise convolution, channel gate, shortcut."""

    def __init__(self, width):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Hardswish())
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * width, 2 * width, 1), nn.Hardsigmoid())
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        y = nn.functional.hardswish(self.depthwise(self.expand(x)))
        return x + self.project(y * self.gate(y))


def mobilenet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), SqueezeExcite(8), nn.AvgPool2d(3, 2, 1), nn.SiLU(), nn.Flatten(), nn.LazyLinear(5)
    )


class Transformer(nn.Module):
    """A small vision transformer: patches, one pre-norm block, class token."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, 6)

    def forward(self, x):
        z = self.patches(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.token.expand(z.shape[0], -1, -1), z], 1)
        y = self.first(z)
        z = z + self.attention(y, y, y, need_weights=False)[0]
        z = z + self.mlp(self.second(z))
        return self.head(z[:, 0])


NETWORKS = {
    "table 1": (table_1, (1, 12, 12), 18),
    "resnet": (resnet, (3, 32, 32), 20),
    "mobilenet": (mobilenet, (3, 16, 16), 21),
    "transformer": (Transformer, (3, 12, 12), 20),
}


def exported(network, shape, opset):
    """The bytes of ``pixels`` -> ``logits`` as torch writes them, with a symbolic batch."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(2, *shape),),
            buffer,
            dynamo=True,
            opset_version=opset,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )
    return buffer.getvalue()
