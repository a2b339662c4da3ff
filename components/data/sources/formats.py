"""The formats by name. Each is imported when it is asked for: some need packages that others do not."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from components.data.documents import CorpusError
from components.data.sources.source import Limits, Source
from components.params import CorpusParams

FORMATS: dict[str, str] = {
    "captioned": "components.data.sources.captioned:CaptionedSource",
    "documents": "components.data.sources.folder:FolderSource",
}
"""Format to `module:class`, in alphabetical order."""


def open_source(corpus: CorpusParams, folder: Path, limits: Limits) -> Source:
    """The corpus whose files lie in `folder`. Raises CorpusError for an unknown format or a folder that is none of its kind."""
    if corpus.format not in FORMATS:
        raise CorpusError(f"corpus {corpus.name}: there is no format {corpus.format!r}; there are {', '.join(sorted(FORMATS))}")
    module, _, name = FORMATS[corpus.format].partition(":")
    source: Source = getattr(import_module(module), name)(corpus, folder, limits)
    return source
