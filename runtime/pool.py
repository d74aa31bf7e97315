"""Several guards behind one face: each call is answered by one of them, drawn at random.

An attack made against one member has to fool the others too, for nobody knows who will answer. It is worth what the
members differ in, and nothing against an attack that fools them all: measure the members one by one (`members`), and
the worst of them as well as their mean.

Source: the paper's future work (Wang et al. 2018, section 8), which switches pre-trained parameter sets at random.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime.artifact import PathOrBytes
from runtime.errors import UsageError
from runtime.guard import Guard
from runtime.verdicts import Verdicts

if TYPE_CHECKING:
    from runtime.guard import Images


class GuardPool:
    """Guards for the same images and classes; one of them, drawn anew for each call, answers.

    The draw is per call, not per image: all images of one call are answered by the same member, so that images which
    belong together get comparable confidences, and a call costs what one guard costs. The pool may be used from many
    threads; which of them gets which draw is then up to their order.

    Attributes:
        members: The guards, in the order given, for whoever evaluates them one by one.
    """

    def __init__(
        self,
        guards: Iterable[Guard | PathOrBytes],
        *,
        seed: int | None = 0,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Open every member, and check that they fit together.

        Args:
            guards: Two or more guards, paths of guard files or their bytes. The pool closes all of them when it closes.
            seed: What members are drawn with, so that a run can be repeated; an attacker who knows it knows who will
                answer. None draws unpredictably, from the operating system: deploy it so.
            device: As for `Guard`, for the members that are not open yet.
            threads: As for `Guard`, for the members that are not open yet.

        Raises:
            UsageError: There are fewer than two, one twice, their classes or their images differ, or `seed` is no whole
                number.
            ModelError: A file is invalid.
            DeviceError: The device does not run.
        """
        if isinstance(guards, str | bytes | os.PathLike) or not isinstance(guards, Iterable):
            raise UsageError(f"guards: expected two or more guards or files, got {guards!a:.80}; put them in a list")
        if seed is not None and not isinstance(seed, int):
            raise UsageError(f"seed: expected a whole number or None, got {seed!a:.80}")
        members: list[Guard] = []
        self._seed = seed
        self._random = random.SystemRandom() if seed is None else random.Random(seed)
        opened: list[Guard] = []
        try:
            for guard in guards:
                if not isinstance(guard, Guard):
                    guard = Guard(guard, device=device, threads=threads)
                    opened.append(guard)
                members.append(guard)
            _check_members(members)
        except BaseException:
            for guard in opened:
                guard.close()
            raise
        self.members: tuple[Guard, ...] = tuple(members)

    def classify(self, images: Images) -> Verdicts:
        """Classify or reject images with one member, drawn for this call.

        Args:
            images: As for `Guard.classify`.

        Returns:
            N verdicts; `robust_logits` are there where this member has two heads.

        Raises:
            UsageError: `images` do not fit, or the pool is closed.
            ModelError: As for `Guard.classify`.
        """
        return self.members[self._random.randrange(len(self.members))].classify(images)

    def close(self) -> None:
        """Close every member; later calls raise UsageError. Closing twice is fine."""
        for guard in self.members:
            guard.close()

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every member."""
        self.close()

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.members)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the members and the seed; the copy draws from the beginning."""
        return _restore, (self.members, self._seed)

    def __repr__(self) -> str:
        """Return the members."""
        return f"<GuardPool of {len(self)}: {', '.join(map(repr, self.members))}>"


def _check_members(members: list[Guard]) -> None:
    if len(members) < 2:
        raise UsageError(f"pool: expected two or more guards, got {len(members)}; a single one needs no pool")
    if len({guard.spec.digest for guard in members}) < len(members):
        raise UsageError(f"pool: expected guards that differ, got {', '.join(map(repr, members))}; leave one out")
    first = members[0]
    for guard in members[1:]:
        for what, expected, got in (
            ("classes", first.spec.classes, guard.spec.classes),
            ("input", first.spec.input, guard.spec.input),
        ):
            if got != expected:
                raise UsageError(
                    f"pool: expected the {what} of {first!r} in every member, {expected!a:.120}, got {got!a:.120} in "
                    f"{guard!r}; train the members on the same data"
                )


def _restore(members: tuple[Guard, ...], seed: int | None) -> GuardPool:
    return GuardPool(members, seed=seed)
