"""WebDataset shards: tars of KEY.json + KEY.N.png, readable by any tool, written byte-identically, read by byte range."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from components.data.documents import CorpusError, Document
from components.data.pictures import extension

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Place:
    """Where a document lies: shard file name, first byte and number of bytes, sha256 of these bytes."""

    shard: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """One finished shard. `md5` is how DVC addresses the same bytes."""

    name: str
    size: int
    documents: int
    sha256: str
    md5: str


class ShardWriter:
    """Writes documents into numbered shards, one series per split and kind: [CORPUS-]SPLIT-KIND[-TAG]-NUMBER.tar."""

    def __init__(self, folder: Path, documents_per_shard: int, corpus: str = "", tag: str = "") -> None:
        """`tag` tells apart the shards of several writers of a corpus."""
        self._folder = folder
        self._corpus, self._tag = f"{corpus}-" if corpus else "", f"-{tag}" if tag else ""
        self._limit = documents_per_shard
        self._open: dict[str, _OpenShard] = {}
        self._numbers: dict[str, int] = {}
        self._finished: list[Shard] = []

    def add(self, document: Document, images: list[bytes]) -> Place:
        """Append a document whose image items name their members; `images` are the encoded files in item order."""
        series = f"{self._corpus}{document.split}-{document.kind}{self._tag}"
        if series not in self._open:
            number = self._numbers.get(series, 0)
            self._numbers[series] = number + 1
            self._open[series] = _OpenShard(self._folder / f"{series}-{number:05d}.tar")
        shard = self._open[series]
        members = [(f"{document.id}.json", document.model_dump_json().encode())]
        members += [(item.path, data) for item, data in zip(document.images, images, strict=True)]
        place = shard.append(b"".join(_member(name, data) for name, data in members))
        if shard.documents >= self._limit:
            self._finished.append(self._open.pop(series).finish())
        return place

    def finish(self) -> list[Shard]:
        """Close all shards; what was written, by name."""
        self._finished += [shard.finish() for shard in self._open.values()]
        self._open.clear()
        return sorted(self._finished, key=lambda shard: shard.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for shard in self._open.values():
            shard.close()


class ShardCopy:
    """A shard written again with some of its documents."""

    def __init__(self, source: Path, target: Path) -> None:
        """`target` is made, under the name it will have."""
        self._source: BinaryIO = source.open("rb")
        self._target = _OpenShard(target)

    def take(self, offset: int, length: int) -> Place:
        """Append the document in a byte range of the source."""
        self._source.seek(offset)
        return self._target.append(self._source.read(length))

    def finish(self) -> Shard:
        """Close both."""
        self._source.close()
        return self._target.finish()


class _OpenShard:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb")
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._size = 0
        self.documents = 0

    def append(self, data: bytes) -> Place:
        place = Place(self._path.name, self._size, len(data), hashlib.sha256(data).hexdigest())
        self._write(data)
        self.documents += 1
        return place

    def finish(self) -> Shard:
        end = 2 * _BLOCK
        self._write(bytes(end + -(self._size + end) % tarfile.RECORDSIZE))
        self.close()
        return Shard(self._path.name, self._size, self.documents, self._sha256.hexdigest(), self._md5.hexdigest())

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self._size += len(data)


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a document's members from its byte range. Raises CorpusError for bytes that are no tar members.

    For bytes that were verified: the checksum of a header says no more than their digest, and would take longer than the digest.
    """
    position = 0
    try:
        while position < len(data):
            name, size = _name_and_size(data, position)
            start = position + _BLOCK
            if start + size > len(data):
                raise CorpusError(f"member {name} is cut short")
            yield name, data[start : start + size]
            position = start + size + -size % _BLOCK
    except ValueError as error:
        raise CorpusError(f"no tar member at byte {position} of a document ({error})") from None


def member_name(key: str, number: int, data: bytes) -> str:
    """Member name of a document's image: KEY.N and the extension of its content. Raises PictureError for what is no picture."""
    return f"{key}.{number}.{extension(data)}"


def _member(name: str, data: bytes) -> bytes:
    header = bytearray(_HEADER)
    encoded = name.encode("ascii")
    header[: len(encoded)] = encoded
    header[124:135] = b"%011o" % len(data)
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % _BLOCK)


def _name_and_size(data: bytes, position: int) -> tuple[str, int]:
    """Of the USTAR header there. Raises ValueError."""
    if data[position + 257 : position + 262] != b"ustar":
        raise ValueError("no USTAR header")
    return data[position : position + 100].partition(b"\0")[0].decode("ascii"), int(data[position + 124 : position + 135], 8)


def _header() -> bytes:
    """A USTAR header without name, size and checksum, whose bytes count as blanks in its own sum."""
    header = bytearray(tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT))
    header[124:135] = bytes(11)
    header[148:156] = b" " * 8
    return bytes(header)


_HEADER = _header()
