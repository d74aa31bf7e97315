"""`hardened`: two heads, trained against an attacker who knows the rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.classmap import Epsilon
from cmt_export.lock import Lock
from cmt_export.networks import Logits, Shape, TrunkFactory
from cmt_export.recipes import inner, l2
from cmt_export.recipes.inner import InnerRecipe, RowLoss, evaluating
from cmt_export.recipes.objectives import pair_log_odds
from cmt_export.recipes.pair import PairRecipe
from cmt_export.recipes.recipe import Batch, option
from cmt_export.recipes.squash import Squash


class _Ball(NamedTuple):
    """Where a batch is attacked, and how."""

    random_start: Callable[[Batch, float], Tensor]
    ascend: Callable[..., Tensor]
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Hardened(PairRecipe, InnerRecipe):
    """Both heads learn their label on the images that most confidently name a wrong pair.

    Attributes:
        lock: How Z' enters Z*; none by default: a lock hides gradients, and hidden gradients are no defence.
        inner_steps: Gradient steps of the attack.
        inner_step_size: Length of a step as a share of epsilon.
        ramp: Share of the training over which epsilon grows from 0 to its value.
        averaging: Decay of the mean of the weights that is exported.
        clean_weight: Weight of the benign images in the loss, in [0, 1]; attacked ones have the rest.
        label_smoothing: Share of every label that is spread over all classes, in [0, 1).
        shift: Largest shift of a batch in pixels, up or down and left or right; what leaves on one side enters on the
            other.
        dropout: Probability in every dropout layer of the trunk, in [0, 1).
        squash: Slope of the contrast curve in front of the trunk, see `Squash`; None leaves it out.
        late_steps: Gradient steps in the last `late_share` of the training; 0 changes nothing.
        late_share: Which share that is, in [0, 1].
        focus: Share of a batch that is attacked and trained on, in (0, 1]: the images that noise alone brings closest
            to a wrong pair. Late in the training nine tenths of the loss are in a quarter of the images.
        l2_share: Share of the batches, drawn at random, that are attacked in an L2 ball instead, in [0, 1].
        l2_epsilon: Radius of that ball, above 0; it grows as epsilon does.

    Source: ours; the inner maximisation after Madry et al. 2018, on the objective that `calibration` attacks the rule
        `pair` with; the mean of the weights after Gowal et al. 2020 (arXiv 2010.03593), not checked at its source.
    """

    name: ClassVar[str] = "hardened"
    source: ClassVar[str] = "ours"

    lock: Lock = option("none", "How Z' enters Z*: the gradient lock, or another in its place.")  # noqa: RUF009
    inner_steps: int = option(5, "Gradient steps of the attack inside the training loop.")
    inner_step_size: float = option(0.4, "Length of such a step as a share of epsilon.")
    ramp: float = option(0.25, "Share of the training over which epsilon grows from 0 to its value.")
    averaging: float = option(0.999, "Decay of the mean of the weights that is exported; 0 exports the last weights.")
    clean_weight: float = option(0.3, "Weight of the benign images; attacked ones have the rest.")
    label_smoothing: float = option(0.0, "Share of every label that is spread over all classes.")
    shift: int = option(1, "Largest shift of a batch in pixels.")
    dropout: float = option(0.0, "Probability in every dropout layer of the trunk.")
    squash: float | None = option(None, "Slope of a contrast curve in front of the trunk.")
    late_steps: int = option(0, "Gradient steps in the last part of the training; 0 changes nothing.")
    late_share: float = option(0.25, "Which share of the training that is.")
    focus: float = option(1.0, "Share of a batch, the hardest images, that is attacked and trained on.")
    l2_share: float = option(0.0, "Share of the batches that are attacked in an L2 ball instead.")
    l2_epsilon: float = option(2.0, "Radius of that ball, in units of [0, 1].")

    def __post_init__(self) -> None:
        """Raise `UsageError` for a value out of range."""
        super().__post_init__()
        self._expect(0 <= self.clean_weight <= 1, "clean_weight in [0, 1]", self.clean_weight)
        self._expect(0 <= self.label_smoothing < 1, "label_smoothing in [0, 1)", self.label_smoothing)
        self._expect(self.shift >= 0, "shift >= 0", self.shift)
        self._expect(0 <= self.dropout < 1, "dropout in [0, 1)", self.dropout)
        self._expect(self.squash is None or 0 < self.squash <= 100, "squash in (0, 100]", self.squash)
        self._expect(self.late_steps >= 0, "late_steps >= 0", self.late_steps)
        self._expect(0 <= self.late_share <= 1, "late_share in [0, 1]", self.late_share)
        self._expect(0 < self.focus <= 1, "focus in (0, 1]", self.focus)
        self._expect(0 <= self.l2_share <= 1, "l2_share in [0, 1]", self.l2_share)
        self._expect(0 < self.l2_epsilon < math.inf, "l2_epsilon as a finite number above 0", self.l2_epsilon)

    @property
    def classmap_steps(self) -> tuple[float, Epsilon]:
        """The ball of the training, at every radius."""
        return self.epsilon, "uniform"

    def build(self, factory: TrunkFactory, *, input_shape: Shape, classes: int) -> nn.Module:
        """Build two heads on a fresh trunk, behind the contrast curve where there is one."""

        def trunk(shape: Shape) -> nn.Module:
            return factory(shape) if self.squash is None else nn.Sequential(Squash(self.squash), factory(shape))

        network = super().build(trunk, input_shape=input_shape, classes=classes)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = self.dropout
        return network

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return w·L(x) + (1 − w)·L(x_adv), L the cross-entropy of both heads: y on Z*, its partner M[y] on Z'.

        Without label smoothing L is −log of the confidence that the rule finds in y.
        """
        batch = self._shifted(batch)
        ball = self._ball(batch)
        batch, start = self._hardest(network, batch, ball.random_start(batch, ball.epsilon))
        attacked = self._both_heads(network(self._attack(network, batch, start, ball)), batch)
        if self.clean_weight == 0:
            return attacked
        clean = self._both_heads(network(batch.pixels), batch)
        return self.clean_weight * clean + (1 - self.clean_weight) * attacked

    def _ball(self, batch: Batch) -> _Ball:
        epsilon = self.epsilon_at(batch.position)
        if batch.draw > self.l2_share:
            return _Ball(inner.random_start, inner.ascend, epsilon)
        return _Ball(l2.random_start, l2.ascend, epsilon / self.epsilon * self.l2_epsilon)

    def _shifted(self, batch: Batch) -> Batch:
        if not self.shift:
            return batch
        far = torch.randint(-self.shift, self.shift + 1, (2,), generator=batch.generator, device=batch.pixels.device)
        return replace(batch, pixels=torch.roll(batch.pixels, far.tolist(), (2, 3)))

    def _both_heads(self, outputs: Logits, batch: Batch) -> Tensor:
        assert outputs.robust_logits is not None  # a network of this recipe has two heads
        smoothing = self.label_smoothing
        label_loss = F.cross_entropy(outputs.logits.float(), batch.labels, label_smoothing=smoothing)
        return label_loss + F.cross_entropy(outputs.robust_logits.float(), batch.partners, label_smoothing=smoothing)

    def _hardest(self, network: nn.Module, batch: Batch, start: Tensor) -> tuple[Batch, Tensor]:
        """Return the images that the network is least sure of at `start`, and where their attack starts."""
        if self.focus == 1:
            return batch, start
        with evaluating(network), torch.no_grad():
            log_odds = _wrong_pair(batch)(network(start))
        rows = log_odds.topk(max(1, round(self.focus * len(log_odds)))).indices
        return replace(batch, pixels=batch.pixels[rows], labels=batch.labels[rows]), start[rows]

    def _attack(self, network: nn.Module, batch: Batch, start: Tensor, ball: _Ball) -> Tensor:
        late = self.late_steps and batch.position > 1 - self.late_share
        return ball.ascend(
            network,
            start,
            batch,
            _wrong_pair(batch),
            epsilon=ball.epsilon,
            steps=self.late_steps if late else self.inner_steps,
            step_size=self.inner_step_size * ball.epsilon,
        )


def _wrong_pair(batch: Batch) -> RowLoss:
    """Return what the attack ascends: the log-odds of every wrong pair against the true one."""
    classmap = batch.classmap
    assert classmap is not None  # the training loop brings one to every recipe of the rule `pair`
    return lambda outputs: pair_log_odds(outputs, batch.labels, classmap)
