"""The readable files of a git repository: Markdown and Jupyter notebooks of a checked-out tree, with the pictures they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

from pydantic import Field

from components.data.documents import DocumentError, parse_object
from components.data.sources.file_groups import grouped
from components.data.sources.files import read_image, read_inside
from components.data.sources.markdown import Fetch, markdown_parts
from components.data.sources.notebook import notebook_parts
from components.data.sources.reading_order import MAX_PAGE_BYTES, Part, assemble
from components.data.sources.source import Accepted, Limits, Rejected, Unit, read_options
from components.params import CorpusParams, Frozen


class Options(Frozen):
    """What only this format knows."""

    files_per_unit: int = Field(200, ge=1, description="files that are prepared, retried and quarantined together")


class GitSource:
    """Format `git`: each .md, .markdown and .ipynb file below the folder is a document; pictures are found by their relative path."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        options = read_options(Options, corpus)
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._units = grouped(folder, (".md", ".markdown", ".ipynb"), options.files_per_unit, corpus.name)

    def units(self) -> Sequence[Unit]:
        """Files in the order of their names."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """Each file as a document."""
        for name in unit.files:
            try:
                parts = self._parts(name)
            except DocumentError as error:
                yield Rejected(name, str(error))
                continue
            yield from assemble(self._corpus, name, name, parts, self._limits, {"path": name})

    def _parts(self, name: str) -> list[Part]:
        data = read_inside(self._folder, name, MAX_PAGE_BYTES)
        if name.lower().endswith(".ipynb"):
            return list(notebook_parts(parse_object(data, MAX_PAGE_BYTES), self._from(name)))
        try:
            return list(markdown_parts(data.decode("utf-8-sig"), self._from(name)))
        except UnicodeDecodeError as error:
            raise DocumentError(f"not UTF-8: {error}") from None

    def _from(self, name: str) -> Fetch:
        """Pictures by their address in the file `name`: relative to it, or to the top of the tree where it begins with a slash."""

        def fetch(address: str) -> bytes | None:
            try:
                parts = urlsplit(address)
            except ValueError:
                return None
            if parts.scheme or parts.netloc or not parts.path:
                return None
            path = unquote(parts.path)
            inside = path.lstrip("/") if path.startswith("/") else normpath(join(dirname(name), path))
            try:
                return read_image(self._folder, inside, self._limits.image_pixels)
            except DocumentError:
                return None

        return fetch
