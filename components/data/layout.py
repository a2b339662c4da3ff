"""A document as token columns: which id stands where, which is trained, where images begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from components.data.augmentation import WHOLE, View
from components.data.documents import Document, LoadedDocument, TextItem
from components.data.tokenizer import Tokenizer
from components.data.transforms import square
from components.params import Kind
from model.config import ModelShape

SWAPPED_KINDS: frozenset[Kind] = frozenset({"caption", "multi", "matched"})
"""Kinds in which a picture stands before or after its sentence by a keyed coin in training."""


@dataclass(frozen=True)
class Piece:
    """A text's ids, or an image's number in the document."""

    loss: bool
    ids: tuple[int, ...] = ()
    image: int | None = None

    def size(self, num_visual_tokens: int) -> int:
        """Tokens it takes in a row."""
        return len(self.ids) if self.image is None else 1 + num_visual_tokens


@dataclass(frozen=True)
class Encoded:
    """A document ready to be laid out. Pictures uint8: encoder [n, px, px, 3], target [n, px, px, 3]."""

    id: str
    kind: Kind
    pieces: tuple[Piece, ...]
    encoder: np.ndarray
    target: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of its pictures."""
        return self.encoder.nbytes + (0 if self.target is self.encoder else self.target.nbytes)


@dataclass(frozen=True)
class Columns:
    """A laid-out document: ids and trained per column; per image in the order of its columns: number, column of its BoI, trained."""

    ids: list[int]
    trained: list[bool]
    images: list[tuple[int, int, bool]]


def pieces_of(document: Document, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    """The items as ids and image numbers."""
    pieces, images = [], 0
    for item in document.items:
        if isinstance(item, TextItem):
            pieces.append(Piece(item.loss, ids=tuple(tokenizer.encode(item.text))))
        else:
            pieces.append(Piece(item.loss, image=images))
            images += 1
    return tuple(pieces)


def encode(loaded: LoadedDocument, tokenizer: Tokenizer, shape: ModelShape, view: View = WHOLE) -> Encoded:
    """Tokenise the texts and bring what is seen of the pictures to the model's sizes."""
    encoder = _stack(loaded.pictures, shape.image_px, view)
    target = encoder if shape.output_px == shape.image_px else _stack(loaded.pictures, shape.output_px, view)
    document = loaded.document
    return Encoded(document.id, document.kind, pieces_of(document, tokenizer), encoder, target)


def swap(pieces: Sequence[Piece], coin: Callable[[int], bool]) -> list[Piece]:
    """Exchange an image and the text right after it where `coin(image number)` says so."""
    swapped = list(pieces)
    for place in range(len(swapped) - 1):
        first, second = pieces[place], pieces[place + 1]
        if first.image is not None and second.image is None and coin(first.image):
            swapped[place], swapped[place + 1] = second, first
    return swapped


def between(pieces: Sequence[Piece], begin: int, end: int, num_visual_tokens: int) -> list[Piece]:
    """The part of a document from token `begin` to token `end` of its content, without <s> and </s>; only texts are cut."""
    found, start = [], 0
    for piece in pieces:
        size = piece.size(num_visual_tokens)
        first, last = max(begin - start, 0), min(end - start, size)
        if first < last:
            if piece.image is not None and (first, last) != (0, size):
                raise ValueError(f"image {piece.image} would be cut; the index was not counted with this tokenizer or these visual tokens")
            found.append(piece if (first, last) == (0, size) else Piece(piece.loss, ids=piece.ids[first:last]))
        start += size
    return found


def lay_out(pieces: Sequence[Piece], tokenizer: Tokenizer, num_visual_tokens: int, *, begins: bool = True, ends: bool = True) -> Columns:
    """`<s>`, the pieces, `</s>`; an image is BoI and its placeholders. `<s>` stands where a sequence `begins`, `</s>` where it `ends`.

    BoI is a target where its picture is trained, except at the very beginning: nothing there says that a picture must come, and the
    picture itself has nothing to be made from. `</s>` is a target where the last piece is trained.
    """
    ids, trained = ([tokenizer.bos], [False]) if begins else ([], [])
    images: list[tuple[int, int, bool]] = []
    for place, piece in enumerate(pieces):
        if piece.image is None:
            ids += piece.ids
            trained += [piece.loss] * len(piece.ids)
        else:
            loss = piece.loss and place > 0
            images.append((piece.image, len(ids), loss))
            ids += [tokenizer.boi, *[tokenizer.image] * num_visual_tokens]
            trained += [loss, *[False] * num_visual_tokens]
    if ends:
        ids.append(tokenizer.eos)
        trained.append(pieces[-1].loss)
    return Columns(ids, trained, images)


def _stack(pictures: Sequence[np.ndarray], px: int, view: View) -> np.ndarray:
    return np.stack([square(picture, px, view) for picture in pictures]) if pictures else np.zeros((0, px, px, 3), np.uint8)
