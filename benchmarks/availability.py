"""How many benign images a guard still accepts after harmless changes: a grey level more, noise, JPEG, one pixel aside.

    python benchmarks/availability.py results/mnist/guard.onnx --data mnist/ -n 1000

The label without the rule stands beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calibration.availability import measure_availability
from calibration.datasets import load_dataset
from runtime.guard import Guard


def main() -> None:
    """Measure, and print one line a change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guard", help="a guard file")
    parser.add_argument("--data", default="digits", help="as for `cmt attack`")
    parser.add_argument("-n", type=int, default=1000, help="test images, the sample of `cmt attack`")
    parser.add_argument("--seed", type=int, default=0, help="what sample and noise are drawn with")
    arguments = parser.parse_args()
    test = load_dataset(arguments.data).test
    rows = test.sample(arguments.n, seed=arguments.seed)
    with Guard(arguments.guard) as guard:
        images = np.ascontiguousarray(test.images[rows])
        for one in measure_availability(guard, images, test.labels[rows], seed=arguments.seed):
            shares = ((name, getattr(one, name)) for name in ("accepted", "right_label"))
            words = (f"{name} {100 * s.value:5.1f} % ({100 * s.low:.1f}-{100 * s.high:.1f})" for name, s in shares)
            print(f"{one.change:26}", "   ".join(words))


if __name__ == "__main__":
    main()
