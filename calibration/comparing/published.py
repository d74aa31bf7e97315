"""What others have published about the same budgets, to read a table of measured defences against.

Nothing here was measured by us, and protocols differ: these rows stand apart from measured ones, with their source and
whether the number was found there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Published:
    """One figure of somebody else's.

    Attributes:
        data: Name of the data set.
        defence: What was attacked.
        norm: ``linf`` or ``l2``.
        epsilon: Budget, pixels in [0, 1].
        figure: Which figure, in words.
        percent: Its value.
        source: Where it is said to stand.
        checked: Whether it was found there.
        note: What to know before comparing.
    """

    data: str
    defence: str
    norm: str
    epsilon: float
    figure: str
    percent: float
    source: str
    checked: bool
    note: str


_CCAT = Published(
    data="mnist",
    defence="CCAT",
    norm="linf",
    epsilon=0.3,
    figure="RErr at 99 %",
    percent=7.4,
    source="Stutz et al. 2020 (CCAT), arXiv 1910.06259, table of MNIST",
    checked=False,
    note="read off at 99 % true positive rate; 7 attacks, up to 50 restarts; a residual network",
)

PUBLISHED = (
    _CCAT,
    replace(_CCAT, epsilon=0.4, percent=11.9),
    Published(
        data="mnist",
        defence="Gowal et al. 2020",
        norm="linf",
        epsilon=0.3,
        figure="wrong label, nothing rejected",
        percent=3.66,
        source="AutoAttack's list, github.com/fra31/auto-attack, README, MNIST L∞: 96.34 % robust accuracy",
        checked=True,
        note="10,000 images; a much larger network",
    ),
)
"""The points of comparison named for MNIST."""


def published_for(data: str) -> tuple[Published, ...]:
    """Return what is published about a data set, by the last part of the name or path it was given as."""
    name = data.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return tuple(one for one in PUBLISHED if name == one.data)
