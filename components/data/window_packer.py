"""From the documents of windows to their packed rows. Each window is packed on its own, however many are packed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from components.data.concatenation import concatenate
from components.data.content import split
from components.data.documents import CorpusError
from components.data.few_shot import merged
from components.data.measure import Measure
from components.data.packing import pack
from components.data.packing_windows import pack_windows
from components.data.permutation import scramble
from components.data.segments import PackedWindow, Segment, packed
from components.params import FewShotParams, Packing

_SIDE_BY_SIDE = 48
"""Windows from which packing them beside each other is cheaper than one after the other."""
_SHUFFLED_AT_ONCE = 32
"""Windows whose rows are shuffled at once, so that they stay in the processor's cache."""
_NUMBER_BITS = 20
_NUMBERS = np.int64((1 << _NUMBER_BITS) - 1)


_NOT_MERGED = FewShotParams()


@dataclass(frozen=True)
class Rules:
    """How documents become rows of at most `capacity` tokens and `max_images` images."""

    capacity: int
    mode: Packing = "best_fit"
    max_images: int | None = None
    few_shot: FewShotParams = _NOT_MERGED

    def too_long(self, lengths: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Which documents of these lengths fit in no row as they are."""
        beyond = lengths > self.capacity
        return beyond if self.max_images is None else beyond | (images > self.max_images)


@dataclass(frozen=True)
class Window:
    """The documents of a window in keyed order, the epoch of each (or of all), and the key of what is drawn in it."""

    documents: np.ndarray
    epoch: np.ndarray | int
    key: int

    @property
    def epochs(self) -> np.ndarray:
        """The epoch of each."""
        return np.broadcast_to(np.asarray(self.epoch, np.int64), self.documents.shape)


class WindowPacker:
    """Packs windows by rules."""

    def __init__(self, measure: Measure, rules: Rules) -> None:
        self._measure, self._rules = measure, rules
        self.many_at_once = rules.mode == "best_fit" and rules.max_images is None and not rules.few_shot.probability
        """Whether packing many windows at once costs less than packing them one after the other."""
        self._images_fit = rules.capacity >= measure.image_tokens + 2

    def unplaceable(self, documents: np.ndarray) -> np.ndarray:
        """Which documents fit in no row and cannot be cut: an image is longer than a row, or their items are not known. bool."""
        images = self._measure.images(documents)
        whole = self._rules.too_long(self._measure.lengths(documents), images) & ~self._measure.splittable(documents)
        return whole if self._images_fit else whole | (images > 0)

    def pack(self, windows: Sequence[Window], check: bool) -> list[PackedWindow]:
        """The rows of each window. With `check`, documents that fit nowhere are left out first."""
        if check:
            windows = [self._placeable(window) for window in windows]
        if self._rules.mode == "concatenate_split":
            return [self._concatenated(window) for window in windows]
        ends = np.cumsum([len(window.documents) for window in windows])[:-1]
        lengths = np.split(self._measure.lengths(np.concatenate([window.documents for window in windows])), ends)
        plain: list[int] = []
        done: dict[int, PackedWindow] = {}
        for number, window in enumerate(windows):
            images = self._measure.images(window.documents) if self._rules.max_images is not None else lengths[number]
            if self._rules.few_shot.probability or self._rules.too_long(lengths[number], images).any():
                done[number] = self._pieced(window)
            else:
                plain.append(number)
        for number, result in zip(plain, self._plain([windows[n] for n in plain], [lengths[n] for n in plain]), strict=True):
            done[number] = result
        return [done[number] for number in range(len(windows))]

    def _plain(self, windows: Sequence[Window], lengths: Sequence[np.ndarray]) -> list[PackedWindow]:
        """Windows in which every document is a segment."""
        if not windows:
            return []
        table = np.zeros((len(windows), max(map(len, lengths))), np.int64)
        for number, own in enumerate(lengths):
            table[number, : len(own)] = own
        if len(windows) >= _SIDE_BY_SIDE:
            rows = pack_windows(table, self._rules.capacity)
        else:
            rows = np.full(table.shape, -1, np.int64)
            for number, own in enumerate(lengths):
                rows[number] = _row_numbers(pack(own.tolist(), self._rules.capacity), table.shape[1])
        if self._rules.max_images is not None:
            for number, window in enumerate(windows):
                images = self._measure.images(window.documents)
                if np.bincount(rows[number, : len(images)], images).max() > self._rules.max_images:
                    limited = pack(lengths[number].tolist(), self._rules.capacity, images.tolist(), self._rules.max_images)
                    rows[number] = _row_numbers(limited, table.shape[1])
        keys = np.array([window.key for window in windows], np.uint64)
        parts = range(0, len(windows), _SHUFFLED_AT_ONCE)
        shuffled = [_shuffled(rows[start : start + _SHUFFLED_AT_ONCE], keys[start : start + _SHUFFLED_AT_ONCE]) for start in parts]
        found = [one for order, starts in shuffled for one in zip(order, starts, strict=True)]
        return [_reordered(window, order, starts) for window, (order, starts) in zip(windows, found, strict=True)]

    def _pieced(self, window: Window) -> PackedWindow:
        """A window with documents that are split or merged: what is packed are sequences of segments."""
        rules, measure = self._rules, self._measure
        lengths, images = measure.lengths(window.documents), measure.images(window.documents)
        epochs = window.epochs
        sequences: list[list[Segment]] = []
        sizes: list[int] = []
        shown: list[int] = []
        groups = self._merged(window, lengths, images)
        for group in groups:
            sequences.append([Segment(int(window.documents[n]), int(epochs[n]), joined=n != group[0]) for n in group])
            sizes.append(2 + sum(int(lengths[n]) - 2 for n in group))
            shown.append(sum(int(images[n]) for n in group))
        taken = {number for group in groups for number in group}
        too_long = rules.too_long(lengths, images)
        for number, (document, epoch) in enumerate(zip(window.documents.tolist(), epochs.tolist(), strict=True)):
            if number in taken:
                continue
            if not too_long[number]:
                sequences.append([Segment(document, epoch)])
                sizes.append(int(lengths[number]))
                shown.append(int(images[number]))
                continue
            content = measure.content(document)
            for begin, end in split(content, rules.capacity, rules.max_images):
                sequences.append([Segment(document, epoch, begin, end)])
                sizes.append(end - begin + (2 if end == content.total else 1))
                shown.append(content.images(begin, end))
        rows = _row_numbers(pack(sizes, rules.capacity, shown, rules.max_images), len(sizes))
        order, starts = _shuffled(rows[None], np.array([window.key], np.uint64))
        return packed([[segment for number in order[0, a:b].tolist() for segment in sequences[number]] for a, b in pairwise(starts[0])])

    def _concatenated(self, window: Window) -> PackedWindow:
        lengths, images = self._measure.lengths(window.documents), self._measure.images(window.documents)
        groups = self._merged(window, lengths, images)
        joined = [number for group in groups for number in group[1:]]
        together = [number for group in groups for number in group]
        rest = np.setdiff1d(np.arange(len(window.documents)), together)
        order = np.concatenate([np.array(together, np.int64), rest])
        places = {number: place for place, number in enumerate(together)}
        rows = concatenate(
            window.documents[order],
            window.epochs[order],
            [places[number] for number in joined],
            self._measure,
            self._rules.capacity,
            self._rules.max_images,
        )
        return packed(rows)

    def _merged(self, window: Window, lengths: np.ndarray, images: np.ndarray) -> list[list[int]]:
        few_shot = self._rules.few_shot
        if not few_shot.probability:
            return []
        eligible = np.flatnonzero(self._measure.of_kinds(window.documents, frozenset(few_shot.kinds)))
        groups = merged(lengths[eligible], images[eligible], few_shot, self._rules.capacity, self._rules.max_images, window.key)
        return [eligible[group].tolist() for group in groups]

    def _placeable(self, window: Window) -> Window:
        fits = ~self.unplaceable(window.documents)
        return Window(window.documents[fits], window.epoch if isinstance(window.epoch, int) else window.epoch[fits], window.key)


def _reordered(window: Window, order: np.ndarray, starts: np.ndarray) -> PackedWindow:
    own = order[: len(window.documents)]
    return PackedWindow(starts, window.documents[own], window.epoch if isinstance(window.epoch, int) else window.epoch[own], {})


def _row_numbers(rows: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """The row of each number, -1 for numbers in no row; int64 [size]."""
    found = np.full(size, -1, np.int64)
    for row, numbers in enumerate(rows):
        found[list(numbers)] = row
    return found


def _shuffled(rows: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Numbers of each window row by row, rows and what is in them in keyed order, and where rows start in it; `rows` as of pack_windows."""
    windows, size = rows.shape
    if size > _NUMBERS:
        raise CorpusError(f"a window has {size} segments, more than {_NUMBERS}; set a smaller data.window_documents")
    counts = rows.max(1, initial=-1) + 1
    most = int(counts.max(initial=0))
    of_rows = scramble(np.arange(most, dtype=np.uint64)[None], keys[:, None]).astype(np.int64)
    of_numbers = scramble(np.arange(size, dtype=np.uint64)[None] + np.uint64(1 << 32), keys[:, None]).astype(np.int64)
    numbered = of_rows << _NUMBER_BITS | np.arange(most) | (np.arange(most) >= counts[:, None]).astype(np.int64) << 62
    numbered.sort(axis=1)
    rank = np.zeros((windows, most), np.int64)
    np.put_along_axis(rank, numbered & _NUMBERS, np.arange(most)[None], 1)
    flat = np.maximum(rows, 0) + np.arange(windows)[:, None] * most
    place = rank.reshape(-1).take(flat)
    keyed = place << 42 | (of_numbers >> 10) << _NUMBER_BITS | np.arange(size)
    keyed[rows < 0] = np.iinfo(np.int64).max
    keyed.sort(axis=1)
    flat += place - np.maximum(rows, 0)
    sizes = np.bincount(flat[rows >= 0], minlength=windows * most).reshape(windows, most)
    ends = np.cumsum(sizes, axis=1)
    return keyed & _NUMBERS, [np.concatenate([[0], ends[number, : counts[number]]]) for number in range(windows)]
