"""OmniCorpus: web pages (CC, CW) and videos (YT) as texts and pictures in turn.

Form: the card of the data set OpenGVLab/OmniCorpus-CC and https://github.com/OpenGVLab/OmniCorpus (mllm_llava/llava/train/datasets.py,
ObelicsFormatDataset): parquet files, or JSON lines of the same fields: `images` and `texts` (lists with nulls, see interleaved.py),
`metadata` (a list of the same length; of each picture `aesthetic_prob`, `unsafe_prob`, `width`, `height`, `img_url_sha`, `p_hash`,
`d_hash`, ...) and `general_metadata` (`url`, `id`, `domain`, `fluency_prob`, `non_advertisement_prob`, `politics_prob`, `porn_prob`,
`toxic_prob`). Its training code names a picture's file by the sha256 of its address, without an ending. The pictures are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.data.documents import Facts
from components.data.sources.files import json_records
from components.data.sources.image_store import ImageOptions, ImageStore
from components.data.sources.interleaved import read_interleaved
from components.data.sources.listing import shard_units
from components.data.sources.parquet import parquet_records
from components.data.sources.records import Record, documents_of
from components.data.sources.source import Accepted, Limits, Rejected, Unit, read_options
from components.data.sources.values import facts_of, list_of, object_of
from components.params import CorpusParams

_REQUIRED = ("images", "texts")
_COLUMNS = (*_REQUIRED, "metadata", "general_metadata")
_PAGE_FACTS = ("fluency_prob", "non_advertisement_prob", "politics_prob", "toxic_prob")


class Options(ImageOptions):
    """Where shards and pictures lie, and the language of the section: `en` of CC and YT, `zh` of CW."""

    image_names: Literal["stated", "sha256", "sha1", "md5", "img2dataset"] = "sha256"
    shards: str = Field("*.parquet,*.jsonl", description="which files are shards: patterns separated by commas, `*` stands for folders too")
    language: str = Field("", description="language of the section, as `en` or `zh`; empty: not known")


class OmniCorpusSource:
    """Format `omnicorpus`: kind `interleaved`, in the order of the page."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._options = read_options(Options, corpus)
        self._units = shard_units(corpus, folder, [self._options.shards], {self._options.images})
        self._store = ImageStore(folder, self._options, limits)

    def units(self) -> Sequence[Unit]:
        """A file each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each row or line."""
        if unit.name.endswith(".parquet"):
            return documents_of(parquet_records(self._folder, unit.name, _COLUMNS, _REQUIRED), self._read)
        return documents_of(json_records(self._folder, unit.name), self._read)

    def _read(self, record: Record) -> Iterator[Accepted | Rejected]:
        values = record[1]
        metadata = list_of(values, "metadata") if values.get("metadata") is not None else []
        page = object_of(values, "general_metadata")
        stated = [("url", page.get("url")), ("language", self._options.language or None), ("nsfw", page.get("porn_prob"))]
        stated += [(name, page.get(name)) for name in _PAGE_FACTS]
        yield from read_interleaved(self._corpus, self._limits, self._store, record, facts_of(stated), metadata, _facts)


def _facts(entry: Mapping[str, Any]) -> Facts:
    stated = [("url", entry["address"]), ("aesthetic", entry.get("aesthetic_prob")), ("nsfw", entry.get("unsafe_prob"))]
    return facts_of([*stated, ("width", entry.get("width")), ("height", entry.get("height")), ("p_hash", entry.get("p_hash"))])
