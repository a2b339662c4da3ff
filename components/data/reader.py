"""Documents by byte range from wherever the shards lie, verified against the index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from components.data.documents import CorpusError, Document, LoadedDocument
from components.data.index import Index, Row
from components.data.pictures import PictureError, decode
from components.data.places import ShardPlaces
from components.data.shard_bytes import ShardBytes
from components.data.shards import members
from components.params import Kind

_TRUSTED_PIXELS = 1 << 30
"""Pictures were measured by `prepare`, and their bytes are verified against its digest."""
_AHEAD = 32


class DocumentReader:
    """Reads and verifies documents; safe for any order of access."""

    def __init__(self, index: Index, shards: Path | ShardPlaces) -> None:
        """`shards`: a folder of the shard files or a DVC cache or remote folder (files/md5/...), or all the places there are."""
        self._bytes = ShardBytes(index.shards, shards if isinstance(shards, ShardPlaces) else ShardPlaces(folder=shards))

    def load(self, row: Row, px: int | None = None) -> LoadedDocument:
        """The document and its pictures, whole or, with `px`, at least `px` on each side where that is quicker (`pictures.decode`).

        Raises CorpusError when the bytes are missing or not what the index says.
        """
        document, images = self.stored(row)
        try:
            pictures = tuple(decode(data, _TRUSTED_PIXELS, px) for data in images)
        except PictureError as error:
            raise CorpusError(f"document {row.id}: {error}") from None
        return LoadedDocument(document, pictures, tuple(row.images))

    def stored(self, row: Row) -> tuple[Document, list[bytes]]:
        """The document and its encoded pictures. Raises as `load`."""
        parts = dict(members(self._verified(row)))
        document = Document.model_validate_json(parts[f"{row.id}.json"])
        return document, [parts[item.path] for item in document.images]

    def prefetch(self, rows: Iterable[Row]) -> None:
        """Begin to fetch documents that will be loaded soon from a remote; they stay 64 MiB of memory at most."""
        for row in rows:
            self._bytes.prefetch(row.shard, row.offset, row.length)

    def load_all(self, rows: Sequence[Row]) -> Iterator[LoadedDocument]:
        """Documents one after another, those to come being fetched meanwhile."""
        self.prefetch(rows[:_AHEAD])
        for number, row in enumerate(rows):
            self.prefetch(rows[number + _AHEAD : number + _AHEAD + 1])
            yield self.load(row)

    def close(self) -> None:
        """Close the shard files."""
        self._bytes.close()

    def _verified(self, row: Row) -> bytes:
        for _ in range(2):
            data = self._bytes.read(row.shard, row.offset, row.length)
            if hashlib.sha256(data).hexdigest() == row.sha256:
                return data
            if not self._bytes.forget(row.shard):
                break
        raise CorpusError(
            f"shard {row.shard}: the bytes of document {row.id} are not those of the index; run `dvc checkout` or `dvc pull`, or, where "
            "they come from the remote, `dvc push --force outputs/shards` on a machine that has them"
        )


def evaluation_documents(index_dir: Path, shards: Path | ShardPlaces, kind: Kind, limit: int | None = None) -> list[LoadedDocument]:
    """The first `limit` held-out documents of a kind, in corpus order."""
    index = Index(index_dir)
    reader = DocumentReader(index, shards)
    try:
        return list(reader.load_all(index.rows("evaluation", kind)[:limit]))
    finally:
        reader.close()
