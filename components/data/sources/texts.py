"""Plain texts: JSON lines with a text each, the form in which C4, The Pile and most text corpora are published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from components.data.documents import TextItem, document_from
from components.data.sources.files import json_records
from components.data.sources.listing import shard_units
from components.data.sources.records import Record, documents_of
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept, document_id, read_options
from components.data.sources.values import facts_of, text_of
from components.params import CorpusParams, Frozen


class Options(Frozen):
    """Where the shards lie and what their fields are called."""

    shards: str = Field("*.jsonl", description="which files are shards: patterns separated by commas, `*` stands for folders too")
    text: str = Field("text", description="field of the text")
    language: str = Field("", description="language of the corpus; empty: what the field `language` of a line says, if it is there")


class TextsSource:
    """Format `texts`: kind `text`, one text without pictures."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._options = read_options(Options, corpus)
        self._units = shard_units(corpus, folder, [self._options.shards])

    def units(self) -> Sequence[Unit]:
        """A shard each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each line; lines longer than 10 MB and texts longer than max_text_bytes are rejected."""
        return documents_of(json_records(self._folder, unit.name), self._read)

    def _read(self, record: Record) -> Iterator[Accepted]:
        where, values = record
        name, _, line = where.rpartition(":")
        document = document_from(
            {
                "id": document_id(self._corpus.name, f"{name.rpartition('.')[0]}-{line}"),
                "source": self._corpus.name,
                "kind": "text",
                "split": self._corpus.split,
                "licence": self._corpus.licence,
                "origin": "natural",
                "items": [TextItem(text=text_of(values, self._options.text))],
                "facts": facts_of([("url", values.get("url")), ("language", self._options.language or values.get("language"))]),
            }
        )
        yield accept(document, [], self._limits)
