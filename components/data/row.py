"""What the index holds of one document."""

from __future__ import annotations

from dataclasses import dataclass

from components.data.documents import Split
from components.params import Kind

IMAGE = -1
"""Stands for an image among the text tokens of a document's items."""


@dataclass(frozen=True)
class Row:
    """One document: where its bytes are and how long it is.

    `tokens` counts text tokens only; `images` are [width, height] in pixels; `trained_images` are those with a loss. `items` are the text
    tokens of each item, -1 for an image; where it is empty the document cannot be split. `given` are the numbers of items without a loss.
    """

    id: str
    source: str
    kind: Kind
    split: Split
    shard: str
    offset: int
    length: int
    sha256: str
    tokens: int
    images: tuple[tuple[int, int], ...]
    trained_images: int
    items: tuple[int, ...] = ()
    given: tuple[int, ...] = ()

    def row_length(self, num_visual_tokens: int) -> int:
        """Tokens it takes in a packed row: <s>, texts, <BoI> and visual tokens of each image, </s>."""
        return 2 + self.tokens + len(self.images) * (1 + num_visual_tokens)
