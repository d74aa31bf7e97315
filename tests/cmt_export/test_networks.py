import pytest
import torch
from torch import nn

from cmt_export.networks import TRUNKS, DualHead, SingleHead, build_network, load_trunk_factory
from runtime.errors import UsageError
from tests.cmt_export import residual

# Independent counts from Table 1: 3x3 convolutions with bias on the same size, then fully connected layers.
WEIGHTS = {
    ("oracle", (1, 28, 28)): [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)],
    ("oracle", (3, 32, 32)): [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)],
    ("s-mnist", (1, 28, 28)): [(1, 32), (32, 32), (32, 64), (64, 64)],
    ("wide", (1, 28, 28)): [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)],
    ("s-cifar10", (3, 32, 32)): [(3, 64), (64, 64), (64, 128), (128, 128)],
}
HIDDEN = {
    ("oracle", (1, 28, 28)): [(128 * 3 * 3, 512)],
    ("oracle", (3, 32, 32)): [(128 * 4 * 4, 512)],
    ("s-mnist", (1, 28, 28)): [(64 * 7 * 7, 200), (200, 200)],
    ("wide", (1, 28, 28)): [(256 * 3 * 3, 512)],
    ("s-cifar10", (3, 32, 32)): [(128 * 8 * 8, 256), (256, 256)],
}


@pytest.mark.parametrize(("name", "shape"), WEIGHTS, ids=[f"{name}-{shape[0]}" for name, shape in WEIGHTS])
def test_table_1_weights(name, shape):
    network = build_network(TRUNKS[name], input_shape=shape, classes=10, dual=False)
    convolutions = sum(a * b * 9 + b for a, b in WEIGHTS[name, shape])
    hidden = sum(a * b + b for a, b in HIDDEN[name, shape])
    last = HIDDEN[name, shape][-1][1]
    assert sum(weight.numel() for weight in network.parameters()) == convolutions + hidden + last * 10 + 10


@pytest.mark.parametrize(("name", "dropouts"), [("oracle", 4), ("s-mnist", 0), ("s-cifar10", 0), ("wide", 1)])
def test_where_dropout_stands(name, dropouts):
    layers = [layer for layer in TRUNKS[name]((1, 28, 28)).modules() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.2] * dropouts


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 40), (4, 64, 9)], ids=str)
@pytest.mark.parametrize("name", TRUNKS)
def test_any_size_and_channel_count(name, shape):
    network = build_network(TRUNKS[name], input_shape=shape, classes=7, dual=True, lock="trained").eval()
    outputs = network(torch.rand(5, *shape))
    assert outputs.logits.shape == outputs.robust_logits.shape == outputs.unlocked_logits.shape == (5, 7)


def test_too_small_images_are_refused():
    with pytest.raises(UsageError, match=r"at least 8x8 for this network, got 7x20"):
        build_network(TRUNKS["oracle"], input_shape=(1, 7, 20), classes=2, dual=False)


def test_without_a_lock_z_is_the_output():
    network = build_network(residual.make_trunk, input_shape=(1, 8, 8), classes=3, dual=True, lock="none").eval()
    outputs = network(torch.rand(2, 1, 8, 8))
    assert isinstance(network, DualHead)
    assert network.lock is None
    assert outputs.unlocked_logits is None


def test_a_single_head_has_no_robust_logits():
    network = build_network(residual.make_trunk, input_shape=(1, 8, 8), classes=3, dual=False).eval()
    assert isinstance(network, SingleHead)
    assert network(torch.rand(2, 1, 8, 8)).robust_logits is None


def test_a_trunk_of_ones_own():
    factory = load_trunk_factory("tests.cmt_export.residual:make_trunk")
    network = build_network(factory, input_shape=(3, 16, 16), classes=4, dual=True, lock="trained").eval()
    assert network(torch.rand(2, 3, 16, 16)).logits.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", r"one of oracle, s-mnist, s-cifar10, wide or package\.module:factory, got 'resnet'"),
        ("no.such.module:factory", r"importable 'no\.such\.module:factory'"),
        ("tests.cmt_export.residual:absent", r"importable .*absent"),
        ("tests.cmt_export.residual:not_callable", r"a callable at .*, got int"),
        ("../residual:make_trunk", r"package\.module:factory, got '\.\./residual:make_trunk'"),
        (":make_trunk", r"package\.module:factory, got ':make_trunk'"),
    ],
    ids=["unknown", "module", "attribute", "type", "path", "no module"],
)
def test_wrong_trunk_names(name, message):
    with pytest.raises(UsageError, match=message):
        load_trunk_factory(name)


def test_a_trunk_that_gives_no_features_is_refused():
    with pytest.raises(UsageError, match=r"features \(N, F\) for pixels \(N, 1, 8, 8\), got \(2, 4, 6, 6\)"):
        build_network(residual.make_wrong_trunk, input_shape=(1, 8, 8), classes=3, dual=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def make(:", r"got: SyntaxError: invalid syntax \(.*, line 1\)"),
        ("1 / 0", "got: ZeroDivisionError in .*line 1: div"),
    ],
    ids=["syntax", "failure"],
)
def test_a_module_that_cannot_be_imported_is_one_line(source, message, tmp_path, monkeypatch):
    name = f"trunk_{source[0] == '1':d}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        load_trunk_factory(f"{name}:make")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            residual.fail,
            r"factory to take an input shape \(1, 8, 8\), got: KeyError in .*residual\.py, line \d+: 'no such",
        ),
        (lambda: None, r"factory to take an input shape \(1, 8, 8\), got: TypeError: .* takes 0 positional arguments"),
        (
            lambda _: residual.Broken(),
            r"pixels \(N, 1, 8, 8\), got: ValueError in .*residual\.py, line \d+: a broken trunk$",
        ),
        (lambda _: residual.Empty(), r"features \(N, F\) .*, got \(2, 0\) for N = 2"),
    ],
    ids=["factory", "arguments", "forward", "no features"],
)
def test_a_trunk_that_fails_is_one_line_with_the_place(factory, message):
    with pytest.raises(UsageError, match=message):
        build_network(factory, input_shape=(1, 8, 8), classes=3, dual=False)


def test_a_trunk_for_other_images_is_refused():
    with pytest.raises(UsageError, match=r"expected it to take pixels \(N, 3, 8, 8\)"):
        build_network(
            lambda _: residual.make_trunk((1, 8, 8)), input_shape=(3, 8, 8), classes=3, dual=True, lock="none"
        )
