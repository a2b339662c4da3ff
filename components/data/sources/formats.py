"""The formats by name. Each is imported when it is asked for: some need packages that others do not."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from components.data.documents import CorpusError
from components.data.sources.source import Limits, Source
from components.params import CorpusParams

FORMATS: dict[str, str] = {
    "captions": "components.data.sources.captions:CaptionsSource",
    "documents": "components.data.sources.folder:FolderSource",
    "git": "components.data.sources.git_repository:GitSource",
    "html": "components.data.sources.saved_pages:HtmlSource",
    "img2dataset": "components.data.sources.img2dataset:Img2datasetSource",
    "mmc4": "components.data.sources.mmc4:Mmc4Source",
    "obelics": "components.data.sources.obelics:ObelicsSource",
    "objects365": "components.data.sources.objects365:Objects365Source",
    "omnicorpus": "components.data.sources.omnicorpus:OmniCorpusSource",
    "pdf": "components.data.sources.pdf:PdfSource",
    "texts": "components.data.sources.texts:TextsSource",
    "warc": "components.data.sources.warc:WarcSource",
}
"""Format to `module:class`, in alphabetical order."""


def reader_of(corpus: CorpusParams) -> str:
    """The `module:class` that reads the corpus. Raises CorpusError for an unknown format."""
    if corpus.format not in FORMATS:
        raise CorpusError(f"corpus {corpus.name}: there is no format {corpus.format!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[corpus.format]


def open_with(reader: str, corpus: CorpusParams, folder: Path, limits: Limits) -> Source:
    """The corpus whose files lie in `folder`, by a `module:class`. Raises CorpusError for a folder that is none of its kind."""
    module, _, name = reader.partition(":")
    source: Source = getattr(import_module(module), name)(corpus, folder, limits)
    return source


def open_source(corpus: CorpusParams, folder: Path, limits: Limits) -> Source:
    """The corpus whose files lie in `folder`. Raises CorpusError for an unknown format or a folder that is none of its kind."""
    return open_with(reader_of(corpus), corpus, folder, limits)
