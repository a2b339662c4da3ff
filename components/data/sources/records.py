"""From records to documents: what every reader of lines or rows does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from components.data.documents import Document, DocumentError, ImageItem
from components.data.pictures import PictureError
from components.data.sources.files import MissingFileError
from components.data.sources.source import Accepted, Limits, Rejected, accept, measure

Record = tuple[str, dict[str, Any]]
"""Where it stands (`FILE:LINE`), and its values."""


def documents_of(
    records: Iterable[Record | Rejected], read: Callable[[Record], Iterable[Accepted | Rejected]]
) -> Iterator[Accepted | Rejected]:
    """What `read` makes of each record; a DocumentError or PictureError that it raises rejects the record."""
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        try:
            yield from read(record)
        except (DocumentError, PictureError) as error:
            yield Rejected(record[0], str(error), isinstance(error, MissingFileError))


def accept_partly(document: Document, images: Iterable[bytes | DocumentError], limits: Limits, where: str) -> Iterator[Accepted | Rejected]:
    """The document without the pictures that cannot be had or used, each Rejected before it as `WHERE#ID`; each is decoded once.

    `images` are the encoded files in item order, or why there is none; they are taken one by one. The document's fact `images_missing`
    counts those that are not there. Raises DocumentError for a text or a number of pictures beyond the limits, or where nothing is left.
    """
    if len(document.images) > limits.images:
        raise DocumentError(f"{len(document.images)} images are more than max_document_images ({limits.images})")
    kept: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    lost: set[str] = set()
    missing = 0
    for item, data in zip(document.images, images, strict=True):
        try:
            if isinstance(data, DocumentError):
                raise data
            sizes.append(measure(data, f"picture {item.id}", limits))
            kept.append(data)
        except (DocumentError, PictureError) as error:
            absent = isinstance(error, MissingFileError)
            yield Rejected(f"{where}#{item.id}", str(error), absent)
            lost.add(item.id)
            missing += absent
    items = tuple(item for item in document.items if not (isinstance(item, ImageItem) and item.id in lost))
    if not items:
        raise DocumentError("it has no text, and none of its pictures can be had")
    facts = document.facts | ({"images_missing": missing} if missing else {})
    yield accept(document.model_copy(update={"items": items, "facts": facts}), kept, limits, sizes)
