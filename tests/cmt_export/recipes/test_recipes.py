"""What every recipe keeps: its options, its record, its gradients, its bits."""

import os
import signal
import sys
import types
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from cmt_export.checkpoint import Checkpoint, Schedule
from cmt_export.exporting import export
from cmt_export.options import owners_of_options
from cmt_export.recipes import RECIPES, Cmt, Hardened, read_recipe
from cmt_export.recipes.inner import InnerRecipe
from cmt_export.run import resume, start
from cmt_export.training import Step, train
from runtime.artifact import read_artifact
from runtime.errors import UsageError
from tests.cmt_export.conftest import CLASSMAP, EXECUTION
from tests.cmt_export.recipes.batches import make_batch, make_network
from tests.cmt_export.recipes.quick import QUICK, TRUNK, begin_quickly

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_back_from_its_record(name):
    recipe = QUICK[name]
    assert read_recipe(recipe.to_json(), version=2) == recipe
    assert recipe.to_json()["name"] == name
    assert RECIPES[name].source
    assert RECIPES[name].__doc__


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_has_a_help_text_and_is_documented(name):
    documented = "\n".join(kind.__doc__ or "" for kind in RECIPES[name].__mro__)
    for each in fields(RECIPES[name]):
        assert each.metadata["help"].endswith(".")
        assert f"{each.name}: " in documented


@pytest.mark.parametrize("name", RECIPES)
def test_the_documentation_has_every_recipe_and_option(name):
    (row,) = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    inherited = {each.name for each in fields(InnerRecipe)} if "those of `pgd`" in row else {"averaging"}
    for each in fields(RECIPES[name]):
        assert each.name in inherited or f"`{each.name}`" in row, each.name
    assert f"`{RECIPES[name].rule}`" in row


def test_the_recipe_of_the_documentation_trains_resumes_and_exports(bars, tmp_path, monkeypatch):
    (code,) = [
        part.partition("```")[0]
        for part in DOCUMENTATION.read_text().split("```python\n")
        if "class Noisy(Recipe)" in part
    ]
    module = types.ModuleType("noisy")
    monkeypatch.setitem(sys.modules, "noisy", module)
    exec(code, vars(module))
    monkeypatch.setitem(RECIPES, "noisy", module.Noisy)
    recipe = read_recipe({"name": "noisy", "noise": 0.1, "averaging": 0.0}, version=2)
    with pytest.raises(UsageError, match=r"recipe noisy: expected noise in \[0, 1\], got 2"):
        module.Noisy(noise=2)
    checkpoint = train(begin_quickly(bars, recipe, epochs=1), tmp_path / "model.pt")
    exported = export(Checkpoint.load(tmp_path / "model.pt"), tmp_path / "guard.onnx", trunk=TRUNK)
    assert checkpoint.recipe == recipe
    assert read_artifact(exported.model).spec.recipe == {
        "name": "noisy",
        "noise": 0.1,
        "averaging": 0.0,
        "trunk": TRUNK,
    }
    assert "noise" in owners_of_options()


def test_recipes_that_share_an_option_share_its_type_and_help_text():
    for name, owners in owners_of_options().items():
        assert len({(each.type, each.metadata["help"]) for each in owners.values()}) == 1, name


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_trained_weight_gets_a_finite_gradient_and_no_pixel_is_changed(name, bf16):
    recipe = QUICK[name]
    network, batch = make_network(recipe).train(), make_batch()
    before = batch.pixels.clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = recipe.loss(network, batch)
    assert loss.dtype == torch.float32
    loss.backward()
    for weight in network.parameters():
        assert (weight.grad is not None) == weight.requires_grad
        assert weight.grad is None or torch.isfinite(weight.grad).all()
    assert torch.equal(batch.pixels, before)
    assert network.training


@pytest.mark.parametrize("name", RECIPES)
def test_equal_generators_give_equal_losses(name):
    recipe = QUICK[name]
    first, same = (recipe.loss(make_network(recipe), make_batch(seed=3)) for _ in range(2))
    assert torch.equal(first, same)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("averaging", [0.0, 0.9], ids=["last", "mean"])
