"""What of a story is trained."""

from __future__ import annotations

from components.data.documents import Document, ImageItem


def joint(document: Document) -> Document:
    """A story of which all texts and pictures are trained but the first of each, which are given; another document as it is."""
    if document.kind != "story":
        return document
    given: set[type] = set()
    items = []
    for item in document.items:
        kind = ImageItem if isinstance(item, ImageItem) else str
        items.append(item.model_copy(update={"loss": kind in given}))
        given.add(kind)
    return document.model_copy(update={"items": tuple(items)})
