"""The unit of scoring: a block of consecutive inputs that share one run of the network.

Blocks are cut from the listing alone, and every run is padded to one size. So a row is the same to the bit whoever
scores its block: this process, a worker, a shard, a resumed run, an actor on another machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from runtime.errors import UsageError
from runtime.inputs import Item

CUT_BYTES = 1 << 26
"""A block ends early when its contents, read from an archive, weigh so much."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive inputs.

    Attributes:
        index: Its place among all blocks of the listing.
        items: At least one.
        crashing: Positions of items whose decoding ended a process before.
    """

    index: int
    items: tuple[Item, ...]
    crashing: frozenset[int] = frozenset()

    @property
    def weight(self) -> int:
        """Bytes of the contents it carries."""
        return sum(map(_weight, self.items))

    @property
    def inputs(self) -> str:
        """SHA-256 over the names of its inputs."""
        return digest_of(item.key for item in self.items)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A share of the blocks: every `of`-th one, beginning with number `index`.

    Raises:
        UsageError: Not 0 <= `index` < `of`.
    """

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.index < self.of:
            raise UsageError(f"--shard: expected i/N with 0 <= i < N, got {self.index}/{self.of}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/N``.

        Raises:
            UsageError: It is not of that form, or out of range.
        """
        index, _, of = text.partition("/")
        if not (index.isdecimal() and of.isdecimal() and text.isascii() and len(text) < 20):
            raise UsageError(f"--shard: expected i/N, such as 0/4, got {text!a:.80}")
        return cls(index=int(index), of=int(of))


def digest_of(names: Iterable[str]) -> str:
    """Return the SHA-256 of names, none of which holds a line break."""
    return sha256("\n".join(names).encode()).hexdigest()


def cut(items: Iterable[Item], *, batch: int, shard: Shard) -> Iterator[Block]:
    """Cut a stream of inputs into blocks of `batch`, and yield those of a shard."""
    index, block, weight = 0, list[Item](), 0
    for item in items:
        block.append(item)
        weight += _weight(item)
        if len(block) == batch or weight >= CUT_BYTES:
            if index % shard.of == shard.index:
                yield Block(index=index, items=tuple(block))
            index, block, weight = index + 1, [], 0
    if block and index % shard.of == shard.index:
        yield Block(index=index, items=tuple(block))


def _weight(item: Item) -> int:
    return len(item.source) if isinstance(item.source, bytes) else 0
