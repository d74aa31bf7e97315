from __future__ import annotations

import pytest

from runtime import blocks as module
from runtime.blocks import Block, Shard, cut, digest_of
from runtime.errors import UsageError
from runtime.inputs import Item

ITEMS = [Item(str(index), str(index), f"/{index}") for index in range(23)]


def keys(blocks: list[Block]) -> list[list[str]]:
    return [[item.key for item in block.items] for block in blocks]


@pytest.mark.parametrize("batch", [1, 4, 5, 23, 100])
def test_blocks_are_consecutive(batch: int) -> None:
    blocks = list(cut(ITEMS, batch=batch, shard=Shard()))
    assert [item for block in blocks for item in block.items] == ITEMS
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert {len(block.items) for block in blocks[:-1]} <= {batch}


@pytest.mark.parametrize("of", [1, 2, 3, 7, 30])
def test_the_shards_are_the_whole(of: int) -> None:
    whole = list(cut(ITEMS, batch=2, shard=Shard()))
    shards = [list(cut(ITEMS, batch=2, shard=Shard(index=index, of=of))) for index in range(of)]
    assert sorted((block for shard in shards for block in shard), key=lambda block: block.index) == whole
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_heavy_contents_end_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CUT_BYTES", 10)
    items = [Item(str(index), "", bytes(size)) for index, size in enumerate((4, 4, 4, 30, 1, 1))]
    blocks = list(cut(items, batch=5, shard=Shard()))
    assert keys(blocks) == [["0", "1", "2"], ["3"], ["4", "5"]]
    assert [block.weight for block in blocks] == [12, 30, 2]


def test_the_digest_tells_names_apart() -> None:
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"])
    assert digest_of(["a", "b"]) == digest_of(iter("ab"))


@pytest.mark.parametrize("text", ["0/1", "3/4", "0/1000"])
def test_shards(text: str) -> None:
    shard = Shard.parse(text)
    assert f"{shard.index}/{shard.of}" == text


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "-1/2", "2/2", "0/0", "a/b", "1/2/3", "²/3", "0x1/2", "1" * 30])
def test_no_shards(text: str) -> None:
    with pytest.raises(UsageError, match="--shard: expected i/N"):
        Shard.parse(text)
