"""Whether held-out images look like the ones a file was measured on in training, or are no benign images of its kind.

A threshold set on attacked, mislabelled or foreign images promises nothing. Nobody can tell them by a look at the
threshold, but accuracy and rejected share tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from scipy.special import bdtr, bdtrc

from runtime.spec import GuardSpec

ALARM = 1e-6
"""Probability below which a difference from the training record is reported; honest images do so once in a million."""


def implausible(spec: GuardSpec, *, images: int, right: int, rejected: int | None) -> Iterator[str]:
    """Yield one sentence for each figure that is far from the one in the training record.

    Args:
        spec: What the file says about itself; without the figures of a training nothing is compared.
        images: Held-out images, at least 1.
        right: How many of them get the right label.
        rejected: How many of them the rule without a threshold rejects; None where that was not counted.
    """
    benign = spec.training.get("benign")
    record = benign if isinstance(benign, dict) else {}
    for name, count, what in (("accuracy", right, "get the right label"), ("rejected", rejected, "are rejected")):
        expected = record.get(name)
        if count is None or not isinstance(expected, int | float) or not 0 <= expected <= 1:
            continue
        if surprise(count, images, expected) < ALARM:
            yield (
                f"expected benign images like those of the training record, of which {expected:.2%} {what}, got "
                f"{count} of {images} ({count / images:.2%}); are they benign, labelled right, and of the same kind?"
            )


def surprise(count: int, images: int, share: float) -> float:
    """Return the two-sided p-value of `count` among `images`, if each counts with probability `share`.

    The share was measured itself, on how many images is not on record. So it is drawn a little to the middle, as if two
    more images had been seen, one of each kind: a recorded 0 or 1 does not make the first exception impossible.

    Args:
        count: In [0, images].
        images: At least 1.
        share: In [0, 1].

    Source: the exact binomial test, twice the smaller tail (Clopper and Pearson 1934); Laplace's rule of succession.
    """
    drawn = (share * images + 1) / (images + 2)
    at_most = float(bdtr(count, images, drawn))
    at_least = float(bdtrc(count - 1, images, drawn)) if count else 1.0
    return min(1.0, 2 * min(at_most, at_least))
