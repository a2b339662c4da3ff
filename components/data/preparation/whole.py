"""What only all parts together decide: which documents must go, and which texts a tokenizer is fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.data.preparation.part import HASHES, ROWS, Part, lines
from components.data.sources.source import Rejected
from components.data.tokenizer import FITTED_TEXTS, drawn


@dataclass(frozen=True)
class Prepared:
    """A finished part, and the input shard of which corpus it is."""

    corpus: str
    unit: str
    part: Part

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.part.folder


@dataclass
class Removals:
    """Ids of documents that leave the parts they were written into, by the part's folder; those that are quarantined, with their corpus and
    where they stood."""

    ids: dict[Path, set[str]] = field(default_factory=dict)
    rejected: list[tuple[str, Rejected]] = field(default_factory=list)

    def of(self, part: Part) -> frozenset[str]:
        """The ids that leave a part."""
        return frozenset(self.ids.get(part.folder, ()))


def repeated(parts: Sequence[Prepared]) -> Removals:
    """Documents whose id an earlier part has: an id is one document's. Ids are compared by 64 bits first, 8 bytes a document."""
    found = Removals()
    hashes = [np.load(one.folder / HASHES, allow_pickle=False) for one in parts]
    every = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    twice = np.unique(every[1:][every[1:] == every[:-1]])
    first: dict[str, Prepared] = {}
    for one, own in zip(parts, hashes, strict=True):
        if not len(twice) or not np.isin(own, twice).any():
            continue
        for row, suspect in zip(lines(one.folder / ROWS), np.isin(own, twice).tolist(), strict=True):
            if suspect and (before := first.setdefault(row["id"], one)) is not one:
                found.ids.setdefault(one.folder, set()).add(row["id"])
                where = Rejected(one.unit, f"id {row['id']} was used before, in {before.corpus}/{before.unit}")
                found.rejected.append((one.corpus, where))
    return found


def fitted_on(parts: Sequence[Prepared], leaving: Removals) -> Iterator[tuple[Prepared, tuple[int, ...]]]:
    """Which training texts of each part, by number, a tokenizer is fitted on: FITTED_TEXTS of all, drawn by their place in the corpus, so
    that it does not matter which part they are in."""
    counts = [_train_texts(one.part, leaving) for one in parts]
    numbers = drawn(sum(counts), FITTED_TEXTS)
    start = 0
    for one, count in zip(parts, counts, strict=True):
        own = numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, start + count)] - start
        if len(own):
            yield one, tuple(own.tolist())
        start += count


def _train_texts(part: Part, leaving: Removals) -> int:
    if not (gone := leaving.of(part)):
        return part.train_texts
    left = (row["layout"].count("t") for row in lines(part.folder / ROWS) if row["id"] in gone and row["split"] == "train")
    return part.train_texts - sum(left)
