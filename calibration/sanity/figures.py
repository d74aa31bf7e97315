"""Sanity checks that hold one figure against a limit."""

from __future__ import annotations

import numpy as np

from calibration.attacks.norms import Budget
from calibration.availability import UNCHANGED
from calibration.metrics import share
from calibration.results import Results
from calibration.results.pairs import best
from calibration.results.phrasing import attack_with_strength, cell_name, percent, with_bounds
from calibration.results.worst_case import budget_of, least_changes
from calibration.sanity.check import NOT_RUN, Found

LARGEST_FLAT_SHARE = 0.05
"""Share of images without any gradient from which on an attack was none."""
LARGEST_GRADIENT_ERROR = 0.2
"""Rounding and kinks leave less, a wrong gradient about 1; see `gradients.check.GradientCheck`."""
UNBOUNDED_LEAST = 0.99
"""Share an attack without a bound has to reach."""
TWIN_LEAST = 0.9
"""Share of images on which an attack has to break a network without defence."""
NOISE_MOST = 0.01
"""Share that random noise may fool beyond what is fooled without an attack."""
LOST_MOST = 0.05
"""Share of benign images that a harmless change may turn into rejections."""


def unbounded(results: Results) -> Found:
    """Return whether attacks that may change everything succeed everywhere.

    Those in the ball of all images start from noise, those without a ball from the image: each kind has to by itself.
    """
    free = [cell for cell in results.cells if cell.adaptive and budget_of(cell) is None]
    bests = filter(None, (best(results.probed("unbounded"), "fooled"), best(free, "fooled")))
    reached = min(bests, key=lambda cell: cell.rates.fooled.high, default=None)
    if reached is None:
        return NOT_RUN
    failed = reached.rates.fooled.high < UNBOUNDED_LEAST
    return Found("failed" if failed else "passed", f"{cell_name(reached)}: {with_bounds(reached.rates.fooled)}")


def flat_gradients(results: Results) -> Found:
    """Return whether every image had a gradient."""
    cells = [cell for cell in results.cells if cell.gradients_per_image > 0]
    if not cells:
        return NOT_RUN
    flattest = max(cells, key=lambda cell: cell.zero_gradients / cell.counts.n)
    failed = flattest.zero_gradients > LARGEST_FLAT_SHARE * flattest.counts.n
    missed = f"{cell_name(flattest)} found none for {flattest.zero_gradients} of {flattest.counts.n} images"
    return Found("failed" if failed else "passed", missed if flattest.zero_gradients else "every image had one")


def gradient_errors(results: Results) -> Found:
    """Return whether gradients agree with differences of the logits."""
    if not results.self_check:
        return NOT_RUN
    worst = max(results.self_check, key=lambda check: np.nan_to_num(check.relative_error, nan=np.inf))
    error = f"{worst.file} is off by {percent(worst.relative_error)}"
    return Found("passed" if worst.relative_error <= LARGEST_GRADIENT_ERROR else "failed", error)


def probabilities(results: Results) -> Found:
    """Return whether logits are no probabilities."""
    if not results.logits_checks:
        return NOT_RUN
    bad = [check for check in results.logits_checks if check.probabilities]
    shown = bad or results.logits_checks
    figures = ", ".join(f"{check.tensor} of {check.file} comes from {check.operator}" for check in shown)
    return Found("failed" if bad else "passed", figures)


def undefended(results: Results) -> Found:
    """Return whether the attack breaks the undefended twin."""
    reached = best(results.probed("twin"), "fooled")
    if reached is None:
        return NOT_RUN
    failed = reached.rates.fooled.high < TWIN_LEAST
    figures = f"{attack_with_strength(reached)} on {reached.source.file}: {with_bounds(reached.rates.fooled)}"
    return Found("failed" if failed else "passed", figures)


def noise(results: Results) -> Found:
    """Return whether random noise fools nobody who is not fooled without it."""
    noisy = best([cell for cell in (*results.cells, *results.probed("noise")) if cell.attack == "noise"], "fooled")
    if noisy is None:
        return NOT_RUN
    benign = results.benign.rates.fooled
    failed = noisy.rates.fooled.low > benign.value + NOISE_MOST
    figures = f"{cell_name(noisy)}: {with_bounds(noisy.rates.fooled)}, without an attack {with_bounds(benign)}"
    return Found("failed" if failed else "passed", figures)


def repetition(results: Results) -> Found:
    """Return whether crafting twice gives the same bits."""
    found = results.repetition
    if found is None:
        return NOT_RUN
    figures = f"{found.attack} twice: {found.different} of {found.images} images differ"
    return Found("failed" if found.different else "passed", figures)


def half_budget(results: Results) -> Found:
    """Return whether the claim at ε is plausible beside the labels that survive at ε/2, the rule ignored."""
    verdicts, truth = results.benign.verdicts, results.data.truth
    claims = [row for row in results.worst_cases if row.norm is not None and row.epsilon]
    if verdicts is None or truth is None or not claims:
        return NOT_RUN
    claim = claims[0]
    epsilon, norm = claim.epsilon or 0.0, claim.norm or "linf"
    half = Budget(epsilon=epsilon / 2, norm="l2" if norm == "l2" else "linf")
    strongest = best((cell for cell in (*results.cells, *results.probed("half")) if budget_of(cell) == half), "label")
    if strongest is None:
        return NOT_RUN
    fooled = least_changes(verdicts, truth, results.cells, norm=norm) <= epsilon + 1e-6
    claimed = verdicts.outcomes(truth).correct & ~fooled
    robust = share(int(np.sum(claimed)), len(truth))
    labels = strongest.rates.right_label
    figures = f"at ε = {epsilon:g}: {with_bounds(robust)} claimed, at half of it: {with_bounds(labels)} right labels"
    return Found("failed" if robust.low > labels.high else "passed", figures)


def availability(results: Results) -> Found:
    """Return whether harmless changes are accepted."""
    untouched = next((one for one in results.availability if one.change == UNCHANGED), None)
    changed = [one for one in results.availability if one.invisible and one.change != UNCHANGED]
    if untouched is None or not changed:
        return NOT_RUN
    worst = min(changed, key=lambda one: one.accepted.value)
    failed = untouched.accepted.value - worst.accepted.value > LOST_MOST
    figures = f"{worst.change}: {with_bounds(worst.accepted)} accepted, unchanged {with_bounds(untouched.accepted)}"
    return Found("failed" if failed else "passed", figures)