def test_a_stopped_run_resumes_to_the_same_bits(bars, tmp_path, name, averaging):
    recipe = replace(QUICK[name], averaging=averaging)
    straight = train(begin_quickly(bars, recipe), tmp_path / "straight.pt")

    def stop(step: Step) -> None:
        if step.record is None and (step.epoch, step.step) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(begin_quickly(bars, recipe), tmp_path / "stopped.pt", on_step=stop)
    stopped = Checkpoint.load(tmp_path / "stopped.pt")
    assert stopped.recipe == recipe
    resumed = train(resume(bars, stopped, trunk=TRUNK), tmp_path / "stopped.pt")
    for weight, value in straight.weights.items():
        assert torch.equal(value, resumed.weights[weight]), weight
    assert straight.history == resumed.history


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        ({"name": "magic"}, UsageError, "recipe: expected one of none, .*, got 'magic'"),
        ({"name": "pgd", "alpha": 0.4}, TypeError, "alpha"),
        ({"name": "pgd", "epsilon": 3.0}, UsageError, r"recipe pgd: expected epsilon in \(0, 1\], got 3.0"),
        ({"name": "pgd", "inner_steps": "5"}, UsageError, "recipe pgd: expected inner_steps as int, got '5'"),
        ({"name": "hardened", "squash": "a"}, UsageError, "expected squash as float or none, got 'a'"),
        ({"name": "none", "averaging": True}, UsageError, "expected averaging as float, got True"),
        ({"name": "none", "averaging": 1.0}, UsageError, r"recipe none: expected averaging in \[0, 1\), got 1.0"),
    ],
    ids=["name", "foreign-option", "range", "type", "union", "bool", "averaging"],
)
def test_wrong_records(document, error, message):
    with pytest.raises(error, match=message):
        read_recipe(document, version=2)


def test_a_record_of_version_1_named_the_options_of_cmt_for_every_recipe():
    old = {"alpha": 0.5, "beta": 0.3, "gamma": 0.2, "robust_loss": "bounded", "literal_clamp": 10.0, "epsilon": 0.1}
    old |= {"epsilon_sampling": "fixed", "differentiated": "logits", "lock": "frozen", "lock_width": 32}
    assert read_recipe({"name": "none", **old}, version=1) == RECIPES["none"]()
    cmt = read_recipe({"name": "cmt", **old}, version=1)
    assert isinstance(cmt, Cmt)
    assert {key: getattr(cmt, key) for key in old} == old


def test_a_classmap_for_a_recipe_without_one_is_refused(bars):
    with pytest.raises(UsageError, match="classmap: expected none for the recipe none, got"):
        start(bars, recipe=QUICK["none"], schedule=Schedule(), classmap=CLASSMAP, execution=EXECUTION)


def test_averaged_weights_are_the_mean_of_the_steps(bars, tmp_path):
    """Against a mean taken by hand from the same run without averaging, whose steps are the same."""
    recipe = replace(QUICK["hardened"], averaging=0.5)
    network = begin_quickly(bars, replace(recipe, averaging=0.0))
    means: dict[str, torch.Tensor] = {}

    def mix(step: Step) -> None:
        if step.record is None:
            done = step.epoch * step.steps + step.step - 1
            decay = min(0.5, (1 + done) / (10 + done))
            for name, weight in network.network.named_parameters():
                old = means.get(name)
                means[name] = weight.detach().clone() if old is None else decay * old + (1 - decay) * weight.detach()

    train(network, tmp_path / "last.pt", on_step=mix)
    averaged = train(begin_quickly(bars, recipe), tmp_path / "mean.pt")
    for name, mean in means.items():
        torch.testing.assert_close(averaged.weights[name], mean)


def test_the_defaults_of_hardened_are_valid_and_need_a_classmap():
    assert Hardened().needs_classmap
    assert not RECIPES["pgd"]().needs_classmap
