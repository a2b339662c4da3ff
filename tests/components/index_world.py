"""An index of made-up documents, written by the real writer, for tests of order and packing that open no shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from components.data.documents import Split
from components.data.index import Index, Row, write_index
from components.data.row import IMAGE
from components.data.shards import Shard
from components.data.tokenizer import fit
from components.kinds import Kind

SHARD = Shard("made-up.tar", 1 << 20, 1, "0" * 64, "0" * 32)


@cache
def tokenizer_json() -> str:
    """A small tokenizer."""
    return fit(["a red 3 northwest ."] * 3, 300)


def row(
    key: str, items: Iterable[int], source: str = "made", kind: Kind = "interleaved", given: Iterable[int] = (), split: Split = "train"
) -> Row:
    """A document of these items: text tokens, -1 for an image."""
    items, given = tuple(items), tuple(given)
    images = items.count(IMAGE)
    return Row(
        id=key,
        source=source,
        kind=kind,
        split=split,
        shard=SHARD.name,
        offset=0,
        length=512,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        tokens=sum(tokens for tokens in items if tokens != IMAGE),
        images=((32, 24),) * images,
        trained_images=sum(tokens == IMAGE and number not in given for number, tokens in enumerate(items)),
        items=items,
        given=given,
    )


def made_index(folder: Path, rows: Iterable[Row]) -> Index:
    """The index of these documents, opened."""
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, rows, [SHARD], tokenizer_json())
    return Index(folder)
