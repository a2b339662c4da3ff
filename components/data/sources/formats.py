"""The formats by name. Each is imported when it is asked for: some need packages that others do not."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from components.data.documents import CorpusError
from components.data.sources.source import Limits, Source
from components.params import CorpusParams

FORMATS: dict[str, str] = {
    "documents": "components.data.sources.folder:FolderSource",
    "git": "components.data.sources.git_repository:GitSource",
    "html": "components.data.sources.saved_pages:HtmlSource",
    "pdf": "components.data.sources.pdf:PdfSource",
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
