"""Which level a document belongs to, and how rows are shared out among the levels that are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from components.progression_params import LevelParams


def bucket_of(images: np.ndarray, tokens: np.ndarray, levels: Sequence[LevelParams]) -> np.ndarray:
    """The first level that documents of so many images and tokens keep to, int64; `len(levels)` for one that keeps to none."""
    buckets = np.full(np.shape(images), len(levels), np.int64)
    for number in range(len(levels) - 1, -1, -1):
        level, fits = levels[number], np.ones(np.shape(images), bool)
        if level.max_images is not None:
            fits &= images <= level.max_images
        if level.max_tokens is not None:
            fits &= tokens <= level.max_tokens
        buckets[fits] = number
    return buckets


def shares(weights: Mapping[str, float], tokens: Mapping[str, Sequence[int]], level: int, floor: float) -> dict[tuple[str, int], float]:
    """Weights of the rows of each (name, bucket) at a level; 0 above it, and their sum is that of the names with open documents.

    A name's rows go to its open buckets as its tokens lie in them, which is how they would lie in rows that mix them. Then the buckets
    below the level get `floor` of all rows, where they would get less.
    """
    found: dict[tuple[str, int], float] = {}
    for name, weight in weights.items():
        own = tokens[name]
        opened = sum(own[: level + 1])
        for bucket, count in enumerate(own):
            found[name, bucket] = weight * count / opened if opened and bucket <= level else 0.0
    easy = sum(value for (_, bucket), value in found.items() if bucket < level)
    total = sum(found.values())
    if not 0 < easy < floor * total:
        return found
    up, down = floor * total / easy, (1 - floor) * total / (total - easy)
    return {key: value * (up if key[1] < level else down) for key, value in found.items()}
