"""Where a document may be cut: between its items, inside a text where that must be, never inside an image."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from components.data.row import IMAGE


class Content:
    """The items of a document on a line of tokens: a text takes its tokens, an image its BoI and visual tokens; no <s>, no </s>.

    A cut is a place on that line. What stands between two cuts becomes a segment of a row of its own.
    """

    def __init__(self, items: Sequence[int], trained: Sequence[bool], image_tokens: int, pairs: bool) -> None:
        """`items`: text tokens, -1 for an image; `pairs`: an image and the text right after it belong together."""
        self._is_image = [tokens == IMAGE for tokens in items]
        self._trained = list(trained)
        self._pairs = pairs
        sizes = [image_tokens if tokens == IMAGE else tokens for tokens in items]
        self._starts = [0, *accumulate(sizes)]
        self._images = [0, *accumulate(self._is_image)]
        self._pictures = [0, *accumulate(image and loss for image, loss in zip(self._is_image, trained, strict=True))]
        self._words = [
            0,
            *accumulate(size if loss and not image else 0 for size, image, loss in zip(sizes, self._is_image, trained, strict=True)),
        ]
        self.total = self._starts[-1]
        """Tokens of the whole."""

    def images(self, begin: int, end: int) -> int:
        """Images between two cuts."""
        return self._images[bisect_left(self._starts, end)] - self._images[bisect_left(self._starts, begin)]

    def trained_images(self, begin: int, end: int) -> int:
        """Images with a loss between two cuts; one that begins the segment has none, there is nothing it could be made from."""
        first, last = bisect_left(self._starts, begin), bisect_left(self._starts, end)
        leads = first < last and self._starts[first] == begin and self._is_image[first] and self._trained[first]
        return self._pictures[last] - self._pictures[first] - leads

    def trains(self, begin: int, end: int) -> bool:
        """Whether a segment between two cuts has anything to learn."""
        return self._trained_words(end) > self._trained_words(begin) or self.trained_images(begin, end) > 0

    def cut(self, begin: int, room: int, max_images: int | None, slack: int) -> int | None:
        """Where a segment from `begin` ends that takes at most `room` tokens and `max_images` images and is not the rest of the document.

        The last cut between items that leaves at most `slack` of the room unused; else inside a text, at the end of the room; else an
        earlier cut between items. Among these the first that leaves something to learn on both sides of it, where there is one. An image
        is not parted from its text while there is another way. None where not even one item begins to fit.
        """
        limit = self._limit(begin, min(room, self.total - 1 - begin), max_images)
        if limit <= begin:
            return None
        choices = list(dict.fromkeys(self._choices(begin, limit, slack)))
        for good in (lambda at: self.trains(begin, at) and self.trains(at, self.total), lambda at: self.trains(begin, at), lambda at: True):
            if (found := next(filter(good, choices), None)) is not None:
                return found
        return None

    def _choices(self, begin: int, limit: int, slack: int) -> Iterator[int]:
        last, first = bisect_right(self._starts, limit) - 1, bisect_right(self._starts, begin)
        between = range(last, first - 1, -1)
        apart = [self._pairs and self._is_image[item - 1] and not self._is_image[item] for item in between]
        clean = [self._starts[item] for item, parts in zip(between, apart, strict=True) if not parts]
        yield from (place for place in clean if place >= limit - slack)
        if self._starts[last] < limit and not self._is_image[last]:
            yield limit
        yield from clean
        yield from (self._starts[item] for item, parts in zip(between, apart, strict=True) if parts)
        for item in range(last, first - 2, -1):  # halfway through a text that is trained, so that both sides have some of it
            start, end = max(self._starts[item], begin), min(self._starts[item + 1], limit)
            if self._trained[item] and not self._is_image[item] and end - start >= 2:
                yield (start + end) // 2

    def _limit(self, begin: int, room: int, max_images: int | None) -> int:
        limit = begin + room
        if max_images is not None:
            seen = self._images[bisect_left(self._starts, begin)]
            beyond = bisect_right(self._images, seen + max_images) - 1
            limit = min(limit, self._starts[beyond])
        return limit

    def _trained_words(self, place: int) -> int:
        item = min(bisect_right(self._starts, place), len(self._is_image)) - 1
        inside = place - self._starts[item] if self._trained[item] and not self._is_image[item] else 0
        return self._words[item] + inside


def split(content: Content, capacity: int, max_images: int | None) -> list[tuple[int, int]]:
    """Segments (begin, end) of a document that is longer than a row, each with its <s>, the last with </s> too; [] where it cannot be cut.

    Each is as long as a row allows, so that the rows of a window are filled by the rest of it.
    """
    segments: list[tuple[int, int]] = []
    begin = 0
    while content.total - begin + 2 > capacity or (max_images is not None and content.images(begin, content.total) > max_images):
        end = content.cut(begin, capacity - 1, max_images, capacity)
        if end is None:
            return []
        segments.append((begin, end))
        begin = end
    return [*segments, (begin, content.total)]
