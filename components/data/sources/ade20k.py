"""ADE20K: class maps to pictures, in the release's form of the SceneParsing set (ADEChallengeData2016).

    {training,validation}.json  [{"image_id": "ADE_train_00000001", "caption"}]   captions are made (the paper: by BLIP)
    images/{phase}/{image_id}.jpg, annotations/{phase}/{image_id}.png             8 bits a pixel: 0 ignored, 1 to 150 classes
    objectInfo150.txt                                                             names of the classes, where it is there

The map is drawn here in the colours of the release's script (OpenGVLab/MM-Interleaved custom_datasets/ade20k_preparation.py, after
baaivision/Painter): six steps of 42 in each channel, down from 255; class c has the c-th, 0 is black. `labels_of` reads them back.
Map and picture have one size, so that what turns one turns the other. Counts: Zhou et al. 2017 (arXiv 1608.05442).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from components.data import templates
from components.data.documents import DocumentError, ImageItem
from components.data.pictures import PictureError, encode_png
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, keyed, open_set
from components.data.sources.files import read_image, read_inside
from components.data.sources.hostile_values import identifier, record, text
from components.data.sources.published import Phase, Published
from components.data.sources.source import Limits, Rejected, measure
from components.params import CorpusParams

CLASSES = 150
IGNORED = 0
_STEPS = 6
_STEP = 256 // _STEPS
_NAMES_FILE, _MAX_NAMES_BYTES = "objectInfo150.txt", 1_000_000
_STEM = re.compile(r"[A-Za-z0-9_.-]{1,100}")
ADE20K = Published(
    {phase: Phase((f"{phase}.json",), "", count) for phase, count in (("training", 20_210), ("validation", 2_000))},
    evaluation="validation",
    train="training",
)


def ade20k(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `ade20k`."""
    return open_set(corpus, folder, limits, ADE20K, ClassMaps)


def palette() -> np.ndarray:
    """The colours of 0 (black) and of the classes: uint8 [151, 3]."""
    place = np.arange(CLASSES)
    steps = np.stack([place // _STEPS**2, place // _STEPS % _STEPS, place % _STEPS], axis=1)
    return np.concatenate([np.zeros((1, 3)), 255 - _STEP * steps]).astype(np.uint8)


def labels_of(class_map: np.ndarray) -> np.ndarray:
    """Classes uint8 [h, w] (0 ignored) of a map uint8 [h, w, 3], each pixel by its nearest colour; exact for a map of ours."""
    colours = palette()
    flat = class_map.reshape(-1, 3)
    distinct, inverse = np.unique(flat, axis=0, return_inverse=True)
    distances = ((distinct[:, None].astype(np.int32) - colours[None].astype(np.int32)) ** 2).sum(axis=-1)
    return distances.argmin(axis=1).astype(np.uint8)[inverse.reshape(-1)].reshape(class_map.shape[:2])


class ClassMaps:
    """A Form: captions by picture, whose class map stands in a file of the same name."""

    def __init__(self, shelf: Shelf) -> None:
        self._names = _names(shelf.folder)

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All pictures."""
        yield from keyed(shelf.elements(shelf.phase.files[0]), lambda one: identifier(record(one), "image_id"), mine)

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """Class map, caption, picture. Fields: `caption`, `classes` in the picture and, where they are known, their `categories`."""
        stem, caption = identifier(values, "image_id"), text(values, "caption")
        if not _STEM.fullmatch(stem):
            raise DocumentError(f"image_id {stem!r} is no name of a file")
        prefix = f"{shelf.phase.images}/" if shelf.phase.images else ""
        names = [f"{prefix}annotations/{shelf.name}/{stem}.png", f"{prefix}images/{shelf.name}/{stem}.jpg"]
        mask, picture = (read_image(shelf.folder, name, shelf.limits.image_pixels) for name in names)
        labels = read_labels(mask, names[0], shelf.limits)
        if (size := measure(picture, names[1], shelf.limits)) != labels.shape[::-1]:
            raise DocumentError(f"its class map has {labels.shape[1]}x{labels.shape[0]} pixels, its picture {size[0]}x{size[1]}")
        classes = [int(number) for number in np.unique(labels) if number != IGNORED]
        items = [ImageItem(id=str(number), path=name, loss=False) for number, name in enumerate(names)]
        told, given = templates.segmentation(items[0], caption if caption.endswith(".") else f"{caption}.", items[1])
        fields: dict[str, Any] = {"caption": caption, "classes": classes}
        if self._names:
            fields["categories"] = [self._names[number] for number in classes]
        return Draft("segmentation", told, given, [encode_png(palette()[labels]), picture], fields, sizes=[size, size])


def read_labels(data: bytes, name: str, limits: Limits) -> np.ndarray:
    """Classes uint8 [h, w] of a PNG with 8 bits a pixel. Raises PictureError for another form and for a class above 150."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                if image.width * image.height > limits.image_pixels:
                    raise PictureError(f"{name}: {image.width}x{image.height} is more than max_image_pixels ({limits.image_pixels})")
                if image.mode not in ("L", "P"):
                    raise PictureError(f"{name}: mode {image.mode}; a class map has one channel of 8 bits")
                labels = np.asarray(image)
    except PictureError:
        raise
    except UnidentifiedImageError:  # its text names an address in memory
        raise PictureError(f"{name}: not a PNG picture") from None
    except Exception as error:  # Pillow's readers raise what they like on hostile bytes
        raise PictureError(f"{name}: unreadable: {error}") from None
    if (highest := int(labels.max(initial=0))) > CLASSES:
        raise PictureError(f"{name}: class {highest}, but there are {CLASSES}")
    return labels


def _names(folder: Path) -> dict[int, str]:
    """Names of the classes by number; none where the file is missing or none of its kind. Its columns: Idx Ratio Train Val Stuff Name."""
    try:
        lines = read_inside(folder, _NAMES_FILE, _MAX_NAMES_BYTES).decode("utf-8").splitlines()[1:]
    except (DocumentError, UnicodeDecodeError):
        return {}
    rows = [line.split("\t") for line in lines if line.strip()]
    names = {int(row[0]): row[-1].strip() for row in rows if len(row) > 1 and row[0].strip().isascii() and row[0].strip().isdigit()}
    return names if sorted(names) == list(range(1, CLASSES + 1)) else {}
