"""Child of `test_fuzz`: loads mutated guard files one after the other and reports each outcome on a line of its own.

Arguments: seed, first case, last case. A native crash ends this process, and the parent sees which case it was.
"""

from __future__ import annotations

import sys

import numpy as np

from runtime import Guard
from runtime.errors import CmtError
from tests.runtime import guard_files as files
from tests.runtime.mutations import mutate

RECIPE = files.Recipe()  # without calibration, so that a restamped graph gets as far as ONNX Runtime


def outcome(case: int, seed: int, original: bytes, images: np.ndarray, expected: list[bytes]) -> str:
    mutated, restamped = mutate(original, np.random.default_rng([seed, case]))
    owner = "restamped" if restamped else "blind"
    try:
        verdicts = Guard(mutated, device="cpu", threads=1).classify(images)
    except CmtError as error:
        return f"{owner} refused {type(error).__name__}"
    except Exception as error:
        return f"{owner} raised {type(error).__name__}: {' '.join(str(error).split())}"
    got = [array.tobytes() for array in (verdicts.labels, verdicts.accepted, verdicts.confidence, verdicts.logits)]
    return f"{owner} same" if got == expected else f"{owner} different"


def main() -> None:
    seed, first, last = map(int, sys.argv[1:])
    original = files.build(RECIPE)
    images = files.random_images(RECIPE, 4)
    verdicts = Guard(original, device="cpu", threads=1).classify(images)
    expected = [array.tobytes() for array in (verdicts.labels, verdicts.accepted, verdicts.confidence, verdicts.logits)]
    for case in range(first, last):
        print(outcome(case, seed, original, images, expected), flush=True)


if __name__ == "__main__":
    main()
