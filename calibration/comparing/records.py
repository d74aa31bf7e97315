"""What a comparison of defences is made of: frozen records that become one JSON file and every table and figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calibration.comparing.pointwise import Pointwise
from calibration.comparing.published import Published
from calibration.findings import Kind
from calibration.metrics import Interval

COMPARISON_SCHEMA = 1

ThresholdKind = Literal["calibrated", "re-chosen", "own"]
"""Which threshold figures at 99 % are taken at; see `Defence`."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that every defence was attacked on.

    Attributes:
        name: What the user named.
        split: Always ``test``.
        digest: SHA-256 of that split.
        seed: What samples were drawn with.
        eight_bit: Whether attacked images were rounded to 8 bits before they were judged.
        most: Size of the largest sample; smaller ones are part of it.
    """

    name: str
    split: str
    digest: str
    seed: int
    eight_bit: bool
    most: int


@dataclass(frozen=True, kw_only=True)
class File:
    """One file that was attacked; the fields are those of `results.records.ModelRecord`.

    Attributes:
        file: The path as it was named.
        digest: Digest of graph and metadata.
        sha256: SHA-256 of the file.
        rule: ``pair``, ``confidence`` or ``detector``.
        threshold: Smallest confidence that is accepted.
        calibration: How the threshold was measured, or None.
        recipe: Every option of the training objective.
        commands: What to run to repeat the attacks.
    """

    file: str
    digest: str
    sha256: str
    rule: str
    threshold: float
    calibration: Mapping[str, Any] | None
    recipe: Mapping[str, Any]
    commands: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one attack does by itself, at the thresholds of the files.

    Attributes:
        name: Who attacks with what.
        kind: The same without budget and settings: what other defences must have been attacked with, too.
        source: The file that was differentiated or asked.
        adaptive: Whether it knows the rule.
        fooled: Accepted and wrong, of all attacked images; of a pool, the mean over its members.
        n: Images.
    """

    name: str
    kind: str
    source: str
    adaptive: bool
    fooled: float
    n: int


@dataclass(frozen=True, kw_only=True)
class AtBudget(Pointwise):
    """The worst case of one defence within one budget, image by image over all attacks.

    Attributes:
        norm: ``linf`` or ``l2``.
        epsilon: The largest change.
        restarts: Most starts of an attack with this budget that knows the rule; None where none counts them.
        attacks: Kinds of attacks with this budget, or without one.
        missing: Kinds that other defences were attacked with at this budget, and this one was not.
    """

    norm: str
    epsilon: float
    restarts: int | None
    attacks: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Defence:
    """One row.

    Attributes:
        name: The recipe, and what tells it from other rows of the same one.
        files: The file; of a pool, every member.
        complete: Whether every planned attack of its results is there.
        n: Images that all of its results share.
        threshold: ``calibrated``: the file accepts 99 % of the benign images it gets right, and that threshold was
            attacked. ``re-chosen``: the figures are at such a threshold, chosen after the attack: too good. ``own``:
            that of the file, because the hard rule alone rejects more, or a member of a pool is not calibrated so.
        clean: Benign images with the right label, the rule ignored.
        accepted: Benign images that are accepted.
        benign_fooled: Benign images that are accepted and wrong, without any attack.
        at: One record for each budget that this defence was attacked with.
        lost_to: The harmless change that costs most; None where none was tried.
        available: Benign images accepted after it.
        verdict: The word of `findings.conclude`; of a pool, that of its worst member.
        sentence: The sentence that goes with it.
        tried: Every attack by itself, those that know the rule first.
        doubt: What an attack without a budget got that should have got everything: then the attacks are too weak, and
            the figures too good. None where it succeeded or none was run.
    """

    name: str
    files: tuple[File, ...]
    complete: bool
    n: int
    threshold: ThresholdKind
    clean: Interval
    accepted: Interval
    benign_fooled: Interval
    at: tuple[AtBudget, ...]
    lost_to: str | None
    available: Interval | None
    verdict: Kind
    sentence: str
    tried: tuple[Tried, ...]
    doubt: str | None

    def within(self, norm: str, epsilon: float) -> AtBudget | None:
        """Return the worst case at one budget; None where it was not tried."""
        return next((one for one in self.at if (one.norm, one.epsilon) == (norm, epsilon)), None)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every defence beside every other.

    Attributes:
        schema: Version of this format.
        command: What to run to repeat it.
        images: What was attacked.
        defences: One row each.
        awaited: Names of defences that have not been attacked yet.
        published: What others have published about the same data.
    """

    schema: int = COMPARISON_SCHEMA
    command: str
    images: Images
    defences: tuple[Defence, ...]
    awaited: tuple[str, ...]
    published: tuple[Published, ...]

    @property
    def budgets(self) -> tuple[tuple[str, float], ...]:
        """Norm and ε of every budget that some defence was attacked with, L-infinity first, the smallest first."""
        found = {(one.norm, one.epsilon) for row in self.defences for one in row.at}
        return tuple(sorted(found, key=lambda one: (one[0] != "linf", one[1])))
