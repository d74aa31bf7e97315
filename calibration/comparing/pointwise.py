"""One budget, all attacks, image by image: what is left of one file, or of a pool of which one member answers.

An attacker chooses the attack for each image; the draw of a member comes after that choice. So an image counts by the
largest share of members over all attacks, and for a single file by whether any attack succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.attacks.norms import Budget
from calibration.detection import area_interval
from calibration.metrics import Interval, share
from calibration.results.image_columns import VerdictColumns
from calibration.results.joining import Shared
from calibration.results.worst_case import kept_within

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


class Member(NamedTuple):
    """One file that may answer.

    Attributes:
        shared: What it says to the images, attacked and not; the attacks in the same order for every member.
        threshold: Smallest confidence that is accepted, chosen after the attack; None keeps the verdicts of the file.
    """

    shared: Shared
    threshold: float | None


_Mask = Callable[[VerdictColumns, Member], BoolArray]


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """Shares of n images, each with a 95 % interval; of a pool, expectations over who answers.

    Attributes:
        n: Images.
        fooled: Accepted and wrong under one attack at least.
        adaptive_fooled: The same by attacks that know the rule; None where there are none.
        wrong_or_rejected: Wrong or rejected under one attack at least: error without credit for rejection.
        wrong_label: A wrong label under one attack at least, the rule ignored.
        robust_error: RErr: wrong among the accepted, each image benign or attacked, whatever is worse. None where
            nothing is accepted, and for a pool.
        by_every: Images of which one attack fools every member; None for a single file.
        by_worst: `fooled` of the member that fares worst; None for a single file.
    """

    n: int
    fooled: Interval
    adaptive_fooled: Interval | None
    wrong_or_rejected: Interval
    wrong_label: Interval
    robust_error: Interval | None
    by_every: Interval | None
    by_worst: Interval | None


class Untouched(NamedTuple):
    """Shares of the images before any attack, each with its interval; of a pool, expectations over who answers.

    Attributes:
        right_label: A right label, the rule ignored.
        accepted: Accepted, whatever the label.
        fooled: Accepted and wrong.
    """

    right_label: Interval
    accepted: Interval
    fooled: Interval


def untouched(members: Sequence[Member]) -> Untouched:
    """Return what a file, or a pool, says to benign images."""

    def of(mask: _Mask) -> Interval:
        return _expected(np.array([[mask(one.shared.benign, one) for one in members]]))

    return Untouched(right_label=of(_right), accepted=of(_accepted), fooled=of(_fooled))


def pointwise(members: Sequence[Member], budget: Budget | None) -> Pointwise:
    """Return what all attacks together achieve within a budget.

    Doing nothing is an attack, and one that was given another budget counts where its change is within this one.

    Args:
        members: One file, or the members of a pool on the same attacked images.
        budget: The ball around an image; None for any change.

    Source: Croce and Hein 2020, section 4, for the worst case over attacks; Athalye et al. 2018, section 4, for the
        expectation over what is drawn; Stutz et al. 2020 (CCAT), section 4, for RErr.
    """
    fooled = _tried(members, budget, _fooled)
    knowing = _tried(members, budget, _fooled, adaptive=True)
    pool = len(members) > 1
    return Pointwise(
        n=fooled.shape[2],
        fooled=_expected(fooled),
        adaptive_fooled=_expected(knowing) if len(knowing) > 1 else None,
        wrong_or_rejected=_expected(_tried(members, budget, lambda one, of: ~(_accepted(one, of) & _right(one, of)))),
        wrong_label=_expected(_tried(members, budget, lambda one, of: ~_right(one, of))),
        robust_error=None if pool else _robust_error(members[0], np.asarray(fooled[:, 0].any(axis=0))),
        by_every=_counted(np.asarray(fooled.all(axis=1))) if pool else None,
        by_worst=max(_counted(fooled[:, one]) for one in range(len(members))) if pool else None,
    )


def _tried(members: Sequence[Member], budget: Budget | None, mask: _Mask, *, adaptive: bool = False) -> BoolArray:
    """Return where a mask holds under each attack, nothing done first, for each member, ``(attacks, members, n)``."""
    rows = [[mask(one.shared.benign, one) for one in members]]
    for cells in zip(*(one.shared.cells for one in members), strict=True):
        if not adaptive or cells[0].adaptive:
            columns = [(cell.verdicts, cell.changes) for cell in cells]
            rows.append(
                [
                    mask(verdicts, one) & kept_within(changes, budget)
                    for (verdicts, changes), one in zip(columns, members, strict=True)
                    if verdicts is not None and changes is not None
                ]
            )
    return np.array(rows)


def _accepted(columns: VerdictColumns, of: Member) -> BoolArray:
    if of.threshold is None:
        return columns.accepted_array
    return columns.scores(of.shared.truth).accepted(of.threshold)


def _right(columns: VerdictColumns, of: Member) -> BoolArray:
    return np.asarray(columns.label_array == of.shared.truth)


def _fooled(columns: VerdictColumns, of: Member) -> BoolArray:
    return _accepted(columns, of) & ~_right(columns, of)


def _expected(tried: BoolArray) -> Interval:
    """Return the mean over images of the largest share of members, ``(attacks, members, n)``."""
    if tried.shape[1] == 1:
        return _counted(tried[:, 0])
    shares: FloatArray = tried.mean(axis=1).max(axis=0)
    return area_interval(float(shares.mean()), pairs=len(shares))


def _counted(tried: BoolArray) -> Interval:
    """Return the share of images for which one attack at least is enough, ``(attacks, n)``."""
    return share(int(tried.any(axis=0).sum()), tried.shape[1])


def _robust_error(of: Member, fooled: BoolArray) -> Interval | None:
    counted = int((_accepted(of.shared.benign, of) | fooled).sum())
    return share(int(fooled.sum()), counted) if counted else None
