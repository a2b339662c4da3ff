"""What is to be prepared: every corpus below data/input with its input shards, as values that travel to any process or machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.data.documents import SPLITS, Split
from components.data.pictures import encode_png
from components.data.sources.digits import Composer, load_scans
from components.data.sources.formats import open_with, reader_of
from components.data.sources.source import Accepted, Limits, Noted, Rejected, Source, Unit
from components.params import COMPOSED_KINDS, CorpusParams, DataParams

BUILT_IN = "digits"
POOL_DOCUMENTS = 5000
"""Composed documents from which on starting worker processes is quicker than not."""


def nothing_noted(read: int) -> Sequence[str]:
    """The notes of a corpus that knows nothing of its whole."""
    return ()


class Reading(Protocol):
    """How a corpus is opened, wherever it is read."""

    def open(self) -> Documents:
        """The corpus. Raises CorpusError."""
        ...


class Documents(Protocol):
    """The part of a Source that a worker needs."""

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """The documents of an input shard in a fixed order."""
        ...


@dataclass(frozen=True)
class Published:
    """A corpus in its published form; `reader` is the `module:class` that reads it."""

    reader: str
    corpus: CorpusParams
    folder: Path
    limits: Limits

    def open(self) -> Source:
        """The corpus. Raises CorpusError where the folder is none of its kind."""
        return open_with(self.reader, self.corpus, self.folder, self.limits)


@dataclass(frozen=True)
class Composed:
    """The built-in corpus: an input shard is a split and a kind."""

    data: DataParams
    seed: int
    folder: Path

    def open(self) -> ComposedDocuments:
        """The corpus. Raises CorpusError for scans that are missing or none."""
        return ComposedDocuments(self)

    def units(self) -> Sequence[Unit]:
        """Splits and kinds that have documents, in the order in which they are stored."""
        counts = {"train": self.data.documents, "evaluation": self.data.evaluation_documents}
        files = ("scans.npy", "labels.npy")
        return [Unit(f"{split}-{kind}", files) for split in SPLITS for kind in COMPOSED_KINDS if counts[split].get(kind, 0)]


class ComposedDocuments:
    """The opened built-in corpus."""

    def __init__(self, composed: Composed) -> None:
        self._composed = composed
        self._scans, self._labels = load_scans(composed.folder)
        self._composers: dict[Split, Composer] = {}

    def documents(self, unit: Unit) -> Iterator[Accepted]:
        """The documents of a split and kind."""
        split: Split = "train" if unit.name.startswith("train-") else "evaluation"
        kind = next(kind for kind in COMPOSED_KINDS if unit.name == f"{split}-{kind}")
        if split not in self._composers:
            self._composers[split] = Composer(self._composed.data, self._composed.seed, self._scans, self._labels, split)
        for document, pictures in self._composers[split].documents(kind):
            yield Accepted(document, [encode_png(picture) for picture in pictures], [picture.shape[1::-1] for picture in pictures])


@dataclass(frozen=True)
class Corpus:
    """One corpus and its input shards. `notes` are those of `Noted`; `trusted`: it is made by this program, and a failure in it is a bug,
    not bad data."""

    params: CorpusParams
    folder: Path
    reading: Reading
    units: Sequence[Unit]
    notes: Callable[[int], Sequence[str]] = nothing_noted
    trusted: bool = False

    def tag(self, unit: Unit) -> str:
        """What names an input shard in the names of the shards made of it; nothing for the built-in corpus, whose shards are its units."""
        return "" if self.trusted else hashlib.blake2b(unit.name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def corpora(data: DataParams, seed: int, folder: Path) -> list[Corpus]:
    """The corpora of the configured source below data/input, in the order in which they are stored. Raises CorpusError."""
    if data.source == "digits":
        composed = Composed(data, seed, folder / BUILT_IN)
        composed.open()
        return [Corpus(CorpusParams(name=BUILT_IN, format="documents"), composed.folder, composed, composed.units(), trusted=True)]
    found = []
    for params in data.corpora or (CorpusParams(name="folder", format="documents"),):
        reading = Published(reader_of(params), params, folder / params.name, limits(data))
        opened = reading.open()
        found.append(Corpus(params, reading.folder, reading, opened.units(), opened.notes if isinstance(opened, Noted) else nothing_noted))
    return found


def limits(data: DataParams) -> Limits:
    """What a document may weigh."""
    return Limits(data.max_image_pixels, data.max_text_bytes, data.max_document_images)


def wanted_workers(data: DataParams, cores: int, units: int) -> int:
    """Worker processes where nobody says how many, 0 for none: what comes from outside may end its process, so it always gets one; the
    built-in corpus only where that is quicker."""
    composed = sum(data.documents.values()) + sum(data.evaluation_documents.values())
    if data.source == "digits" and (cores == 1 or composed <= POOL_DOCUMENTS):
        return 0
    return min(cores, units)
