"""One view of all pictures of a document in an epoch: what part of them is seen, and whether mirrored; words and boxes go with it.

A document has one draw, keyed by (seed, epoch, document): its pictures tell of each other, so a class map and the picture painted from it,
or the frames of a story, are cut and mirrored together, and encoder and decoder see the same. The official code draws for each of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.data.boxes import Box, box_to_text, grid_of, move_boxes
from components.data.documents import Document, LoadedDocument, TextItem
from components.data.keyed import Key, generator
from components.params import Augmentation

SMALLEST_CROP = 0.8
"""Of the shorter side; the official random crop takes 0.8 to 1."""
_FLIPPED = 0.5
_SIDES = re.compile(
    r"\b((?:left|right)\w*|(?:north|south)?-?(?:east|west)\w*|(?:counter|anti)?-?clockwise|mirror\w*)\b",
    re.IGNORECASE,
)
"""Words that a mirrored picture would make untrue. They are not exchanged: "right" also means correct, and "left" what remains."""


@dataclass(frozen=True)
class View:
    """What is seen of a picture: all of it, or a square of `side` of its shorter side at the place `at` (shares of the room that is left,
    x and y); then mirrored from left to right, or not."""

    side: float | None = None
    at: tuple[float, float] = (0.5, 0.5)
    mirrored: bool = False

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of what is seen of a picture of this size, before it is mirrored."""
        if self.side is None:
            return 0, 0, width, height
        side = max(1, round(self.side * min(width, height)))
        left, top = round(self.at[0] * (width - side)), round(self.at[1] * (height - side))
        return left, top, left + side, top + side

    def keeps(self, box: Box, width: int, height: int) -> bool:
        """Whether the whole box, in pixels, is seen."""
        left, top, right, bottom = self.pixels(width, height)
        return left <= box[0] and top <= box[1] and box[2] <= right and box[3] <= bottom

    def move(self, box: Box, width: int, height: int) -> Box:
        """A box in pixels of the picture, in pixels of what is seen of it."""
        left, top, right, _ = self.pixels(width, height)
        x0, x1 = box[0] - left, box[2] - left
        if self.mirrored:
            x0, x1 = right - left - x1, right - left - x0
        return x0, box[1] - top, x1, box[3] - top


WHOLE = View()


def varies(augmentation: Augmentation) -> bool:
    """Whether a document looks different from epoch to epoch."""
    return augmentation in ("random_crop", "flip")


def smallest_px(augmentation: Augmentation, px: int) -> int:
    """Side that a picture needs at least, so that no view of it has less than `px` pixels where the stored picture has them."""
    return math.ceil(px / SMALLEST_CROP) if augmentation == "random_crop" else px


def augment(loaded: LoadedDocument, augmentation: Augmentation, *key: Key) -> tuple[LoadedDocument, View]:
    """The document as it is seen under a key, (seed, epoch): its texts and `fields.box` for the view; its pictures as they were, to be
    shown through the view by `square`.

    `resize` shows whole pictures, `center_crop` their middle square, `random_crop` a square of 0.8 to 1 of the shorter side, `flip` whole
    pictures, every other one mirrored. A document whose words name sides is never mirrored, and one with a box that a crop would cut is
    shown whole; so every box and word stays true.
    """
    document = loaded.document
    view = _drawn(augmentation, generator(*key, document.id, "augmentation"))
    sizes = loaded.sizes or tuple((picture.shape[1], picture.shape[0]) for picture in loaded.pictures)
    if view.mirrored and any(_SIDES.search(text) for text in document.texts):
        view = View(view.side, view.at)
    if view.side is not None and not _keeps_all(document, sizes, view):
        view = View(mirrored=view.mirrored)
    return (loaded if view == WHOLE or not sizes else _seen(loaded, sizes, view)), view


def _drawn(augmentation: Augmentation, rng: np.random.Generator) -> View:
    if augmentation == "center_crop":
        return View(1.0)
    if augmentation == "random_crop":
        side, x, y = rng.random(3).tolist()
        return View(SMALLEST_CROP + (1 - SMALLEST_CROP) * side, (x, y))
    return View(mirrored=augmentation == "flip" and rng.random() < _FLIPPED)


def _boxes(document: Document, width: int, height: int) -> list[Box]:
    """Every box that the document states, in pixels."""
    found: list[Box] = []

    def note(box: Box) -> Box:
        found.append((box[0] * width, box[1] * height, box[2] * width, box[3] * height))
        return box

    for text in document.texts:
        move_boxes(text, note)
    if isinstance(box := document.fields.get("box"), list):
        found.append((box[0], box[1], box[2], box[3]))
    return found


def _keeps_all(document: Document, sizes: Sequence[tuple[int, int]], view: View) -> bool:
    """Whether no box is cut. Boxes of a text are of the picture, so pictures of several sizes are not cut where there are boxes."""
    if not sizes:
        return True
    boxes = _boxes(document, *sizes[0])
    return not boxes or (len(set(sizes)) == 1 and all(view.keeps(box, *sizes[0]) for box in boxes))


def _seen(loaded: LoadedDocument, sizes: Sequence[tuple[int, int]], view: View) -> LoadedDocument:
    document, (width, height) = loaded.document, sizes[0]
    left, top, right, bottom = view.pixels(width, height)

    def moved(box: Box) -> Box:
        x0, y0, x1, y1 = view.move((box[0] * width, box[1] * height, box[2] * width, box[3] * height), width, height)
        return x0 / (right - left), y0 / (bottom - top), x1 / (right - left), y1 / (bottom - top)

    def told(text: str) -> str:
        box = document.fields.get("box")
        if isinstance(box, list) and text == box_to_text(box, width, height, grid := grid_of(text)):  # from the exact box, rounded once
            return box_to_text(view.move((box[0], box[1], box[2], box[3]), width, height), right - left, bottom - top, grid)
        return move_boxes(text, moved)

    items = [item.model_copy(update={"text": told(item.text)}) if isinstance(item, TextItem) else item for item in document.items]
    fields = dict(document.fields)
    if isinstance(box := fields.get("box"), list):
        fields["box"] = list(view.move((box[0], box[1], box[2], box[3]), width, height))
    return LoadedDocument(document.model_copy(update={"items": tuple(items), "fields": fields}), loaded.pictures, loaded.sizes)
