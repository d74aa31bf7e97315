"""The attacks of Foolbox, ART and torchattacks on one checkpoint, for `benchmarks/attacks.py`; runs in `.venv-peers`.

It reads one JSON task from standard input and writes adversarial examples and seconds to the file the task names.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cmt_export.checkpoint import Checkpoint

Attack = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], np.ndarray]


class Logits(torch.nn.Module):
    """The network of a checkpoint as the peers want it: pixels to logits. Counts the images it is shown."""

    def __init__(self, checkpoint: str) -> None:
        """Load it."""
        super().__init__()
        self.network = Checkpoint.load(checkpoint).build().requires_grad_(False)
        self.images = 0
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, K)``."""
        self.images += len(pixels)
        return self.network(pixels).logits


def foolbox(name: str, *, epsilon: float | None = None, **options: Any) -> Attack:
    """Return an attack of Foolbox."""
    import foolbox as library

    def run(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        bounded = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = getattr(library.attacks, name)(**options)
        return attack(bounded, x, library.criteria.Misclassification(y), epsilons=epsilon)[1].numpy()

    return run


def art(name: str, *, targeted: bool = False, **options: Any) -> Attack:
    """Return an attack of the Adversarial Robustness Toolbox."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    def run(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        classes = model(x[:1]).shape[1]
        classifier = PyTorchClassifier(
            model,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0, 1),
            device_type="cpu",
        )
        quiet = {} if name == "FastGradientMethod" else {"verbose": False}
        attack = getattr(evasion, name)(classifier, batch_size=len(x), **quiet, **options)
        labels = np.eye(classes, dtype=np.float32)[(targets if targeted else y).numpy()]
        return attack.generate(x.numpy(), labels)

    return run


def torchattacks(name: str, **options: Any) -> Attack:
    """Return an attack of torchattacks."""
    import torchattacks as library

    def run(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        return getattr(library, name)(model, **options)(x, y).detach().numpy()

    return run


def attacks(epsilon: float, steps: int, pixels: int) -> dict[str, dict[str, Callable[[], Attack]]]:
    """Return the attacks of each peer, by the name of ours, with the same hyper-parameters.

    Args:
        epsilon: Budget of fgs and igs.
        steps: Steps of igs.
        pixels: How many values an image has.
    """
    alpha = 2.5 * epsilon / steps
    share = 0.145
    return {
        "fgs": {
            "foolbox": lambda: foolbox("LinfFastGradientAttack", epsilon=epsilon),
            "art": lambda: art("FastGradientMethod", eps=epsilon),
            "torchattacks": lambda: torchattacks("FGSM", eps=epsilon),
        },
        "igs": {
            "foolbox": lambda: foolbox(
                "LinfBasicIterativeAttack", epsilon=epsilon, abs_stepsize=alpha, steps=steps, random_start=False
            ),
            "art": lambda: art("BasicIterativeMethod", eps=epsilon, eps_step=alpha, max_iter=steps),
            "torchattacks": lambda: torchattacks("BIM", eps=epsilon, alpha=alpha, steps=steps),
        },
        "deepfool-linf": {"foolbox": lambda: foolbox("LinfDeepFoolAttack")},
        "deepfool": {
            "foolbox": lambda: foolbox("L2DeepFoolAttack"),
            "art": lambda: art("DeepFool", epsilon=0.02),
            "torchattacks": lambda: torchattacks("DeepFool"),
        },
        "cw": {
            "foolbox": lambda: foolbox(
                "L2CarliniWagnerAttack", binary_search_steps=5, steps=200, initial_const=1.0, stepsize=0.05
            ),
            "torchattacks": lambda: torchattacks("CW", c=1, steps=1000, lr=0.01),
        },
        "jsma": {"art": lambda: art("SaliencyMapMethod", targeted=True, theta=1.0, gamma=share)},
    }


def main() -> None:
    """Run one attack of one peer."""
    warnings.simplefilter("ignore")
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    model = Logits(task["checkpoint"])
    data = np.load(task["data"])
    x, y, targets = (torch.tensor(data[name]) for name in ("pixels", "labels", "targets"))
    model(x)
    attack = attacks(task["epsilon"], task["steps"], x[0].numel())[task["attack"]][task["peer"]]()
    model.images = 0
    started = time.perf_counter()
    x_adv = attack(model, x, y, targets)
    seconds, images = time.perf_counter() - started, model.images
    x_adv = np.asarray(x_adv, dtype=np.float32)
    with torch.no_grad():
        labels = model(torch.tensor(x_adv)).argmax(1).numpy()
    np.savez(task["output"], x_adv=x_adv, labels=labels, seconds=seconds, forwards=images / len(x))


if __name__ == "__main__":
    main()
