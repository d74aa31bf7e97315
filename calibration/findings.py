"""What results allow to be said: one verdict on the file, and everything that weakens it.

| verdict | given when |
|---|---|
| `untested` | there is no attack |
| `falls` | an attack got more than `FALLS_ABOVE` of the images accepted and wrong |
| `undecided` | none did, but one reason below stands against `holds` |
| `holds` | otherwise, against what was tried |

The reasons: the 95 % interval of an attack reaches above `FALLS_ABOVE`; an attack found no gradient for more images
than that, so they were never attacked; a gradient failed its self-check.

A verdict is about the attacks in the results alone. Whether one of them knew the rule is always said beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from calibration.phrasing import cell_name, percent, with_bounds
from calibration.results import Cell, Results, SelfCheck

FALLS_ABOVE = 0.05
"""Largest share of attacked images that may be accepted and wrong."""
FEWEST_IMAGES = 100
"""With fewer images even a perfect defence hardly shows a share below `FALLS_ABOVE`."""
LARGEST_GRADIENT_ERROR = 0.2
"""Rounding and kinks leave less, a wrong gradient about 1; see `gradient_check.GradientCheck`."""

Kind = Literal["untested", "falls", "undecided", "holds"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one file.

    Attributes:
        kind: See the module.
        sentence: The verdict in plain words, one line.
        scope: How far it reaches: whether an attack that knows the rule was run, and what such attacks reach.
        worst: The attack the sentence is about; None where nothing was tried.
    """

    kind: Kind
    sentence: str
    scope: str
    worst: Cell | None


def conclude(results: Results) -> Finding:
    """Return the verdict on the attacked file."""
    if not results.cells:
        nothing = "Nothing was tried: no attack was run on this file."
        return Finding(kind="untested", sentence=nothing, scope=_scope(()), worst=None)
    kind, worst, sentence = _judge(results)
    return Finding(kind=kind, sentence=sentence, scope=_scope(results.cells), worst=worst)


def warnings(results: Results) -> tuple[str, ...]:
    """Return every reason to trust the figures less, a sentence or two each.

    | raised if | because |
    |---|---|
    | the evaluation was stopped early | the attacks that are missing may be the ones that work |
    | fewer than `FEWEST_IMAGES` images were attacked | the intervals are too wide to decide anything |
    | the file has a single head and the threshold 0 | it accepts everything, so there is no defence to measure |
    | a self-check is above `LARGEST_GRADIENT_ERROR` | attacks along a wrong gradient fail for no merit of the defence |
    | an image had no gradient at all | it was not attacked; a defence that hides its gradients looks like this |
    | a file is quantised | its gradients pass through the roundings as if they were not there |
    | more than `FALLS_ABOVE` of the benign images are fooled | that many count as fooled before any attack |
    """
    return (*_of_the_evaluation(results), *_of_the_gradients(results))


def _judge(results: Results) -> tuple[Kind, Cell, str]:
    worst = _worst(results.cells)
    fooled = with_bounds(worst.rates.fooled)
    if worst.rates.fooled.value > FALLS_ABOVE:
        return "falls", worst, f"Falls: {cell_name(worst)} gets {fooled} of images accepted and wrong."
    open_question = _open_question(results)
    if open_question is not None:
        cell, reason = open_question
        return "undecided", cell, f"Undecided: {reason}"
    by = f"by {cell_name(worst)}" if worst.counts.fooled else "by any attack below"
    return "holds", worst, f"Holds against what was tried: at most {fooled} of images accepted and wrong, {by}."


def _open_question(results: Results) -> tuple[Cell, str] | None:
    """Return what keeps results without a successful attack from being a success of the defence, and its attack."""
    widest = max(results.cells, key=lambda cell: cell.rates.fooled.high)
    if widest.rates.fooled.high > FALLS_ABOVE:
        got = f"{cell_name(widest)} gets {with_bounds(widest.rates.fooled)} of {widest.counts.n} images"
        return widest, f"{got} accepted and wrong; the interval reaches above {percent(FALLS_ABOVE, digits=0)}."
    flattest = _flattest(results.cells)
    if flattest.zero_gradients > FALLS_ABOVE * flattest.counts.n:
        missed = f"{flattest.zero_gradients} of {flattest.counts.n} images"
        return flattest, f"{cell_name(flattest)} found no gradient for {missed}, so they were never attacked."
    for check in _failed(results):
        return _worst(results.cells), f"the gradient of {check.file} is wrong, so attacks that follow it show nothing."
    return None


def _of_the_evaluation(results: Results) -> Iterator[str]:
    benign = results.benign
    if not results.complete:
        yield "The evaluation was stopped early: attacks are missing, and they may be the ones that work."
    if benign.counts.n < FEWEST_IMAGES:
        yield f"Only {benign.counts.n} images were used; take {FEWEST_IMAGES} at least, better 1000."
    if results.model.rule == "confidence" and results.model.threshold == 0:
        yield "This file has a single head and the threshold 0: it accepts everything, there is no defence to measure."
    if benign.rates.fooled.value > FALLS_ABOVE:
        share = with_bounds(benign.rates.fooled)
        yield f"Without any attack {share} of images are accepted and wrong already; they count as fooled in every row."


def _of_the_gradients(results: Results) -> Iterator[str]:
    for check in _failed(results):
        yield (
            f"The gradient of {check.file} is off by {percent(check.relative_error, digits=0)} from differences of its "
            f"own logits, expected at most {percent(LARGEST_GRADIENT_ERROR, digits=0)}: attacks along it are too weak."
        )
    rounded = sorted({cell.source.file for cell in results.cells if cell.source.straight_through})
    if rounded:
        yield (
            f"{', '.join(rounded)} is quantised: gradients pass straight through its roundings as if there were "
            "none. Attack its float twin too, with --threat black-box --substitute."
        )
    flat = [cell for cell in results.cells if cell.zero_gradients]
    if flat:
        flattest = _flattest(flat)
        others = f", and of {len(flat) - 1} further attacks for no larger share" if len(flat) > 1 else ""
        yield (
            f"The gradient of {cell_name(flattest)} was zero everywhere for {flattest.zero_gradients} of "
            f"{flattest.counts.n} images{others}: they were not attacked at all. Gradient masking looks like this."
        )


def _failed(results: Results) -> Iterator[SelfCheck]:
    return (check for check in results.self_check if check.relative_error > LARGEST_GRADIENT_ERROR)


def _scope(cells: Sequence[Cell]) -> str:
    adaptive = [cell for cell in cells if cell.adaptive]
    if not adaptive:
        return "No attack that knows the rule was run: this says nothing about one."
    best = _worst(adaptive)
    known = f"{len(adaptive)} of {len(cells)} attacks know the rule"
    if best is _worst(cells):
        told = f"{known}, this one among them."
    else:
        told = f"{known}; the best of them, {cell_name(best)}, gets {with_bounds(best.rates.fooled)}."
    ignorant = [cell for cell in cells if not cell.adaptive]
    if not ignorant:
        return told
    return f"{told} Attacks that ignore the rule get {with_bounds(_worst(ignorant).rates.fooled)} at most."


def _worst(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.rates.fooled)


def _flattest(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.zero_gradients / cell.counts.n)
