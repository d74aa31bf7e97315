"""The unit behind ``report.html``: the guard under every threat, those who know the rule first, sanity checks on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from calibration.attacks import Attack
from calibration.evaluation import EvaluationConfig, evaluate
from calibration.results import Results
from calibration.threats import NAMES
from cmt_export.reproduction.pace import Pace
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit, Work
from runtime.errors import CmtError, UsageError

_THREATS = tuple(name for name in NAMES if name != "decision-only")
_PASSES = 20
"""About how often each attack runs: under each reading of each threat, and for sanity checks."""
_PARTIAL = Path("partial.json")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Unit):
    """Evaluate the guard as `cmt attack --sanity` does.

    Attributes:
        guard: The file under attack.
        twin: The undefended one.
        unlocked: The one trained without the lock.
        substitute: The black-box attacker's own.
        attacks: What to attack with.
        gradients: About how many an image takes under one reading, for the estimate of the time.
        n: Size of the sample.
        seed: Of the sample.
    """

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 2
    files: ClassVar[tuple[str, ...]] = ("evaluation.json",)
    guard: Export
    twin: Export
    unlocked: Export
    substitute: Export
    attacks: tuple[Attack[Any], ...]
    gradients: float
    n: int
    seed: int

    @property
    def title(self) -> str:
        """What it evaluates."""
        return f"evaluate {self.guard.train.name} under every threat, with sanity checks"

    def run(self, work: Work) -> None:
        """Write ``evaluation.json``; what an interrupted run finished is not repeated."""
        guard, twin, unlocked, substitute = (
            _named(work, unit, name)
            for name, unit in (
                ("guard", self.guard),
                ("oracle", self.twin),
                ("unlocked", self.unlocked),
                ("substitute", self.substitute),
            )
        )
        config = EvaluationConfig(
            attacks=self.attacks,
            threats=_THREATS,
            twin=twin,
            unlocked=unlocked,
            substitutes=(substitute,),
            n=self.n,
            seed=self.seed,
            sanity=True,
            command=work.command,
            **work.running,
        )
        keep: Callable[[Results], None] = lambda results: results.save(_PARTIAL)  # noqa: E731
        options: dict[str, Any] = {"progress": lambda what: work.report, "on_cell": keep}
        with contextlib.chdir(work.folder):  # the results name files as they were given
            earlier = _earlier(_PARTIAL)
            try:
                results = evaluate(config, guard, work.data, earlier=earlier, **options)
            except UsageError:
                if earlier is None:
                    raise
                # Begun on another machine, say: what it finished cannot be taken over.
                results = evaluate(config, guard, work.data, **options)
            results.save(Path("evaluation.json"))
            _PARTIAL.unlink(missing_ok=True)

    def seconds(self, pace: Pace) -> float:
        """Return the time of its gradients."""
        return self.n * self.gradients * _PASSES * pace.gradient


def _named(work: Work, unit: Export, name: str) -> Path:
    """Copy a file under a name that a report can show, and return that."""
    path = Path(f"{name}.onnx")
    shutil.copyfile(work.of(unit) / "guard.onnx", work.folder / path)
    return path


def _earlier(path: Path) -> Results | None:
    with contextlib.suppress(CmtError):
        return Results.load(path)
    return None
