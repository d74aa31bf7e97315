"""What attacks ascend: `objective` says what one is and has the cross-entropy of a single head.

`rule` and `detector` are for attackers who know the reject rule, `margin` and `log_odds` for those who follow the
decisions themselves, `pool` for those who face several guards.
"""

from calibration.objectives.objective import CROSS_ENTROPY, CrossEntropy, Objective, one_hot

__all__ = ["CROSS_ENTROPY", "CrossEntropy", "Objective", "one_hot"]
