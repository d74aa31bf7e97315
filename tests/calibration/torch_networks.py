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


class Dense(nn.Module):
    """A DenseNet layer: what it computes is concatenated to what it was given."""

    def __init__(self, width, growth):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 1, bias=False),
            nn.BatchNorm2d(growth), nn.ReLU(), nn.Conv2d(growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


def densenet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), Dense(8, 4), Dense(12, 4), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2),
        Dense(8, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


class Inverted(nn.Module):
    """An EfficientNet block: expansion, depthwise 5x5, sigmoid gate, projection, shortcut."""

    def __init__(self, width):
        super().__init__()
        wide = 4 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide), nn.BatchNorm2d(wide), nn.SiLU()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 4, 1), nn.SiLU(), nn.Conv2d(4, wide, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        return x + self.project(y * self.gate(y))


def efficientnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), Inverted(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


class ConvNext(nn.Module):
    """A ConvNeXt block: depthwise 7x7, then channels last: norm, linear, GELU, linear, scale; shortcut."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x):
        y = self.mlp(self.depthwise(x).permute(0, 2, 3, 1)) * self.scale
        return x + y.permute(0, 3, 1, 2)


def convnext():
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), ConvNext(8), nn.Conv2d(8, 12, 2, 2), nn.GroupNorm(3, 12), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 6),
    )  # fmt: skip


class Decoder(nn.Module):
    """What shrinks and grows again: transposed convolution, interpolation, reflected borders, space from depth."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.shuffle = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), nn.PixelShuffle(2))
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        y = self.norm(self.up(torch.relu(self.down(x))))
        wide = nn.functional.interpolate(y, scale_factor=1.5, mode="bilinear")
        copied = nn.functional.interpolate(self.shuffle(y), scale_factor=2, mode="nearest")
        return self.head(torch.cat([wide.mean(dim=(2, 3)), copied.amax(dim=(2, 3))], 1))


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
    "densenet": (densenet, (3, 12, 12), 18),
    "efficientnet": (efficientnet, (3, 16, 16), 19),
    "convnext": (convnext, (3, 16, 16), 21),
    "decoder": (Decoder, (3, 12, 12), 20),
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
