"""Format `captioned`: a corpus of another format with the captions that `mmfs data caption` made for it (docs/curation.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from components.data.captioning.files import (
    CAPTIONS_FOLDER,
    CORPUS_FOLDER,
    COSTS_FOLDER,
    Cost,
    Head,
    Line,
    read,
    read_costs,
    shard_digest,
    unit_file,
)
from components.data.captioning.waiting import completed, waits
from components.data.documents import CorpusError, DocumentError, Facts
from components.data.sources.source import Accepted, Limits, Noted, Rejected, Unit
from components.params import CorpusParams, Frozen

_HINT = "run `mmfs data caption`"


class Options(Frozen):
    """`of`: the format of the files in `corpus/`. Options beside it are that format's."""

    of: str


class CaptionedSource:
    """`corpus/` holds the published files, `captions/` a file a shard. What still waits is rejected, never trained on without a text."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        from components.data.sources.formats import open_source

        try:
            options = Options.model_validate({key: value for key, value in corpus.options.items() if key == "of"})
        except ValidationError:
            raise CorpusError(f"corpus {corpus.name}: format captioned needs the option `of`, the format of the files in corpus/") from None
        if options.of == corpus.format:
            raise CorpusError(f"corpus {corpus.name}: `of` is the format of the files in corpus/, not {options.of} again")
        inner = {key: value for key, value in corpus.options.items() if key != "of"}
        self._source = open_source(corpus.model_copy(update={"format": options.of, "options": inner}), folder / CORPUS_FOLDER, limits)
        self._folder, self._limits = folder, limits

    def units(self) -> Sequence[Unit]:
        """The corpus's own shards, each with its captions among its files."""
        return [
            Unit(unit.name, (*(f"{CORPUS_FOLDER}/{name}" for name in unit.files), *self._beside(unit.name)))
            for unit in self._source.units()
        ]

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """Its documents, those that waited with their captions."""
        inner = Unit(
            unit.name, tuple(name.removeprefix(f"{CORPUS_FOLDER}/") for name in unit.files if name.startswith(f"{CORPUS_FOLDER}/"))
        )
        captions, costs = read(self._folder, unit.name), read_costs(self._folder, unit.name)
        stale = captions is not None and captions[0].shard != shard_digest(self._folder / CORPUS_FOLDER, inner.files)
        for one in self._source.documents(inner):
            if isinstance(one, Rejected) or not waits(one.document, captions is not None and captions[0].replace):
                yield one
                continue
            where = f"{unit.name}:{one.document.id}"
            if captions is None:
                yield Rejected(where, f"it waits for a caption; {_HINT}")
            elif stale:
                yield Rejected(where, f"its shard changed after it was captioned; {_HINT} again")
            else:
                try:
                    yield self._complete(one, captions[0], captions[1].get(one.document.id), costs.get(one.document.id))
                except DocumentError as error:
                    yield Rejected(where, str(error))

    def notes(self, read: int) -> Sequence[str]:
        """Those of the corpus itself."""
        return self._source.notes(read) if isinstance(self._source, Noted) else ()

    def _complete(self, waiting: Accepted, head: Head, line: Line | None, cost: Cost | None) -> Accepted:
        if line is None or line.text is None:
            raise DocumentError(f"it has no caption: {line.problem if line else 'the file of its shard does not name it'}")
        if (size := len(line.text.encode("utf-8", "surrogatepass"))) > self._limits.text_bytes:
            raise DocumentError(f"a caption of {size} bytes is longer than max_text_bytes ({self._limits.text_bytes})")
        facts: Facts = {"captioner": head.captioner, "captioner_digest": head.captioner_digest}
        if line.alignment is not None:
            facts["alignment"] = line.alignment
        if cost is not None:
            facts["cost_seconds"] = cost.seconds
            if cost.usd is not None:
                facts["cost_usd"] = cost.usd
        if not line.text:
            raise DocumentError("its caption is empty")
        return replace(waiting, document=completed(waiting.document, line.text, facts))

    def _beside(self, unit: str) -> list[str]:
        names = [f"{folder}/{unit_file(unit)}" for folder in (CAPTIONS_FOLDER, COSTS_FOLDER)]
        return [name for name in names if (self._folder / name).is_file()]
