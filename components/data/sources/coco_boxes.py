"""A detection set's annotations in COCO's form, as arrays: some hundred bytes an image and a box, however large the JSON is."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from components.data.documents import DocumentError
from components.data.sources.json_elements import json_lists
from components.data.sources.source import Rejected
from components.data.sources.values import kind_of, list_of, number_of, text_of

MAX_IMAGES, MAX_BOXES = 10_000_000, 100_000_000
_LISTED_PROBLEMS = 1000
_LOCK = Lock()


@dataclass(frozen=True)
class Box:
    """An annotated object: its category and [x0, y0, x1, y1] in pixels, to a hundredth."""

    name: str
    box: tuple[float, float, float, float]
    crowd: bool


@dataclass(frozen=True)
class ImageEntry:
    """An image: its id, the file it names, [width, height] as stated."""

    id: int
    file: str
    size: tuple[int, int]


class BoxTable:
    """Images in the order of the file with their boxes. Made by `box_table`."""

    def __init__(self, columns: _Columns) -> None:
        ids = np.frombuffer(columns.ids, np.int64)
        self._ids, self._files = ids, columns.files
        self._sizes = np.frombuffer(columns.sizes, np.int32).reshape(-1, 2)
        image, order = np.frombuffer(columns.image, np.int64), np.argsort(ids, kind="stable")
        place = np.searchsorted(ids[order], image)
        row = order[np.minimum(place, len(ids) - 1)] if len(ids) else np.zeros(len(image), np.int64)
        known = (ids[row] == image) if len(ids) else np.zeros(len(image), bool)
        by_row = np.argsort(row[known], kind="stable")
        self._boxes = np.frombuffer(columns.boxes, np.float32).reshape(-1, 4)[known][by_row]
        self._category = np.frombuffer(columns.category, np.int64)[known][by_row]
        self._crowd = np.frombuffer(columns.crowd, np.int8)[known][by_row]
        self._start = np.searchsorted(row[known][by_row], np.arange(len(ids) + 1))
        self._names = columns.names
        self.problems = columns.problems
        if unknown := int(len(image) - known.sum()):
            self.problems.append(Rejected(f"{columns.name}:annotations", f"{unknown} of them belong to no image of the file"))

    def __len__(self) -> int:
        return len(self._files)

    def image(self, row: int) -> ImageEntry:
        """The image in this row, from 0."""
        width, height = self._sizes[row].tolist()
        return ImageEntry(int(self._ids[row]), self._files[row], (width, height))

    def boxes(self, row: int) -> Iterator[Box]:
        """Its boxes in the order of the file. Raises DocumentError for a category that the file does not name."""
        for number in range(self._start[row], self._start[row + 1]):
            category = int(self._category[number])
            if category not in self._names:
                raise DocumentError(f"category {category} has no name")
            x, y, width, height = self._boxes[number].astype(float).tolist()
            corners = (round(x, 2), round(y, 2), round(x + width, 2), round(y + height, 2))
            yield Box(self._names[category], corners, bool(self._crowd[number]))


def box_table(path: Path, name: str) -> BoxTable:
    """The table of a file; read once per process as long as the file stays as it is. Raises OSError where it cannot be opened."""
    status = path.stat()
    with _LOCK:
        return _read(path, name, status.st_size, status.st_mtime_ns)


@dataclass
class _Columns:
    name: str
    ids: array[int] = field(default_factory=lambda: array("q"))
    files: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("i"))
    image: array[int] = field(default_factory=lambda: array("q"))
    category: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("f"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    names: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    problems: list[Rejected] = field(default_factory=list)

    def add(self, array: str, value: Any) -> None:
        """An element of the list `array`. Raises DocumentError for what cannot be used."""
        if not isinstance(value, dict):
            raise DocumentError(f"an object is expected, not {kind_of(value)}")
        if array == "categories":
            self.names[_whole(value, "id")] = text_of(value, "name")
        elif array == "images":
            self._add_image(value)
        else:
            self._add_box(value)

    def _add_image(self, value: dict[str, Any]) -> None:
        image = _whole(value, "id")
        if image in self.seen:
            raise DocumentError(f"id {image} was used before")
        if len(self.files) >= MAX_IMAGES:
            raise DocumentError(f"more than {MAX_IMAGES} images")
        self.seen.add(image)
        size = [_whole(value, side) for side in ("width", "height")]
        if not all(0 < side < 2**31 for side in size):
            raise DocumentError(f"width and height are {size}")
        file = text_of(value, "file_name")
        self.ids.append(image)
        self.files.append(file)
        self.sizes.extend(size)

    def _add_box(self, value: dict[str, Any]) -> None:
        box = [number_of(number, "bbox") for number in list_of(value, "bbox")]
        if len(box) != 4 or box[2] <= 0 or box[3] <= 0 or max(map(abs, box)) > 1e9:
            raise DocumentError(f"bbox {str(box)[:100]} must be [x, y, width, height] with positive sides")
        if len(self.image) >= MAX_BOXES:
            raise DocumentError(f"more than {MAX_BOXES} annotations")
        image, category = _whole(value, "image_id"), _whole(value, "category_id")
        self.image.append(image)
        self.category.append(category)
        self.boxes.extend(box)
        self.crowd.append(value.get("iscrowd") == 1)


@lru_cache(maxsize=1)
def _read(path: Path, name: str, _size: int, _changed: int) -> BoxTable:
    columns, unlisted = _Columns(name), 0
    with path.open("rb") as file:
        for array, element in json_lists(file, name, "images", "annotations", "categories"):
            if isinstance(element, Rejected):
                problem = element
            else:
                try:
                    columns.add(array, element.value)
                    continue
                except DocumentError as error:
                    problem = Rejected(element.where, str(error))
            if not array or len(columns.problems) < _LISTED_PROBLEMS:
                columns.problems.append(problem)
            else:
                unlisted += 1
    if unlisted:
        columns.problems.append(Rejected(name, f"{unlisted} more entries cannot be used"))
    columns.seen.clear()
    return BoxTable(columns)


def _whole(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise DocumentError(f"{name} must be a whole number, not {kind_of(value)}")
    return value
