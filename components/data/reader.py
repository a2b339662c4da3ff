"""Documents by byte range from a shard folder or a content-addressed DVC store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from components.data.documents import CorpusError, Document, LoadedDocument
from components.data.index import Index, Row
from components.data.pictures import PictureError, decode
from components.data.shards import Shard, members
from components.params import Kind

_MAX_OPEN = 64
_TRUSTED_PIXELS = 1 << 30
"""Pictures were measured by `prepare`, and their bytes are verified against its digest."""


class DocumentReader:
    """Reads and verifies documents; safe for any order of access."""

    def __init__(self, index: Index, shards: Path) -> None:
        """`shards`: the folder of the shard files, or a DVC cache or remote folder (files/md5/...)."""
        self._index = index
        self._folder = shards
        self._open: dict[str, int] = {}

    def load(self, row: Row) -> LoadedDocument:
        """The document and its pictures. Raises CorpusError when the bytes are missing or not what the index says."""
        data = os.pread(self._descriptor(row.shard), row.length, row.offset)
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise CorpusError(
                f"shard {row.shard}: the bytes of document {row.id} are not those of the index; run `dvc checkout` or `dvc pull`"
            )
        parts = dict(members(data))
        document = Document.model_validate_json(parts[f"{row.id}.json"])
        try:
            pictures = tuple(decode(parts[item.path], _TRUSTED_PIXELS) for item in document.images)
        except PictureError as error:
            raise CorpusError(f"document {row.id}: {error}") from None
        return LoadedDocument(document, pictures)

    def close(self) -> None:
        """Close the shard files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            if len(self._open) >= _MAX_OPEN:
                self.close()
            self._open[name] = os.open(self._find(self._index.shards[name]), os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]

    def _find(self, shard: Shard) -> Path:
        for path in (self._folder / shard.name, self._folder / "files" / "md5" / shard.md5[:2] / shard.md5[2:]):
            if path.is_file():
                return path
        raise CorpusError(
            f"shard {shard.name} is neither in {self._folder} nor there by its md5 {shard.md5}; run `dvc pull outputs/shards`"
        )


def evaluation_documents(index_dir: Path, shards_dir: Path, kind: Kind, limit: int | None = None) -> list[LoadedDocument]:
    """The first `limit` held-out documents of a kind, in corpus order."""
    index = Index(index_dir)
    reader = DocumentReader(index, shards_dir)
    try:
        return [reader.load(row) for row in index.rows("evaluation", kind)[:limit]]
    finally:
        reader.close()
