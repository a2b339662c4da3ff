"""A few documents of each kind for people to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.data.documents import LoadedDocument, TextItem
from components.data.index import Index, Row
from components.data.keyed import generator
from components.data.reader import DocumentReader

_SIDE = 148
_TEXT = 400
_PICTURES = 6


@dataclass(frozen=True)
class Part:
    """A text, or a picture as PNG bytes with its size in pixels. `trained`: whether a model learns to produce it."""

    trained: bool
    text: str = ""
    png: bytes = b""
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Sample:
    """A document as the page shows it; `left_out` counts the pictures beyond the first few."""

    id: str
    source: str
    kind: str
    origin: str
    parts: tuple[Part, ...]
    left_out: int


def draw(rows: Sequence[Row], count: int, name: str) -> list[Row]:
    """So many rows, the same for the same corpus whatever its order."""
    order = sorted(rows, key=lambda row: row.id)
    chosen = generator(0, "card", name).permutation(len(order))[:count]
    return [order[number] for number in sorted(chosen.tolist())]


def load(index: Index, reader: DocumentReader, rows: Sequence[Row]) -> list[Sample]:
    """Read the documents and make their pictures small."""
    return [_sample(reader.load(row), row) for row in rows]


def _sample(loaded: LoadedDocument, row: Row) -> Sample:
    parts: list[Part] = []
    pictures = 0
    for item in loaded.document.items:
        if isinstance(item, TextItem):
            text = item.text if len(item.text) <= _TEXT else item.text[:_TEXT].rstrip() + " …"
            parts.append(Part(item.loss, text=text))
        else:
            if pictures < _PICTURES:
                picture = loaded.pictures[pictures]
                parts.append(Part(item.loss, png=_thumbnail(picture), size=(picture.shape[1], picture.shape[0])))
            pictures += 1
    document = loaded.document
    return Sample(document.id, row.source, document.kind, document.origin, tuple(parts), max(0, pictures - _PICTURES))


def _thumbnail(picture: np.ndarray) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
