"""Who attacks which file with what: options and files become a list of plans, or an error before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from calibration.adoption import Adoption
from calibration.attacks import Attack
from calibration.datasets import Dataset
from calibration.evaluation.victims import Opened, open_victim
from calibration.threats import DEFAULT_NAMES, POOL, Role, Threat, aim, aim_at_pool, choose_threats, rehearse
from runtime.errors import UsageError
from runtime.spec import GuardSpec


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to attack with, as whom, on how many images.

    Attributes:
        attacks: What to attack with; the objective of each is replaced by that of the threat.
        threats: Names of threats, see `threats.NAMES`.
        adoption: How to read the file under attack as somebody else's classifier; None for a guard file.
        twin: The undefended exported network, for the reading ``oracle``.
        unlocked: The defended network trained without the lock, for the reading ``z``.
        substitutes: Networks of the attacker's own, for ``black-box``: guard files or any other classifiers. One with a
            rule of two heads or of detectors is followed twice, by its logits alone and by its own rule.
        n: Size of the sample of test images, at least 1; all of them where there are fewer.
        seed: What the sample is drawn with.
        eight_bit: Whether attacked images are rounded to 8 bits, within the budget, before `Guard` judges them.
        sanity: Whether to run the attacks that sanity checks alone need, see `probes`.
        device: As for `Guard`.
        threads: As for `Guard`.
        command: What to run to repeat it, for the record.

    Raises:
        UsageError: Nothing to attack with, the same attack twice, or `n` below 1.
    """

    attacks: tuple[Attack[Any], ...]
    threats: tuple[str, ...] = DEFAULT_NAMES
    adoption: Adoption | None = None
    twin: Path | None = None
    unlocked: Path | None = None
    substitutes: tuple[Path, ...] = ()
    n: int = 1000
    seed: int = 0
    eight_bit: bool = False
    sanity: bool = False
    device: str = "auto"
    threads: int | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Check what the threats and attacks do not check themselves."""
        if not self.attacks or len(set(self.attacks)) != len(self.attacks):
            raise UsageError(f"attacks: expected one or more different ones, got {len(self.attacks)}; name each once")
        if self.n < 1:
            raise UsageError(f"-n: expected at least 1 image, got {self.n}")
        if self.seed < 0:
            raise UsageError(f"--seed: expected 0 or more, got {self.seed}")

    @property
    def files(self) -> dict[Role, tuple[Path, ...]]:
        """The files beside the guard that were given, by role."""
        given: dict[Role, tuple[Path | None, ...]] = {
            "unlocked": (self.unlocked,),
            "twin": (self.twin,),
            "substitute": self.substitutes,
        }
        found = {role: tuple(path for path in paths if path is not None) for role, paths in given.items()}
        return {role: paths for role, paths in found.items() if paths}

    @property
    def running(self) -> dict[str, Any]:
        """How every file is started."""
        return {"device": self.device, "threads": self.threads}


class Plan(NamedTuple):
    """One attacker with one file: the attacks that have a use for what the threat knows."""

    threat: Threat
    source: Opened
    attacks: tuple[Attack[Any], ...]


def make_plans(
    config: EvaluationConfig, opened: Opened, dataset: Dataset, *, pool: Sequence[GuardSpec] = ()
) -> tuple[Plan, ...]:
    """Open every file and choose who attacks what with what, strongest first.

    Args:
        config: What was asked for.
        opened: The file under attack, or a pool as one file.
        dataset: The images and classes every file has to fit.
        pool: Every member, where it is a pool.

    Raises:
        UsageError: A file does not fit its role, or an attack or a threat is left without the other.
    """
    rule = POOL if pool else opened.artifact.spec.rule
    threats = choose_threats(config.threats, config.files, rule=rule, locked=opened.locked)
    files: Mapping[Role, tuple[Opened, ...]] = {
        "guard": (opened,),
        **{role: tuple(_open_source(path, role, dataset) for path in paths) for role, paths in config.files.items()},
    }
    _check_others(files, [opened.artifact.spec.digest, *(spec.digest for spec in pool)])
    plans = []
    for threat in threats:
        found = [_plan(config, threat, source, opened.artifact.spec, pool) for source in files[threat.role]]
        serving = [plan for plan in found if plan.attacks]
        if not serving and not threat.rehearsed:
            kind = "asks for decisions" if threat.asks else "follows gradients" + " and the rule" * threat.adaptive
            raise UsageError(f"--threat {threat.name}: expected an attack that {kind}, got none; name one with -a")
        plans += serving
    used = {attack.name for plan in plans for attack in plan.attacks}
    idle = [attack.name for attack in config.attacks if attack.name not in used]
    if idle:
        useful = "decision-only" if next(a for a in config.attacks if a.name == idle[0]).asks else "grey-box"
        hint = "" if useful in config.threats else f", such as {useful}"
        given = ", ".join(config.threats) + " against a pool" * bool(pool)
        raise UsageError(
            f"-a {idle[0]}: expected a threat that it serves{hint}, got {given}; see --threat, or leave it out"
        )
    return tuple(plans)


def _plan(
    config: EvaluationConfig, threat: Threat, source: Opened, guard: GuardSpec, pool: Sequence[GuardSpec]
) -> Plan:
    def aimed(attack: Attack[Any]) -> tuple[Attack[Any] | None, ...]:
        if threat.rehearsed:
            return (rehearse(attack, source.artifact.spec),)
        if pool and threat.role == "guard":
            return aim_at_pool(attack, threat, pool)
        return (aim(attack, threat, guard),)

    found = [one for attack in config.attacks for one in aimed(attack)]
    return Plan(threat, source, tuple(one for one in found if one is not None))


def _check_others(files: Mapping[Role, tuple[Opened, ...]], attacked: Sequence[str]) -> None:
    """Refuse a file under attack as a file of the attacker's own: whoever has it is no black-box attacker."""
    for role, opened in files.items():
        for one in opened:
            if role != "guard" and one.artifact.spec.digest in attacked:
                raise UsageError(
                    f"--{role} {one.file}: expected another file, got the one under attack; its attacker is the threat "
                    "nearly-white-box"
                )


def _open_source(path: Path, role: Role, dataset: Dataset) -> Opened:
    opened = open_victim(path, dataset, adoption=None, foreign=role == "substitute")
    spec = opened.artifact.spec
    if role == "twin" and spec.rule != "confidence":
        raise UsageError(f"--twin {path}: expected an undefended file, got one with the rule {spec.rule}")
    if role == "unlocked" and (spec.rule != "pair" or spec.recipe.get("lock", "none") != "none"):
        raise UsageError(
            f"--unlocked {path}: expected a defended file trained with --lock none, got the rule {spec.rule} "
            f"and the lock {spec.recipe.get('lock')}"
        )
    return opened
