"""What lies in packed rows, as arrays: a window may hold hundreds of thousands of documents before any of them is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WHOLE = -1
"""End of a segment that is the whole document."""


class Segment(NamedTuple):
    """A document in a row, or the part of it from token `begin` to token `end` of its content (`components.data.content`).

    `joined`: it goes on in the sequence of the segment before it, without </s> and <s> between them.
    """

    document: int
    epoch: int
    begin: int = 0
    end: int = WHOLE
    joined: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is all of its document."""
        return self.end == WHOLE


@dataclass(frozen=True)
class PackedWindow:
    """The rows of a window. Row r holds the segments `starts[r]` to `starts[r + 1]`; `parts` gives those that are not simply whole.

    document, epoch: int64 [segments], epoch one number where it is the same for all.
    """

    starts: np.ndarray
    document: np.ndarray
    epoch: np.ndarray | int
    parts: dict[int, Segment]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> tuple[Segment, ...]:
        """The segments of a row, in row order."""
        return tuple(self._segment(place) for place in range(int(self.starts[number]), int(self.starts[number + 1])))

    def _segment(self, place: int) -> Segment:
        if (part := self.parts.get(place)) is not None:
            return part
        epoch = self.epoch if isinstance(self.epoch, int) else int(self.epoch[place])
        return Segment(int(self.document[place]), epoch)


def packed(rows: Sequence[Sequence[Segment]]) -> PackedWindow:
    """The window that has these rows."""
    flat = [segment for row in rows for segment in row]
    return PackedWindow(
        np.cumsum([0, *map(len, rows)]),
        np.array([segment.document for segment in flat], np.int64),
        np.array([segment.epoch for segment in flat], np.int64),
        {place: segment for place, segment in enumerate(flat) if segment.joined or not segment.whole},
    )
