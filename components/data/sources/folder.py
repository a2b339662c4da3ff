"""A user's own folder: documents.jsonl (one document a line) and its images. Everything in it is hostile until checked."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from components.data.documents import CorpusError, Document, DocumentError, ImageItem, parse_document
from components.data.pictures import PictureError, decode
from components.data.shards import member_name

DOCUMENTS_FILE = "documents.jsonl"
_MAX_LINE_BYTES = 10_000_000
_MAX_BYTES_PER_PIXEL = 8


@dataclass(frozen=True)
class Accepted:
    """A usable document, its encoded images and their [width, height] in item order."""

    document: Document
    images: list[bytes]
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class Rejected:
    """A line that is quarantined: where it is and what is wrong with it."""

    where: str
    reason: str


def read_folder(folder: Path, max_image_pixels: int) -> Iterator[Accepted | Rejected]:
    """Each line of documents.jsonl as an accepted document or a rejection. Raises CorpusError when there is no such file."""
    path = folder / DOCUMENTS_FILE
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; a data folder holds {DOCUMENTS_FILE} and the images it names (docs/data.md)")
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            where = f"{DOCUMENTS_FILE}:{number}"
            if not line.strip():
                continue
            try:
                if len(line) > _MAX_LINE_BYTES:
                    raise DocumentError(f"longer than {_MAX_LINE_BYTES} bytes")
                accepted = _accept(line, folder, max_image_pixels)
                if accepted.document.id in seen:
                    raise DocumentError(f"id {accepted.document.id} was used before")
            except (DocumentError, PictureError) as error:
                yield Rejected(where, str(error))
                continue
            seen.add(accepted.document.id)
            yield accepted


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long only its beginning, so that it cannot fill the memory."""
    while line := file.readline(_MAX_LINE_BYTES + 1):
        yield line
        while len(line) > _MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE_BYTES + 1)


def _accept(line: bytes, folder: Path, max_image_pixels: int) -> Accepted:
    try:
        document = parse_document(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8: {error}") from None
    if "scenes" in document.fields:
        raise DocumentError("fields.scenes belongs to the built-in corpus, by which its pictures are judged; leave it out")
    images = [_read_image(folder, item, max_image_pixels) for item in document.images]
    sizes = []
    for item, data in zip(document.images, images, strict=True):
        try:
            height, width, _ = decode(data, max_image_pixels).shape
        except PictureError as error:
            raise PictureError(f"{item.path}: {error}") from None
        sizes.append((width, height))
    if document.kind == "referring":
        _check_box_inside(document, sizes)
    return Accepted(_with_members(document, images), images, sizes)


def _with_members(document: Document, images: list[bytes]) -> Document:
    """The document with its image items naming their members in a shard."""
    names = (member_name(document.id, number, data) for number, data in enumerate(images))
    items = [item.model_copy(update={"path": next(names)}) if isinstance(item, ImageItem) else item for item in document.items]
    return document.model_copy(update={"items": tuple(items)})


def _read_image(folder: Path, item: ImageItem, max_image_pixels: int) -> bytes:
    root = folder.resolve()
    try:
        path = (root / item.path).resolve(strict=True)
        status = path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise DocumentError(f"image {item.path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_relative_to(root):
        raise DocumentError(f"image {item.path} leads out of the folder")
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError(f"image {item.path} is no regular file")
    if status.st_size > _MAX_BYTES_PER_PIXEL * max_image_pixels:
        raise DocumentError(f"image {item.path} has {status.st_size} bytes, more than {_MAX_BYTES_PER_PIXEL} for each of max_image_pixels")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"image {item.path} cannot be read: {error.strerror}") from None
    if item.sha256 is not None and hashlib.sha256(data).hexdigest() != item.sha256.lower():
        raise DocumentError(f"image {item.path} does not have the sha256 that its document states")
    return data


def _check_box_inside(document: Document, sizes: list[tuple[int, int]]) -> None:
    if not sizes:
        raise DocumentError("kind 'referring' needs an image")
    box, (width, height) = document.fields["box"], sizes[0]
    if box[2] > width or box[3] > height:
        raise DocumentError(f"fields.box {box} reaches out of its {width}x{height} picture")
