"""``report.html``: the evaluation of the guard, attackers who know the rule first, as `cmt report` shows it."""

from __future__ import annotations

from collections.abc import Mapping

from calibration.attacks import Fgs, Igs, Pgd
from calibration.report import render_report
from cmt_export.reproduction.evaluating import Evaluate
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.lineup import UNLOCKED
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit


class ReportSection(Section):
    """The evaluation and its page."""

    name = "report"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the evaluation."""
        return (evaluation(sets),)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return page and results; nothing before there are any."""
        results = found.evaluation(evaluation(found.sets))
        if results is None:
            return {}
        stored = found.store.folder(evaluation(found.sets)) / "evaluation.json"
        page = render_report(results).encode("utf-8", "backslashreplace")
        return {"report.html": page, "evaluation.json": stored.read_bytes()}


def evaluation(sets: Sets) -> Evaluate:
    """Return the unit."""
    lineup, config = sets.lineup, sets.lineup.config
    attacks = tuple(
        attack
        for epsilon in lineup.preset.epsilons
        for attack in (
            Fgs(epsilon=epsilon),
            Igs(epsilon=epsilon, steps=config.igs_steps),
            Pgd(epsilon=epsilon, steps=config.pgd_steps, restarts=config.pgd_restarts),
        )
    )
    per_epsilon = 1 + config.igs_steps + (config.pgd_steps + 1) * config.pgd_restarts
    return Evaluate(
        guard=lineup.guard,
        twin=lineup.oracle,
        unlocked=lineup.defended[UNLOCKED],
        substitute=lineup.substitute,
        attacks=attacks,
        gradients=per_epsilon * len(lineup.preset.epsilons),
        n=config.evaluated,
        seed=config.seed,
    )
