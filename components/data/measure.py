"""How much of a row documents take, read from the columns of the index where it is asked for."""

from __future__ import annotations

import numpy as np

from components.data.columns import span
from components.data.content import Content
from components.data.index import Index
from components.data.layout import SWAPPED_KINDS


class Measure:
    """Lengths and images of documents under a number of visual tokens per image."""

    def __init__(self, index: Index, num_visual_tokens: int) -> None:
        self.image_tokens = 1 + num_visual_tokens
        """What an image takes: its BoI and its visual tokens."""
        self._columns = index.columns
        self._kinds = [group.kind for group in index.groups]

    def lengths(self, documents: np.ndarray) -> np.ndarray:
        """Tokens of documents in a row, with <s> and </s>; int64."""
        lengths = self.images(documents) * self.image_tokens
        lengths += self._columns["tokens"][documents]
        lengths += 2
        return lengths

    def images(self, documents: np.ndarray) -> np.ndarray:
        """Images of documents, int64."""
        return self._columns["image_count"][documents].astype(np.int64)

    def trained_images(self, documents: np.ndarray) -> np.ndarray:
        """Images of documents that have a loss, int64."""
        return self._columns["trained_images"][documents].astype(np.int64)

    def of_kinds(self, documents: np.ndarray, kinds: frozenset[str]) -> np.ndarray:
        """Which documents are of these kinds, bool."""
        wanted = np.array([kind in kinds for kind in self._kinds])
        return wanted[self._columns["group"][documents]]

    def splittable(self, documents: np.ndarray) -> np.ndarray:
        """Of which documents the items are known, bool."""
        ends = self._columns["item_end"]
        before = np.where(documents > 0, ends[np.maximum(documents - 1, 0)], 0)
        return ends[documents] > before

    def content(self, document: int) -> Content:
        """The items of a document."""
        begin, end = span(self._columns, "item", document)
        pairs = self._kinds[int(self._columns["group"][document])] in SWAPPED_KINDS
        items, trained = self._columns["item"][begin:end], self._columns["item_trained"][begin:end]
        return Content(items.tolist(), trained.tolist(), self.image_tokens, pairs)
