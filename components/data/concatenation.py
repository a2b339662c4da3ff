"""The paper's packing: documents joined in their keyed order and cut where a row ends."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from components.data.measure import Measure
from components.data.segments import Segment

SLACK = 16
"""A row may end a sixteenth of its length early, where a document or an item of it ends there."""


def concatenate(
    documents: np.ndarray, epochs: np.ndarray, joined: Iterable[int], measure: Measure, capacity: int, max_images: int | None
) -> list[list[Segment]]:
    """Rows of at most `capacity` tokens and `max_images` images.

    A document that does not fit in what is left of a row goes on in the next one, as a segment with an <s> of its own, for nothing of what
    came before it is in reach there. It is cut between items where that leaves at most a sixteenth of the row unused, else inside a text
    at the end of the row, and before an image that does not fit. `joined`: places of documents that go on in the sequence before them;
    such a one begins a sequence where its row begins. Every image must fit in a row (`components.data.window_packer`).
    """
    lengths, images, joins = measure.lengths(documents).tolist(), measure.images(documents).tolist(), set(joined)
    rows: list[list[Segment]] = [[]]
    room, left = capacity, max_images
    for place, (document, epoch) in enumerate(zip(documents.tolist(), epochs.tolist(), strict=True)):
        join = place in joins and bool(rows[-1])
        needed = lengths[place] - (2 if join else 0)
        if needed <= room and (left is None or images[place] <= left):
            rows[-1].append(Segment(document, epoch, joined=join))
            room, left = room - needed, None if left is None else left - images[place]
            continue
        content, begin = measure.content(document), 0
        while (rest := content.total - begin + 2) > room or (left is not None and content.images(begin, content.total) > left):
            worth = not rows[-1] or room > capacity // SLACK
            end = content.cut(begin, room - 1, left, capacity // SLACK) if worth else None
            if end is not None:
                rows[-1].append(Segment(document, epoch, begin, end))
                begin = end
            rows.append([])
            room, left = capacity, max_images
        rows[-1].append(Segment(document, epoch, begin, content.total) if begin else Segment(document, epoch))
        room, left = room - rest, None if left is None else left - content.images(begin, content.total)
    return [row for row in rows if row]
