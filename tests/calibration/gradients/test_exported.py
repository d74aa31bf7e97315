import io

import numpy as np
import pytest
import torch

from calibration.gradients import GradientGraph
from calibration.objectives import CrossEntropy
from calibration.pixels import to_pixels
from calibration.rules import assemble
from cmt_export.exporting import export_network
from cmt_export.networks import build_network, s_mnist_trunk

SHAPE = (1, 8, 8)
CLASSMAP = (1, 2, 3, 0)
HEADS = ("logits", "robust_logits", "unlocked_logits")


@pytest.fixture(scope="module")
def exported():
    """A dual-head network with a gradient lock, and its file with the reject rule inside."""
    torch.manual_seed(0)
    network = build_network(s_mnist_trunk, input_shape=SHAPE, classes=4, dual=True, lock="trained").eval()
    bare = export_network(network, SHAPE, opset=18)
    return network, assemble(bare, rule="pair", classmap=CLASSMAP, threshold=0.0, input_shape=(8, 8, 1))


@pytest.fixture(scope="module")
def pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    return to_pixels(images)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_of_an_exported_guard_agrees_with_torch(exported, pixels, head):
    network, model = exported
    graph = GradientGraph(model, of=[head], threads=1)
    x = torch.tensor(pixels, requires_grad=True)
    labels = np.array([0, 1, 2, 3, 0])
    z = getattr(network(x), head)
    torch.nn.functional.cross_entropy(z, torch.tensor(labels), reduction="sum").backward()
    result = graph.value_and_gradient(CrossEntropy(of=head), pixels, labels=labels)
    np.testing.assert_allclose(result.logits[head], z.detach().numpy(), rtol=1e-5, atol=1e-6)
    expected = x.grad.numpy()
    np.testing.assert_allclose(result.gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_default_is_what_the_rule_reads(exported):
    assert GradientGraph(exported[1], threads=1).of == ("logits", "robust_logits")


class _Attention(torch.nn.Module):
    """Self-attention as its layer runs it while it keeps weights: heads and batch share an axis of unknown size."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(1, 8, 4, stride=4)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return (tokens + self.attention(tokens, tokens, tokens)[0]).mean(1)


class _Folded(torch.nn.Module):
    """Channels folded into the batch, and broadcast there: along an axis of size 1, and along one that is not there."""

    def __init__(self):
        super().__init__()
        self.planes = torch.nn.Conv2d(1, 3, 3)

    def forward(self, pixels):
        planes = self.planes(pixels)
        folded = planes.reshape(-1, 6, 6)
        weighted = folded * folded.mean((1, 2), keepdim=True)
        both = torch.stack([weighted, weighted.tanh()]) * folded
        return both.sum(0).reshape(planes.shape).mean(3).flatten(1)


@pytest.mark.parametrize("trunk", [_Attention, _Folded])
def test_an_axis_that_is_known_only_at_run_time_agrees_with_torch(trunk, pixels):
    torch.manual_seed(0)
    network = build_network(lambda _: trunk(), input_shape=SHAPE, classes=4, dual=False).eval()
    graph = GradientGraph(export_network(network, SHAPE, opset=20), of=["logits"], threads=1)
    x = torch.tensor(pixels, requires_grad=True)
    weights = torch.randn(len(pixels), 4)
    (expected,) = torch.autograd.grad((network(x).logits * weights).sum(), x)
    found = graph.vjp(pixels, {"logits": weights.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))


class _Chunks(torch.nn.Module):
    """Attention whose queries, keys and values are cut from one projection, at places taken from its shape."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(8, 24)

    def forward(self, pixels):
        queries, keys, values = self.project(pixels.flatten(1, 2)).chunk(3, dim=-1)
        return (queries @ keys.transpose(1, 2)).softmax(-1) @ values


class _SplitHeads(torch.nn.Module):
    """Attention whose heads and parts are axes, which indices take apart."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(8, 24)

    def forward(self, pixels):
        tokens = self.project(pixels.flatten(1, 2))
        images, n, width = tokens.shape
        parts = tokens.reshape(images, n, 3, 2, width // 6).permute(2, 0, 3, 1, 4)
        attended = (parts[0] @ parts[1].transpose(-2, -1)).softmax(-1) @ parts[2]
        return attended.transpose(1, 2).reshape(images, n, width // 3)


class _Shuffle(torch.nn.Module):
    """Channels shuffled and halved, as in ShuffleNet."""

    def __init__(self):
        super().__init__()
        self.planes = torch.nn.Conv2d(1, 8, 3)

    def forward(self, pixels):
        planes = self.planes(pixels)
        images, channels, height, width = planes.shape
        shuffled = (
            planes.view(images, 2, channels // 2, height, width).transpose(1, 2).reshape(images, -1, height, width)
        )
        left, right = shuffled.chunk(2, 1)
        return left.relu() * right.sigmoid()


class _Rows(torch.nn.Module):
    """Rows read one after the other, in both directions, by two layers."""

    def __init__(self):
        super().__init__()
        self.reader = torch.nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, pixels):
        return self.reader(pixels.flatten(1, 2))[0]


class _ClassToken(torch.nn.Module):
    """A token of its own before those of the image, repeated for each one."""

    def __init__(self):
        super().__init__()
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, pixels):
        tokens = torch.cat((self.token.expand(pixels.shape[0], -1, -1), pixels.flatten(1, 2)), dim=1)
        return tokens @ tokens.transpose(1, 2)


class _Normalised(torch.nn.Module):
    """A layer whose exported form asks for the rank of its input."""

    def __init__(self):
        super().__init__()
        self.planes, self.norm = torch.nn.Conv2d(1, 6, 3), torch.nn.LocalResponseNorm(3)

    def forward(self, pixels):
        return self.norm(self.planes(pixels))


def _by_tracing(network, pixels, opset):
    file = io.BytesIO()
    names = {"input_names": ["pixels"], "output_names": ["logits"]}
    axes = {"pixels": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(network, (pixels,), file, dynamo=False, opset_version=opset, dynamic_axes=axes, **names)
    return file.getvalue()


def _by_dynamo(network, pixels, opset):
    file = io.BytesIO()
    names = {"input_names": ["pixels"], "output_names": ["logits"], "verbose": False}
    shapes = ({0: torch.export.Dim("N")},)
    torch.onnx.export(
        network, (pixels,), file, opset_version=opset, dynamic_shapes=shapes, external_data=False, **names
    )
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")  # those of both exporters
@pytest.mark.parametrize("trunk", [_Chunks, _SplitHeads, _Shuffle, _ClassToken, _Rows, _Normalised])
def test_what_tracing_leaves_to_the_graph_agrees_with_torch(trunk, pixels):
    agrees_with_torch(trunk, _by_tracing, 17, pixels)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("trunk", "export", "opset"), [(_Chunks, _by_tracing, 13), (_SplitHeads, _by_dynamo, 18), (_Rows, _by_dynamo, 18)]
)
def test_other_exports_agree_with_torch(trunk, export, opset, pixels):
    agrees_with_torch(trunk, export, opset, pixels)


def agrees_with_torch(trunk, export, opset, pixels):
    torch.manual_seed(0)
    network = torch.nn.Sequential(trunk(), torch.nn.Flatten(), torch.nn.LazyLinear(4)).eval()
    x = torch.tensor(pixels, requires_grad=True)
    weights = torch.randn(len(pixels), 4)
    (expected,) = torch.autograd.grad((network(x) * weights).sum(), x)
    graph = GradientGraph(export(network, torch.tensor(pixels[:2]), opset), of=["logits"], threads=1)
    found = graph.vjp(pixels, {"logits": weights.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))
