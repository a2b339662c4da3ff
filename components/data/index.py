"""The index: what training and evaluation know of the corpus without opening a shard.

Opening reads a header and maps columns; it costs the same for ten documents and for a hundred million.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from components.data.columns import COLUMNS, ORDER, Columns, describe, open_column, row_of
from components.data.documents import CorpusError, Split
from components.data.index_v1 import read_version_1
from components.data.index_writer import INDEX_FILE, TOKENIZER_FILE, VERSION, digest_of
from components.data.index_writer import write_index as write_index
from components.data.row import Row as Row
from components.data.selection import Group, Selection, named, names_of
from components.data.shards import Shard
from components.data.tokenizer import Tokenizer
from components.params import Kind

QUARANTINE_FILE, METRICS_FILE = "quarantine.jsonl", "metrics.json"
_FOUND_AT_ONCE = 1 << 18
DROPPED_FILE, COUNTS_FILE = "dropped.jsonl", "counts.json"


class Index:
    """The opened index of a prepared corpus. Documents are numbered in corpus order; `columns` are those of components.data.columns."""

    def __init__(self, folder: Path) -> None:
        """Check the header, the sizes and types of the columns, and the tokenizer. Raises CorpusError naming what is wrong."""
        self.folder = folder
        header = _read_json(folder / INDEX_FILE)
        version = header.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise CorpusError(
                f"{folder / INDEX_FILE}: version {version!r} is not understood; this program reads up to {VERSION}, install a newer mmfs"
            )
        self._header = header
        try:
            self.shards = {shard["name"]: Shard(**shard) for shard in header["shards"]}
            self.tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
            if self.tokenizer.sha256 != header["tokenizer"]["sha256"]:
                raise CorpusError(
                    f"{folder / TOKENIZER_FILE} is not the tokenizer that the index was counted with; run `dvc repro prepare`"
                )
            if version == 1:
                self.columns, counts, self.sha256 = read_version_1(folder, header, list(self.shards))
            else:
                self.columns, counts, self.sha256 = _open(folder, header)
        except (KeyError, TypeError, AttributeError) as error:
            raise CorpusError(f"{folder / INDEX_FILE}: {error!r} where an index has something else; run `dvc repro prepare`") from None
        self.without_items = int(header.get("without_items", len(self.columns["group"])))
        """Documents that cannot be split, for nothing is known of their items."""
        self._shard_names = list(self.shards)
        starts = np.concatenate([[0], np.cumsum([count for *_, count in counts])]).tolist()
        self.groups = tuple(Group(split, source, kind, start, n) for (split, source, kind, n), start in zip(counts, starts, strict=False))

    def __len__(self) -> int:
        return len(self.columns["group"])

    def row(self, number: int) -> Row:
        """The document of a number."""
        group = self.groups[int(self.columns["group"][number])]
        return row_of(self.columns, number, (group.split, group.source, group.kind), self._shard_names)

    def find(self, document: str) -> int | None:
        """The number of a document, by its id; None where there is none. Ids are read one after the other, in memory that does not grow."""
        ends, ids = self.columns["id_end"], self.columns["id"]
        wanted = np.frombuffer(document.encode(), np.uint8)
        for first in range(0, len(self), _FOUND_AT_ONCE):
            own = np.asarray(ends[first : first + _FOUND_AT_ONCE], np.int64)
            start = int(ends[first - 1]) if first else 0
            begins = np.concatenate([[start], own[:-1]])
            fitting = np.flatnonzero(own - begins == len(wanted))
            known = np.asarray(ids[start : int(own[-1])])[(begins[fitting] - start)[:, None] + np.arange(len(wanted))]
            if (same := np.flatnonzero((known == wanted).all(1))).size:
                return first + int(fitting[same[0]])
        return None

    def select(self, split: Split, name: str) -> Selection:
        """Numbers of the documents of a split that a name means: a kind, a source, or SOURCE/KIND. Empty where it means nothing."""
        return Selection(named([group for group in self.groups if group.split == split], name), self.columns.get(ORDER))

    def rows(self, split: Split, kind: Kind) -> Rows:
        """Documents of a split and kind, source by source in corpus order."""
        groups = [group for group in self.groups if (group.split, group.kind) == (split, kind)]
        return Rows(self, Selection(groups, self.columns.get(ORDER)))

    def kinds(self, split: Split) -> list[Kind]:
        """Kinds that have documents in the split."""
        return list(dict.fromkeys(group.kind for group in self.groups if group.split == split))

    def names(self, split: Split) -> list[str]:
        """What a mixture can name in the split."""
        return names_of(group for group in self.groups if group.split == split)

    def verify(self) -> None:
        """Read every column and compare its digest. Raises CorpusError naming the file. Version 1 is verified when it is opened."""
        for name, told in self._header.get("columns", {}).items():
            if describe(path := self.folder / "columns" / f"{name}.npy")["sha256"] != told["sha256"]:
                raise CorpusError(f"{path} differs from what index.json was written for; run `dvc repro prepare`")


class Rows(Sequence[Row]):
    """Rows of a selection, made when they are asked for."""

    def __init__(self, index: Index, selection: Selection) -> None:
        self._index, self._selection = index, selection

    def __len__(self) -> int:
        return len(self._selection)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        chosen = range(len(self))[place]
        if isinstance(chosen, int):
            return self._index.row(int(self._selection[np.array([chosen])][0]))
        return [self._index.row(number) for number in self._selection[np.array(chosen, np.int64)].tolist()]

    def __iter__(self) -> Iterator[Row]:
        return (self[place] for place in range(len(self)))


def _open(folder: Path, header: dict[str, Any]) -> tuple[Columns, list[tuple[Any, ...]], str]:
    """Columns, (split, source, kind, documents) of each group, and digest."""
    if header["sha256"] != digest_of(header):
        raise CorpusError(f"{folder / INDEX_FILE} is not as it was written; run `dvc repro prepare`")
    told = header["columns"]
    columns = {name: open_column(folder, name, told[name]) for name in (*COLUMNS, *([ORDER] if ORDER in told else []))}
    for name, column in COLUMNS.items():
        ends = columns.get(column.per)
        expected = header["documents"] if ends is None else int(ends[-1]) if len(ends) else 0
        if len(columns[name]) != expected:
            raise CorpusError(f"column {name} of {folder} has {len(columns[name])} cells, expected {expected}; run `dvc repro prepare`")
    counts = [(group["split"], group["source"], group["kind"], group["documents"]) for group in header["groups"]]
    if sum(count for *_, count in counts) != header["documents"]:
        raise CorpusError(f"{folder / INDEX_FILE}: its groups are not its {header['documents']} documents; run `dvc repro prepare`")
    return columns, counts, header["sha256"]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist; run `dvc repro prepare`") from None
    except ValueError as error:
        raise CorpusError(f"{path} is not JSON ({error}); run `dvc repro prepare`") from None
    if not isinstance(values, dict):
        raise CorpusError(f"{path}: expected a mapping; run `dvc repro prepare`")
    return values
