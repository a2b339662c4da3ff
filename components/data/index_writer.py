"""Writes the index row by row, in bounded memory; the same rows give the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.data.columns import ALL_COLUMNS, COLUMNS, ORDER, ColumnFile, cells, chunks, describe
from components.data.documents import CorpusError
from components.data.row import Row
from components.data.shards import Shard
from components.data.tokenizer import Tokenizer

VERSION = 2
INDEX_FILE, TOKENIZER_FILE = "index.json", "tokenizer.json"
CHUNK = 4096
"""Documents that are held at once."""
MAX_GROUPS = 1 << 16
Group = tuple[str, str, str]


class Groups:
    """(split, source, kind) by number, in the order in which they first come."""

    def __init__(self) -> None:
        self.numbers: dict[Group, int] = {}

    def of(self, rows: Sequence[Row]) -> list[int]:
        """The group of each row. Raises CorpusError where there are too many to be kept in the header."""
        found = [self.numbers.setdefault((row.split, row.source, row.kind), len(self.numbers)) for row in rows]
        if len(self.numbers) > MAX_GROUPS:
            raise CorpusError(
                f"the corpus has more than {MAX_GROUPS} combinations of split, source and kind; `source` names a corpus, not a document"
            )
        return found


def write_index(folder: Path, rows: Iterable[Row], shards: Iterable[Shard], tokenizer_json: str) -> str:
    """Write index.json, columns/ and tokenizer.json into an existing folder; the digest of all of it.

    `rows` are taken one by one and may be a generator. Raises CorpusError for a row of an unknown shard or one that does not fit.
    """
    (folder / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
    (folder / "columns").mkdir(exist_ok=True)
    shards = list(shards)
    names = {shard.name: number for number, shard in enumerate(shards)}
    groups = Groups()
    files = {name: ColumnFile(folder / "columns" / f"{name}.npy", column) for name, column in COLUMNS.items()}
    ends = dict.fromkeys((name for name in COLUMNS if name.endswith("_end")), 0)
    counts, without_items = np.zeros(0, np.int64), 0
    try:
        for chunk in chunks(rows, CHUNK):
            own = groups.of(chunk)
            written = cells(chunk, own, [_shard(row, names) for row in chunk], ends)
            for name, values in written.items():
                files[name].append(values)
            without_items += sum(not row.items for row in chunk)
            ends = {name: int(written[name][-1]) for name in ends}
            found = np.bincount(own, minlength=len(groups.numbers))
            found[: len(counts)] += counts
            counts = found
        columns = {name: file.finish() for name, file in files.items()}
    finally:
        for file in files.values():
            file.close()
    if (order := _write_order(folder, counts)) is not None:
        columns[ORDER] = order
    tokenizer = Tokenizer(tokenizer_json)
    header: dict[str, Any] = {
        "version": VERSION,
        "documents": int(counts.sum()),
        "without_items": without_items,
        "tokenizer": {"file": TOKENIZER_FILE, "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
        "groups": [
            {"split": split, "source": source, "kind": kind, "documents": int(count)}
            for (split, source, kind), count in zip(groups.numbers, counts, strict=True)
        ],
        "columns": columns,
        "shards": [asdict(shard) for shard in shards],
    }
    header["sha256"] = digest_of(header)
    (folder / INDEX_FILE).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    return str(header["sha256"])


def digest_of(header: Mapping[str, Any]) -> str:
    """Digest of the whole index: its header holds those of the columns, of the shards and of the tokenizer."""
    values = {name: value for name, value in header.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _shard(row: Row, names: Mapping[str, int]) -> int:
    if row.shard not in names:
        raise CorpusError(f"document {row.id} lies in shard {row.shard}, which was not written")
    return names[row.shard]


def _write_order(folder: Path, counts: np.ndarray) -> dict[str, Any] | None:
    """Document numbers by group, in corpus order within one; None where they already stand like that."""
    if not counts.sum():
        return None
    groups = np.load(folder / "columns" / "group.npy", mmap_mode="r")
    if not any((np.diff(groups[start : start + CHUNK + 1].astype(np.int64)) < 0).any() for start in range(0, len(groups), CHUNK)):
        return None
    path = folder / "columns" / f"{ORDER}.npy"
    order = np.lib.format.open_memmap(path, "w+", np.dtype(ALL_COLUMNS[ORDER].dtype), (len(groups),))
    place = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for start in range(0, len(groups), CHUNK):
        own = groups[start : start + CHUNK]
        by_group = np.argsort(own, kind="stable")
        within = np.arange(len(own)) - np.searchsorted(own[by_group], own[by_group])
        order[place[own[by_group]] + within] = start + by_group
        place += np.bincount(own, minlength=len(place))
    order.flush()
    return {"file": f"columns/{ORDER}.npy", "dtype": ALL_COLUMNS[ORDER].dtype, "shape": [len(groups)]} | describe(path)
