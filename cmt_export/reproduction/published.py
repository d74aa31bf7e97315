"""What the paper published, as shares in [0, 1].

Source: Wang et al. 2018 (arXiv 1803.05123), Tables 3 to 5 and section 4.5. Its Figures 4 to 7 are drawings without
numbers; what the text says of them stands in `FIGURE_NOTES`.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = tuple[float | None, ...]
Key = tuple[str, str, str]

ATTACKS = ("fgs", "igs", "deepfool", "cw")
"""Columns of Tables 3 and 4; the latter has no C&W."""

TABLE3: Mapping[Key, Row] = {
    ("mnist", "black-box", "original"): (0.343, 0.354, 0.341, 0.126),
    ("mnist", "black-box", "defended"): (0.962, 0.958, 0.963, 0.126),
    ("cifar10", "black-box", "original"): (0.616, 0.502, 0.638, 0.089),
    ("cifar10", "black-box", "defended"): (0.686, 0.625, 0.713, 0.100),
    ("mnist", "grey-box", "original"): (0.017, 0.0, 0.0, 0.0),
    ("mnist", "grey-box", "defended"): (0.990, 0.989, 0.985, 0.001),
    ("cifar10", "grey-box", "original"): (0.115, 0.0, 0.003, 0.0),
    ("cifar10", "grey-box", "defended"): (0.730, 0.846, 0.848, 0.0),
}
"""Accuracy through Z* on non-targeted adversarial examples, by data set, threat and model."""

TABLE4: Mapping[Key, Row] = {
    ("mnist", "black-box", "defended"): (0.991, 0.952, 0.977, None),
    ("cifar10", "black-box", "defended"): (0.752, 0.716, 0.737, None),
    ("mnist", "grey-box", "defended"): (0.987, 0.944, 0.952, None),
    ("cifar10", "grey-box", "defended"): (0.752, 0.726, 0.738, None),
}
"""Detection rate over the whole adversarial set, by data set, threat and model."""

TABLE5: Mapping[Key, Row] = {
    ("mnist", "non-targeted", "original"): (1.0,) * 9,
    ("mnist", "non-targeted", "defended"): (0.08, *(0.0,) * 8),
    ("mnist", "targeted", "original"): (1.0, 1.0, 1.0, 1.0, 1.0, 0.98, 0.96, 0.92, 0.90),
    ("mnist", "targeted", "defended"): (0.0,) * 9,
}
"""Success of nearly-white-box C&W on 100 images for κ = 0, 5, …, 40, by data set, kind and model."""

WRONGLY_REJECTED: Mapping[str, float] = {"mnist": 0.0009, "cifar10": 0.0392}
"""Share of benign test images that are rejected (section 4.5)."""

ACCURACY_LOST: Mapping[tuple[str, str], float] = {
    ("mnist", "black-box"): 0.002,
    ("mnist", "grey-box"): 0.0,
    ("cifar10", "black-box"): 0.028,
    ("cifar10", "grey-box"): 0.021,
}
"""By how much the accuracy on benign images falls below the oracle's (section 4.5): through Z* of all images
(``black-box``), and through Z of the accepted ones (``grey-box``)."""

FIGURE_NOTES: Mapping[str, str] = {
    "figure2": "The paper draws this matrix for CIFAR-10 without numbers and calls it symmetric.",
    "figure4": "The paper gives a drawing only; in words: fewer attacks transfer while κ is under 10, not above.",
    "figure5": "The paper gives a drawing only.",
    "figure6": "The paper gives a drawing only; in words: high precision and recall.",
    "figure7": "The paper gives a drawing only; in words the accuracy that is lost, marked here.",
}
"""What the paper says of the figures that it gives no numbers of."""


def published(table: Mapping[Key, Row], key: Key, column: int) -> float | None:
    """Return one cell of a table; None where the paper has none."""
    return table[key][column] if key in table else None
