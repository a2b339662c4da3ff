"""Saved web pages: .html files and the pictures that lie beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field

from components.data.documents import DocumentError
from components.data.sources.file_groups import grouped
from components.data.sources.files import read_image, read_inside
from components.data.sources.reading_order import MAX_PAGE_BYTES, assemble
from components.data.sources.source import Accepted, Limits, Rejected, Unit, read_options
from components.data.sources.web_page import page_parts
from components.params import CorpusParams, Frozen


class Options(Frozen):
    """What only this format knows."""

    files_per_unit: int = Field(200, ge=1, description="pages that are prepared, retried and quarantined together")


class HtmlSource:
    """Format `html`: each .html or .htm file below the folder is a document; pictures are found by their relative address."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        options = read_options(Options, corpus)
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._units = grouped(folder, (".html", ".htm"), options.files_per_unit, corpus.name)

    def units(self) -> Sequence[Unit]:
        """Pages in the order of their names."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """Each page as a document."""
        for name in unit.files:
            try:
                html = read_inside(self._folder, name, MAX_PAGE_BYTES)
                parts = page_parts(html, f"file:///{name}", self._beside)
            except DocumentError as error:
                yield Rejected(name, str(error))
                continue
            yield from assemble(self._corpus, name, name, parts, self._limits, {"path": name})

    def _beside(self, address: str) -> bytes | None:
        """The file of an address in the folder; None for one on the web, outside, or absent."""
        parts = urlsplit(address)
        if parts.scheme != "file" or parts.netloc:
            return None
        try:
            return read_image(self._folder, unquote(parts.path).lstrip("/"), self._limits.image_pixels)
        except DocumentError:
            return None
