"""Pictures of any size to the square a model takes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from components.data.augmentation import WHOLE, View


def square(picture: np.ndarray, px: int, view: View = WHOLE) -> np.ndarray:
    """uint8 [height, width, 3] to uint8 [px, px, 3]: what the view shows of it, by default all, so that places and boxes stay true.

    Halved by box averaging while both sides are at least twice as large, then bicubic, as in the official `numpy` transform.
    """
    if view != WHOLE:
        left, top, right, bottom = view.pixels(picture.shape[1], picture.shape[0])
        picture = picture[top:bottom, left:right][:, :: -1 if view.mirrored else 1]
    height, width, _ = picture.shape
    if height == width == px:
        return picture
    image = Image.fromarray(picture)
    if (factor := min(height, width) // px) >= 2:
        image = image.reduce(1 << (factor.bit_length() - 1))
    return np.asarray(image.resize((px, px), Image.Resampling.BICUBIC))


def as_float(pictures: np.ndarray) -> np.ndarray:
    """uint8 [n, height, width, 3] to float32 [n, 3, height, width] in 0..1."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / 255
