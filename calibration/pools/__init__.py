"""Several guards of which one answers: `pool` is how an attacker meets them, `evaluation` attacks them.

`outcomes` prints what came of it; the results themselves are `calibration.results.pool`.
"""

from calibration.pools.evaluation import evaluate_pool
from calibration.pools.pool import DeployedPool, open_pool

__all__ = ["DeployedPool", "evaluate_pool", "open_pool"]
