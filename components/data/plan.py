"""The plan of one source: which documents lie in which packed row, as a pure function of (seed, index, packing).

Row (epoch, window, row) follows from its window alone, so reading can begin anywhere.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass

from components.data.segments import PackedWindow, Segment
from components.data.window_packer import WindowPacker
from components.data.windows import Windows

_MOST_AT_ONCE = 1024
"""Windows that are packed at once when they are read one after the other."""
_KEPT = 16


@dataclass(frozen=True)
class Place:
    """A packed row of a source: where it is, and all that a source's cursor consists of."""

    epoch: int = 0
    window: int = 0
    row: int = 0


class SourcePlan:
    """Packed rows of one source, counted from a place on: row 0 is the one there."""

    def __init__(self, windows: Windows, packer: WindowPacker, start: Place = Place(), check: bool = False) -> None:
        """With `check`, documents that fit in no row are left out; some must be left."""
        self.name = windows.name
        self._windows, self._packer, self._check = windows, packer, check
        self._first = start.epoch * windows.per_epoch + start.window
        self._starts = array("q", [-start.row])  # number of the first row of each window from there on, and of the one after the last
        self._ahead: dict[int, PackedWindow] = {}
        self._ahead_of = self._first
        self._recent: OrderedDict[int, PackedWindow] = OrderedDict()

    def row(self, place: Place) -> tuple[Segment, ...]:
        """The segments of a row."""
        return self.window(place.epoch, place.window).row(place.row)

    def window(self, epoch: int, window: int) -> PackedWindow:
        """The rows of a window. Those that follow are packed with it when windows are read one after the other."""
        return self._packed(epoch * self._windows.per_epoch + window)

    def locate(self, number: int) -> Place:
        """Where row `number` is. The windows up to it are packed once. Raises ValueError for a row before the start."""
        if number < self._starts[0] or number < 0:
            raise ValueError(f"source {self.name}: row {number} lies before the cursor this stream was opened at")
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self._packed(self._first + len(self._starts) - 1)))
        window = bisect_right(self._starts, number) - 1
        return Place(*divmod(self._first + window, self._windows.per_epoch), number - self._starts[window])

    def _packed(self, number: int) -> PackedWindow:
        if number in self._ahead:
            return self._ahead[number]
        if number in self._recent:
            self._recent.move_to_end(number)
            return self._recent[number]
        follows = number == self._ahead_of
        epoch, window = divmod(number, self._windows.per_epoch)
        quick = follows and self._packer.many_at_once and not any(one.parts for one in self._ahead.values())
        count = min(max(1, 2 * len(self._ahead)), _MOST_AT_ONCE, self._windows.per_epoch - window) if quick else 1
        made = self._packer.pack(self._windows.window(epoch, window, count), self._check)
        if follows:
            self._ahead = dict(enumerate(made, number))
            self._ahead_of = number + len(made)
        else:
            self._recent[number] = made[0]
            if len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return made[0]
