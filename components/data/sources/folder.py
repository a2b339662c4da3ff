"""A user's own folder: documents.jsonl (one document a line), or several of them, and images. Everything in it is hostile until checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.data.documents import CorpusError, DocumentError, ImageItem, document_from
from components.data.pictures import PictureError
from components.data.sources.files import json_lines, read_image
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept
from components.params import CorpusParams

DOCUMENTS_FILE = "documents.jsonl"
DOCUMENTS_FILES = "documents*.jsonl"


def documents_files(folder: Path) -> list[str]:
    """The files of a data folder that hold documents, in the order of their names."""
    return sorted(path.name for path in folder.glob(DOCUMENTS_FILES) if path.is_file())


class FolderSource:
    """Format `documents`: each line of documents.jsonl, documents-1.jsonl and so on is a document in our own form (docs/data.md)."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._files = documents_files(folder)
        if not self._files:
            raise CorpusError(
                f"{folder / DOCUMENTS_FILE} does not exist; a data folder holds {DOCUMENTS_FILE} and the images it names (docs/data.md)"
            )
        self._folder, self._limits = folder, limits

    def units(self) -> Sequence[Unit]:
        """Each file of documents."""
        return [Unit(name, (name,)) for name in self._files]

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """Each line as an accepted document or a rejection."""
        seen: set[str] = set()
        with (self._folder / unit.name).open("rb") as file:
            for line in json_lines(file, unit.name):
                if isinstance(line, Rejected):
                    yield line
                    continue
                where, values = line
                try:
                    accepted = self._accept(values)
                    if accepted.document.id in seen:
                        raise DocumentError(f"id {accepted.document.id} was used before")
                except (DocumentError, PictureError) as error:
                    yield Rejected(where, str(error))
                    continue
                seen.add(accepted.document.id)
                yield accepted

    def _accept(self, values: dict[str, object]) -> Accepted:
        document = document_from(values)
        if "scenes" in document.fields:
            raise DocumentError("fields.scenes belongs to the built-in corpus, by which its pictures are judged; leave it out")
        return accept(document, [self._image(item) for item in document.images], self._limits)

    def _image(self, item: ImageItem) -> bytes:
        data = read_image(self._folder, item.path, self._limits.image_pixels)
        if item.sha256 is not None and hashlib.sha256(data).hexdigest() != item.sha256.lower():
            raise DocumentError(f"image {item.path} does not have the sha256 that its document states")
        return data
