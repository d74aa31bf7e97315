import copy

import pytest
import torch
from torch import nn

from cmt_export.networks import build_network, load_trunk_factory
from cmt_export.probing import count_features
from runtime.errors import UsageError
from tests.cmt_export import residual

SHAPE = (1, 8, 8)


class Own(nn.Module):
    """A linear trunk, spoilt by what a person's own forward does: it is given the module, the pixels and features."""

    def __init__(self, spoil=lambda own, x, features: features):
        super().__init__()
        self.linear = nn.Linear(64, 6)
        self.spoil = spoil

    def forward(self, x):
        return self.spoil(self, x, self.linear(x.flatten(1)))


class Remembering(Own):
    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class Forgetful(Remembering):
    def set_extra_state(self, state):
        raise ValueError("nothing is known of a state")


class Uncopied(Own):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of it")


class Plain:
    pass


def nested():
    trunk = nn.Flatten()
    for _ in range(2000):
        trunk = nn.Sequential(trunk)
    return trunk


def fail_in_training(own, x, features):
    if own.training:
        raise ValueError("not in training")
    return features


def multiply_pixels(own, x, features):
    x.mul_(2)
    return features


def multiply_pixels_unseen(own, x, features):
    x.data.mul_(2)
    return features


def through_numpy(own, x, features):
    return own.linear(torch.from_numpy(x.detach().numpy()).flatten(1))


TRUNKS = {
    "float64": (
        lambda: Own(lambda own, x, f: f.double()),
        "float32 features, got float64 in evaluation mode; keep the",
    ),
    "float16": (lambda: Own(lambda own, x, f: f.half()), "float32 features, got float16"),
    "int64": (lambda: Own(lambda own, x, f: f.long()), "float32 features, got int64"),
    "complex": (lambda: Own(lambda own, x, f: f + 0j), "float32 features, got complex64"),
    "raises in training": (lambda: Own(fail_in_training), "in training mode, got: ValueError in .*: not in training$"),
    "wider in training": (
        lambda: Own(lambda own, x, f: torch.cat([f, f], 1) if own.training else f),
        "expected 6 features as of the first images, got 12 for N = 2 in training mode; give",
    ),
    "pair in training": (
        lambda: Own(lambda own, x, f: (f, f) if own.training else f),
        r"features \(N, F\) for pixels \(N, 1, 8, 8\), got tuple for N = 2 in training mode",
    ),
    "batch of two": (lambda: Own(lambda own, x, f: f.reshape(2, 6)), "N = 1, in evaluation mode, got: RuntimeError"),
    "two rows": (lambda: Own(lambda own, x, f: f.repeat(2, 1)[:2]), r"got \(2, 6\) for N = 1 in evaluation mode"),
    "no single image": (lambda: Own(lambda own, x, f: f.squeeze()), r"got \(6,\) for N = 1 in evaluation mode; keep"),
    "nested": (nested, "got: RecursionError: maximum recursion depth exceeded"),
    "detached": (lambda: Own(lambda own, x, f: f.detach()), "a gradient to the pixels, got none in evaluation mode"),
    "numpy": (lambda: Own(through_numpy), "a gradient to the pixels, got none .* without detach, no_grad or numpy"),
    "in place": (lambda: Own(multiply_pixels), "pixels .* that need a gradient, .*a leaf Variable that requires grad"),
    "in place, unseen": (lambda: Own(multiply_pixels_unseen), "its pixels unchanged, got them changed in place"),
    "dict": (lambda: Remembering({"a": 1}), "a state_dict of tensors .*: TypeError: _extra_state is a dict; keep it"),
    "instance": (lambda: Remembering(Plain()), "a state_dict of tensors .*: _extra_state is a Plain; keep it in a"),
    "cannot be loaded": (lambda: Forgetful(torch.ones(1)), "can be saved and loaded, got: .*nothing is known"),
    "uncopied": (lambda: Uncopied(), "a module that copy.deepcopy can copy, got"),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_that_would_fail_later_is_refused_in_one_line(name):
    make, message = TRUNKS[name]
    with pytest.raises(UsageError, match=message) as caught:
        build_network(lambda _: make(), input_shape=SHAPE, classes=3, dual=False)
    assert str(caught.value).startswith("trunk: expected ")
    assert "\n" not in str(caught.value)


def leave(input_shape):
    raise SystemExit(3)


def test_a_factory_that_ends_the_process_is_refused():
    with pytest.raises(UsageError, match=r"factory to take an input shape \(1, 8, 8\), got: SystemExit in .*: 3$"):
        build_network(leave, input_shape=SHAPE, classes=3, dual=False)


def test_a_module_that_ends_the_process_is_refused(tmp_path, monkeypatch):
    (tmp_path / "leaving_trunk.py").write_text("raise SystemExit('no main')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"importable 'leaving_trunk:make', got: SystemExit in .*line 1: no main$"):
        load_trunk_factory("leaving_trunk:make")


def test_an_interruption_is_not_taken_for_a_failure():
    def interrupt(input_shape):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_network(interrupt, input_shape=SHAPE, classes=3, dual=False)


def dropping(input_shape):
    return nn.Sequential(residual.make_trunk(input_shape), nn.Dropout(0.5))


def test_probing_leaves_statistics_gradients_mode_and_random_state_alone():
    trunk = dropping(SHAPE).train()
    before, state = copy.deepcopy(trunk.state_dict()), torch.get_rng_state()
    threads = torch.get_num_threads()
    assert count_features(trunk, SHAPE) == 16
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert trunk.training
    assert all(weight.grad is None for weight in trunk.parameters())


def test_lazy_layers_and_tensors_as_extra_state_are_taken():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    assert count_features(lazy, SHAPE) == 5
    assert lazy[1].weight.shape == (5, 64)
    assert count_features(Remembering(torch.ones(2)), SHAPE) == 6
