from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.runtime import fuzz_child

CASES = 2400
SEED = 20180314
ROOT = Path(__file__).parents[2]


def run_cases(seed: int, cases: int) -> tuple[list[str], list[str]]:
    """Run all cases in one child, restarted behind a case that killed it; return outcomes and crashes."""
    outcomes: list[str] = []
    crashes: list[str] = []
    while len(outcomes) < cases and len(crashes) < 5:
        command = [sys.executable, "-m", fuzz_child.__name__, str(seed), str(len(outcomes)), str(cases)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        outcomes += done.stdout.splitlines()
        if done.returncode != 0:
            crashes.append(f"case {len(outcomes)}: exit code {done.returncode}: {done.stderr[-500:]}")
            outcomes.append("crashed")
    return outcomes, crashes


def test_mutated_files_are_refused_or_decide_the_same() -> None:
    outcomes, crashes = run_cases(SEED, CASES)
    assert crashes == []
    assert len(outcomes) == CASES
    counts = Counter(" ".join(outcome.split()[:2]) for outcome in outcomes)
    assert [outcome for outcome in outcomes if " raised " in outcome] == []
    assert counts["blind different"] == 0
    assert counts["blind refused"] > 1000
    # Whoever stamps a file may make it decide as they like; it must still be refused cleanly or run without a crash.
    assert counts["restamped refused"] > 500
    assert counts["restamped same"] + counts["restamped different"] > 20
