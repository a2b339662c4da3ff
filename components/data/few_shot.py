"""Merges documents into one sequence, so that those that come later attend to those before them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from components.data.permutation import scramble
from components.params import FewShotParams


def merged(
    lengths: np.ndarray, images: np.ndarray, few_shot: FewShotParams, capacity: int, max_images: int | None, key: int
) -> list[list[int]]:
    """Numbers of the documents that are merged, sequence by sequence.

    `lengths` (with <s> and </s>) and `images` are those of each, in a keyed order, so that the first `probability` of them are a keyed
    share. How many a sequence has is drawn; it has fewer where more would not fit in a row, and where that is below `min` they stay alone.
    """
    drawn = scramble(np.arange(len(lengths) + 1, dtype=np.uint64), np.uint64(key))
    share = int(few_shot.probability * len(lengths) + float(drawn[-1]) / 2**32)
    sizes = few_shot.min + (drawn * np.uint64(few_shot.max - few_shot.min + 1) >> np.uint64(32)).astype(np.int64)
    return [group for group in _groups(share, sizes, lengths, images, capacity, max_images) if len(group) >= few_shot.min]


def _groups(
    share: int, sizes: np.ndarray, lengths: np.ndarray, images: np.ndarray, capacity: int, max_images: int | None
) -> Iterator[list[int]]:
    group: list[int] = []
    tokens, shown, number = 2, 0, 0
    for place in range(share):
        own, pictures = int(lengths[place]) - 2, int(images[place])
        full = len(group) == sizes[number] or tokens + own > capacity or (max_images is not None and shown + pictures > max_images)
        if full and group:
            yield group
            group, tokens, shown, number = [], 2, 0, number + 1
        group, tokens, shown = [*group, place], tokens + own, shown + pictures
    if group:
        yield group
