"""Image-caption lines as the official release reads them.

Form: text shards (`0000000.txt`, ...) of one JSON object a line, `image` (a path below the folder of pictures) and `caption` (a string, or
a list that is joined by spaces), as the release's `laion_wds` data set expects them; the paper's captions of CC-12M and Objects365 and
its LAION sets have this form. Python's single quotes, which the release's own example has, are no JSON and are refused with that reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from components.data.documents import TextItem, document_from
from components.data.sources.files import json_records, read_image
from components.data.sources.listing import shard_units
from components.data.sources.records import Record, documents_of
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept, document_id, read_options
from components.data.sources.values import checked_text, facts_of, text_of
from components.params import CorpusParams, Frozen

_FACTS = ("similarity", "aesthetic", "nsfw", "width", "height", "url", "caption_model")


class Options(Frozen):
    """Where shards and pictures lie, and whose captions they are."""

    shards: str = Field("*.jsonl,*.txt", description="which files are shards: patterns separated by commas, `*` stands for folders too")
    images: str = Field(
        "images", description="folder that `image` is relative to, below the corpus folder; empty: the corpus folder itself"
    )
    lower_case: bool = Field(False, description="captions in lower case, as the release has them")
    caption_model: str = Field("", description="what wrote the captions; empty: people did, on the web")


class CaptionsSource:
    """Format `captions`: kind `caption`, a picture and its sentence."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._options = read_options(Options, corpus)
        self._units = shard_units(corpus, folder, [self._options.shards], {self._options.images})

    def units(self) -> Sequence[Unit]:
        """A shard each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each line."""
        return documents_of(json_records(self._folder, unit.name), self._read)

    def _read(self, record: Record) -> Iterator[Accepted]:
        where, values = record
        caption, name = self._caption(values), text_of(values, "image")
        model = self._options.caption_model
        stated = [(fact, values.get(fact)) for fact in _FACTS]
        facts = facts_of([("caption_model", model or None), *stated])
        document = document_from(
            {
                "id": document_id(self._corpus.name, _key(where)),
                "source": self._corpus.name,
                "kind": "caption",
                "split": self._corpus.split,
                "licence": self._corpus.licence,
                "origin": "automated" if "caption_model" in facts else "natural",
                "items": [{"type": "image", "id": "0", "path": name, "facts": facts}, TextItem(text=caption)],
                "prompt_items": 1,
                "fields": {"references": [caption]},
            }
        )
        yield accept(document, [read_image(self._folder / self._options.images, name, self._limits.image_pixels)], self._limits)

    def _caption(self, values: dict[str, object]) -> str:
        caption = values.get("caption")
        if isinstance(caption, list):
            caption = " ".join(checked_text(part, "caption") for part in caption)
        text = text_of(values | {"caption": caption} if "caption" in values else values, "caption")
        return text.lower() if self._options.lower_case else text


def _key(where: str) -> str:
    """`0000000-12` of line 12."""
    name, _, line = where.rpartition(":")
    return f"{name.rpartition('.')[0]}-{line}"
