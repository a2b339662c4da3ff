"""What every corpus is to `prepare`: input shards that can be read one by one, each giving documents or reasons why not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from components.data.documents import CorpusError, Document, DocumentError, ImageItem
from components.data.pictures import PictureError, decode
from components.data.shards import member_name
from components.params import CorpusParams, Frozen

OptionsType = TypeVar("OptionsType", bound=Frozen)
_KEY = re.compile(r"[A-Za-z0-9_-]{1,38}")


@dataclass(frozen=True)
class Accepted:
    """A usable document, its encoded images and their [width, height] in item order."""

    document: Document
    images: list[bytes]
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class Rejected:
    """What is quarantined: where it is (`FILE:LINE` or `FILE:MEMBER`, relative to the corpus) and what is wrong with it.

    `where` ends in `#PART` where only a part of a document is refused, as one of its pictures; the document follows without it.
    `missing` says that nothing is faulty but something absent: a download that failed, a picture that was never fetched.
    """

    where: str
    reason: str
    missing: bool = False


@dataclass(frozen=True)
class Limits:
    """What a document may weigh: pixels of a picture, bytes of a text, pictures."""

    image_pixels: int
    text_bytes: int
    images: int


@dataclass(frozen=True)
class Unit:
    """An input shard: what is prepared, retried and quarantined as a whole.

    `name` is unique in the corpus; `files` are the regular files below the corpus folder that its documents follow from, relative to it,
    but for pictures that only its records name.
    """

    name: str
    files: tuple[str, ...]


class Source(Protocol):
    """A corpus in its published form. Made from (corpus, folder, limits); raises CorpusError where the folder is none of its kind."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None: ...

    def units(self) -> Sequence[Unit]:
        """Its input shards in a fixed order, listed without reading them."""
        ...

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """The documents of a shard in a fixed order. What is unusable is Rejected, each once; nothing is skipped without a word.

        A document that makes sense without a picture that cannot be had (an interleaved one, not a pair) is Accepted without it, after a
        Rejected for each such picture whose `where` is the document's with `#PART` added.
        """
        ...


@runtime_checkable
class Noted(Protocol):
    """A Source that knows what its whole should be."""

    def notes(self, read: int) -> Sequence[str]:
        """What is worth a warning after `read` records, accepted and refused, of all units; nothing where all is as it should be."""
        ...


def read_options(kind: type[OptionsType], corpus: CorpusParams) -> OptionsType:
    """The corpus's options as its format knows them. Raises CorpusError naming the key."""
    try:
        return kind.model_validate(corpus.options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(("options", *(str(part) for part in first["loc"])))
        known = ", ".join(kind.model_fields) or "none"
        raise CorpusError(f"corpus {corpus.name}: {place}: {first['msg']}; format {corpus.format} has the options {known}") from None


def accept(document: Document, images: Sequence[bytes], limits: Limits, sizes: Sequence[tuple[int, int]] | None = None) -> Accepted:
    """The document with its pictures checked and its image items naming their members in a shard.

    `sizes` are those of pictures that `measure` has checked already. Raises DocumentError for a text or a number of pictures beyond
    the limits and PictureError, naming the item's path, for a picture.
    """
    if len(images) > limits.images:
        raise DocumentError(f"{len(images)} images are more than max_document_images ({limits.images})")
    for text in document.texts:
        if (size := len(text.encode("utf-8", "surrogatepass"))) > limits.text_bytes:
            raise DocumentError(f"a text of {size} bytes is longer than max_text_bytes ({limits.text_bytes})")
    if sizes is None:
        sizes = [measure(data, item.path, limits) for item, data in zip(document.images, images, strict=True)]
    if document.kind == "referring":
        _check_box_inside(document, sizes)
    return Accepted(with_members(document, images), list(images), list(sizes))


def measure(data: bytes, name: str, limits: Limits) -> tuple[int, int]:
    """[width, height] of an encoded picture that can be decoded whole. Raises PictureError naming it."""
    try:
        height, width, _ = decode(data, limits.image_pixels).shape
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    return width, height


def with_members(document: Document, images: Sequence[bytes]) -> Document:
    """The document with its image items naming their members in a shard, numbered in item order."""
    names = (member_name(document.id, number, data) for number, data in enumerate(images))
    items = [item.model_copy(update={"path": next(names)}) if isinstance(item, ImageItem) else item for item in document.items]
    return document.model_copy(update={"items": tuple(items)})


def document_id(corpus: str, key: str) -> str:
    """A document's id from the corpus's own key: readable where the key is short and plain, a digest of it where not."""
    return f"{corpus}-{key if _KEY.fullmatch(key) else hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def _check_box_inside(document: Document, sizes: Sequence[tuple[int, int]]) -> None:
    if not sizes:
        raise DocumentError("kind 'referring' needs an image")
    box, (width, height) = document.fields["box"], sizes[0]
    if box[2] > width or box[3] > height:
        raise DocumentError(f"fields.box {box} reaches out of its {width}x{height} picture")
