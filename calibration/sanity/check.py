"""Sanity checks: what a strict reviewer asks before believing that a defence holds, each with a verdict and figures.

A failed check says that the attacks were too weak, or that the defence is none; it turns ``holds`` into ``undecided``
(`findings`). Checks are computed from the results; some need attacks that `cmt attack --sanity` adds
(`evaluation.probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from calibration.results import Results
from calibration.results.pairs import Pair, excess, success, surprising
from calibration.results.phrasing import cell_name, with_bounds

Verdict = Literal["passed", "failed", "not run"]


class Found(NamedTuple):
    """What a check found: a verdict, and the figures it rests on in words."""

    verdict: Verdict
    figures: str


NOT_RUN = Found("not run", "")


@dataclass(frozen=True, kw_only=True)
class SanityCheck:
    """One check.

    Attributes:
        name: What holds when it passes, in a few words.
        raised_if: When it fails.
        explanation: What a failure means.
        needs: What has to be run for it.
        judge: The check itself.
    """

    name: str
    raised_if: str
    explanation: str
    needs: str
    judge: Callable[[Results], Found]


@dataclass(frozen=True, kw_only=True)
class SanityVerdict:
    """What one check says of some results.

    Attributes:
        name: That of the check.
        verdict: ``passed``, ``failed`` or ``not run``.
        figures: What it rests on; for a check that was not run, what it needs.
        raised_if: That of the check.
        explanation: That of the check.
    """

    name: str
    verdict: Verdict
    figures: str
    raised_if: str
    explanation: str


def run_checks(checks: Iterable[SanityCheck], results: Results) -> tuple[SanityVerdict, ...]:
    """Return the verdict of each check, in their order."""
    return tuple(_verdict(check, check.judge(results)) for check in checks)


def judge_pairs(pairs: Iterable[Pair], results: Results) -> Found:
    """Return failed where one attack of a pair succeeds more often than the other one, although it should not.

    The figures are those of the pair that is furthest from what was expected.
    """
    listed = sorted(pairs, key=lambda pair: (surprising(pair, results.data.truth), excess(pair)))
    if not listed:
        return NOT_RUN
    furthest = listed[-1]
    weak, strong = (with_bounds(success(cell, furthest.goal)) for cell in (furthest.weaker, furthest.stronger))
    unit = "" if furthest.goal == "fooled" else " (wrong labels)"
    failed = surprising(furthest, results.data.truth)
    figures = (
        f"{cell_name(furthest.weaker)}{furthest.note}: {weak} against {cell_name(furthest.stronger)}: {strong}{unit}"
    )
    return Found("failed" if failed else "passed", figures)


def _verdict(check: SanityCheck, found: Found) -> SanityVerdict:
    return SanityVerdict(
        name=check.name,
        verdict=found.verdict,
        figures=f"needs {check.needs}" if found.verdict == "not run" else found.figures,
        raised_if=check.raised_if,
        explanation=check.explanation,
    )
