"""Everything that weakens the figures of an evaluation, whatever its verdict."""

from __future__ import annotations

from collections.abc import Iterator

from calibration.findings.conclusion import FALLS_ABOVE
from calibration.results import Results
from calibration.results.phrasing import cell_name, percent, with_bounds
from calibration.sanity.figures import LARGEST_GRADIENT_ERROR

FEWEST_IMAGES = 100
"""With fewer images even a perfect defence hardly shows a share below `FALLS_ABOVE`."""


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
    | more than `FALLS_ABOVE` of the benign images are fooled | every worst case counts that many as fooled |
    """
    return (*_of_the_evaluation(results), *_of_the_gradients(results))


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
        yield f"Without any attack {share} of images are accepted and wrong; every worst case counts them as fooled."


def _of_the_gradients(results: Results) -> Iterator[str]:
    for check in results.self_check:
        if check.relative_error <= LARGEST_GRADIENT_ERROR:
            continue
        yield (
            f"The gradient of {check.file} is off by {percent(check.relative_error, digits=0)} from differences of its "
            f"own logits, expected at most {percent(LARGEST_GRADIENT_ERROR, digits=0)}: attacks along it are too weak."
        )
    rounded = sorted({cell.source.file for cell in results.cells if cell.source.straight_through})
    if rounded:
        yield (
            f"{', '.join(rounded)} rounds on the way: gradients pass straight through its roundings as if there were "
            "none. Ask it too, with -a square --threat decision-only, and attack its float twin if it has one, with "
            "--threat black-box --substitute."
        )
    flat = [cell for cell in results.cells if cell.zero_gradients]
    if flat:
        flattest = max(flat, key=lambda cell: cell.zero_gradients / cell.counts.n)
        others = f", and of {len(flat) - 1} further attacks for no larger share" if len(flat) > 1 else ""
        yield (
            f"The gradient of {cell_name(flattest)} was zero everywhere for {flattest.zero_gradients} of "
            f"{flattest.counts.n} images{others}: they were not attacked at all. Gradient masking looks like this."
        )
