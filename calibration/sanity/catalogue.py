"""Every sanity check, strictest reviewer first; `docs/evaluation.md` prints them as a table.

Source: Carlini et al. 2019 (On evaluating adversarial robustness), section 5; Tramèr 2022 (Detecting adversarial
examples is (nearly) as hard as classifying them); Croce and Hein 2020 for what their code warns of.
"""

from __future__ import annotations

from calibration.results import Results
from calibration.sanity import comparisons, figures
from calibration.sanity.check import SanityCheck, SanityVerdict, run_checks

MASKING = "gradients beat decisions"
"""The check without which nothing can be said to hold: masked gradients look like robustness to all others."""

CHECKS = (
    SanityCheck(
        name="many steps beat one step",
        raised_if="FGS succeeds on more images than the best of IGS, PGD and APGD within the same budget",
        explanation="Many steps contain the single one; the attacks are broken or badly tuned, or gradients mislead.",
        needs="fgs beside igs, pgd or apgd with the same ε, or --sanity",
        judge=comparisons.one_step,
    ),
    SanityCheck(
        name="knowing the file beats transfer",
        raised_if="an attack crafted on another file fools more images than the best one crafted on this file",
        explanation="Gradients of this file mislead: the defence hides them, it does not withstand the attack.",
        needs="grey-box with --twin or black-box with --substitute beside nearly-white-box",
        judge=comparisons.transfer,
    ),
    SanityCheck(
        name="knowing the rule beats ignoring it",
        raised_if="an attacker of this file who ignores its rule fools more images than one who knows it",
        explanation="Whoever knows the rule may ignore it; what he ascends does not lead to accepted images.",
        needs="grey-box beside nearly-white-box with the same ε",
        judge=comparisons.ignorance,
    ),
    SanityCheck(
        name="a larger budget succeeds more",
        raised_if="the same attack succeeds on more images with a smaller ε",
        explanation="The larger ball contains the smaller one; the attack with the larger one did not converge.",
        needs="one attack with two values of --epsilon, or --sanity",
        judge=comparisons.budgets,
    ),
    SanityCheck(
        name="an unbounded attack succeeds",
        raised_if="an adaptive attack that may change everything fools fewer than 99 % of the images",
        explanation="Some image of another class is always within reach; an attack that misses it is stuck.",
        needs="cw against nearly-white-box, or --sanity",
        judge=figures.unbounded,
    ),
    SanityCheck(
        name="more work changes nothing",
        raised_if="twice the steps and restarts succeed on more images",
        explanation="The attack had not converged; what it found is a floor, not an estimate.",
        needs="--sanity",
        judge=comparisons.doubled_work,
    ),
    SanityCheck(
        name="every image has a gradient",
        raised_if="an attack found a gradient of zero in every pixel for more than 5 % of the images",
        explanation="Those images were never attacked. Gradient masking looks like this.",
        needs="an attack that follows gradients",
        judge=figures.flat_gradients,
    ),
    SanityCheck(
        name="gradients agree with differences",
        raised_if="a gradient is further than 20 % from differences of the file's own logits",
        explanation="Attacks along a wrong gradient fail for no merit of the defence.",
        needs="an attack that follows gradients",
        judge=figures.gradient_errors,
    ),
    SanityCheck(
        name=MASKING,
        raised_if="an attack that sees verdicts only fools more images than the best one with gradients",
        explanation="Gradients are less than no gradients: they are masked, or the objective is wrong.",
        needs="decision-only beside nearly-white-box with the same ε, or --sanity",
        judge=comparisons.decisions,
    ),
    SanityCheck(
        name="attacks held to ε beat free ones",
        raised_if="an attack without a budget fools more images within ε than the best of IGS, PGD and APGD held to ε",
        explanation="The attacks held to ε stalled, and missed images that lie within; the claim at ε rests on them.",
        needs="cw beside igs, pgd or apgd, all against nearly-white-box",
        judge=comparisons.from_outside,
    ),
    SanityCheck(
        name="the lock hides nothing",
        raised_if="gradients from before the lock fool more images than those from behind it",
        explanation="What looks like robustness is the lock between the attacker and the gradient.",
        needs="pre-lock beside nearly-white-box with the same ε",
        judge=comparisons.pre_lock,
    ),
    SanityCheck(
        name="the same attack breaks an undefended network",
        raised_if="it fools the undefended twin on fewer than 90 % of the images",
        explanation="An attack that does not break a network without defence says nothing about one with.",
        needs="--sanity with --twin",
        judge=figures.undefended,
    ),
    SanityCheck(
        name="random noise fools nobody",
        raised_if="random noise within the budget fools more images than no attack does, by more than 1 %",
        explanation="No attack is needed: wrong and accepted images lie everywhere.",
        needs="noise against decision-only, or --sanity",
        judge=figures.noise,
    ),
    SanityCheck(
        name="the same again gives the same",
        raised_if="crafting twice with one seed gives other pixels",
        explanation="Figures cannot be repeated, and an attack on a randomised defence needs averaging.",
        needs="--sanity",
        judge=figures.repetition,
    ),
    SanityCheck(
        name="logits are no probabilities",
        raised_if="a tensor taken for logits comes from Softmax or Sigmoid, or its rows are probabilities",
        explanation="Probabilities saturate, and the gradients of attacks with them.",
        needs="an attack that follows gradients",
        judge=figures.probabilities,
    ),
    SanityCheck(
        name="the claim is plausible at half the budget",
        raised_if="more images are claimed at ε than the same network keeps right labels for at ε/2, its rule ignored",
        explanation="A detector that is robust at ε would make a classifier that is robust at ε/2: "
        "such a claim needs a robust network, or a better attack will end it.",
        needs="the attack at half of the largest ε, or --sanity",
        judge=figures.half_budget,
    ),
    SanityCheck(
        name="harmless changes are accepted",
        raised_if="a harmless change has more than 5 % of the images rejected beyond those rejected without it",
        explanation="Rejecting everything near an image is no detection of attacks: users pay for it every day.",
        needs="results of this version of cmt",
        judge=figures.availability,
    ),
)
"""Every check, in the order of the report."""


def check_sanity(results: Results) -> tuple[SanityVerdict, ...]:
    """Return the verdict of every check on some results."""
    return run_checks(CHECKS, results)
