"""OBELICS: web pages as paragraphs and the addresses of their pictures.

Form: the data set's card (HuggingFaceM4/OBELICS) and https://github.com/huggingface/OBELICS: parquet files `data/train-*.parquet` with
`images` and `texts` (lists with nulls, see interleaved.py), `metadata` (a JSON list of the same length: `src`, `alt_text`,
`original_width`, `original_height`, `format`, ... of each picture) and `general_metadata` (a JSON object with the page's `url`). The
pictures are not part of it; the user fetches them, as with img2dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.data.documents import DocumentError, Facts
from components.data.sources.image_store import ImageOptions, ImageStore
from components.data.sources.interleaved import read_interleaved
from components.data.sources.listing import shard_units
from components.data.sources.parquet import parquet_records
from components.data.sources.records import Record, documents_of
from components.data.sources.source import Accepted, Limits, Rejected, Unit, read_options
from components.data.sources.values import checked_text, facts_of
from components.params import CorpusParams

_REQUIRED = ("images", "texts")
_COLUMNS = (*_REQUIRED, "metadata", "general_metadata")


class Options(ImageOptions):
    """Where shards and pictures lie."""

    image_names: Literal["stated", "sha256", "sha1", "md5", "img2dataset"] = "sha256"
    shards: str = Field("*.parquet", description="which files are shards: patterns separated by commas, `*` stands for folders too")
    language: str = Field("en", description="language of the corpus; empty: not known")


class ObelicsSource:
    """Format `obelics`: kind `interleaved`, in the order of the page."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._options = read_options(Options, corpus)
        self._units = shard_units(corpus, folder, [self._options.shards], {self._options.images})
        self._store = ImageStore(folder, self._options, limits)

    def units(self) -> Sequence[Unit]:
        """A parquet file each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each row."""
        return documents_of(parquet_records(self._folder, unit.name, _COLUMNS, _REQUIRED), self._read)

    def _read(self, record: Record) -> Iterator[Accepted | Rejected]:
        metadata, page = _json(record[1], "metadata", list), _json(record[1], "general_metadata", dict)
        facts = facts_of([("url", page.get("url")), ("language", self._options.language or None)])
        yield from read_interleaved(self._corpus, self._limits, self._store, record, facts, metadata, _facts)


def _facts(entry: Mapping[str, Any]) -> Facts:
    stated = [("url", entry["address"]), ("alt_text", entry.get("alt_text"))]
    return facts_of([*stated, ("width", entry.get("original_width")), ("height", entry.get("original_height"))])


def _json(values: Mapping[str, Any], name: str, kind: type) -> Any:
    if (text := values.get(name)) is None:
        return kind()
    try:
        value = json.loads(checked_text(text, name))
    except (ValueError, RecursionError) as error:
        raise DocumentError(str(error) if isinstance(error, DocumentError) else f"{name} is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise DocumentError(f"{name} must be {'a list' if kind is list else 'an object'} in JSON")
    return value
