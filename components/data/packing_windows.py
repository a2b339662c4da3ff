"""Best-fit decreasing of many windows beside each other, row by row the same as `components.data.packing.pack` of each.

All windows go through the same step together, each with its own longest document that is left, so that numpy's cost of a call is shared.
The rows of a window that hold equally much are a linked list; which fills some row has are bits of words, and which words are not empty
are bits of a word above them.
"""

from __future__ import annotations

import numpy as np

from components.data.packing import pack

MAX_CAPACITY = 64 * 64 - 1
"""Tokens of a row that two levels of bits can tell apart; longer rows are packed window by window."""
_ALL = ~np.uint64(0)
_BIT = np.uint64(1) << np.arange(64, dtype=np.uint64)


def pack_windows(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Row number of each document of each window, int64 [windows, documents]; lengths likewise, 0 for no document, whose row is -1.

    Raises ValueError for a document that fits in no row.
    """
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= capacity:
        raise ValueError(f"lengths are {int(lengths.min())} to {int(lengths.max())} tokens; a row holds 1 to {capacity}")
    if capacity > MAX_CAPACITY:
        return _one_by_one(lengths, capacity)
    order = np.argsort((capacity - lengths).astype(np.uint16), axis=1, kind="stable")
    order += np.arange(len(lengths))[:, None] * lengths.shape[1]
    descending = np.ascontiguousarray(lengths.reshape(-1).take(order).T.astype(np.int64))
    chosen = _choose(descending, capacity)
    chosen[descending == 0] = -1
    rows = np.empty(lengths.shape, np.int64)
    rows.reshape(-1)[order] = chosen.T
    return rows


def _choose(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Rows of documents [documents, windows] that descend in length. One of length 0 is taken out of a row and put back."""
    documents, windows = lengths.shape
    words, fills = capacity // 64 + 1, np.arange(capacity + 1)
    most = capacity - lengths
    word_of = most >> 6
    allowed = (np.uint64(2) << (most & 63).astype(np.uint64)) - np.uint64(1)
    lower_words = _BIT[word_of] - np.uint64(1)
    chosen = np.empty((documents, windows), np.int64)
    word_base, fill_base, row_base = (np.arange(windows) * size for size in (words, capacity + 1, documents))
    bit_of = _BIT[fills & 63]
    all_but = ~bit_of
    all_but[0] = _ALL  # a new row can always be opened
    bits = np.zeros(windows * words, np.uint64)
    bits[word_base] = 1
    summary = np.ones(windows, np.uint64)
    number_type = np.int16 if documents < 1 << 15 else np.int32
    head = np.full(windows * (capacity + 1), -1, number_type)  # the row that came to a fill last
    earlier = np.full(windows * documents, -1, number_type)  # the one that came to the same fill before it
    alone = int((2 * lengths.min(1, initial=capacity) > capacity).sum())  # in all windows too long for each other
    opened = np.full(windows, alone)
    for step in range(documents):
        length, word = lengths[step], word_of[step]
        if step < alone:
            chosen[step] = step
            row = row_base + step
            fill, slot = length, fill_base + length
        else:
            place = word_base + word
            found = bits.take(place)
            found &= allowed[step]
            lower = (found == 0).nonzero()[0]
            if len(lower):
                further = _highest(summary.take(lower) & lower_words[step].take(lower))
                word[lower] = further
                further += word_base.take(lower)
                place[lower] = further
                found[lower] = bits.take(further)
            fill = word << 6
            fill += _highest(found)
            slot = fill_base + fill
            row = head.take(slot).astype(np.int64)
            fresh = (row < 0).nonzero()[0]
            if len(fresh):
                number = opened.take(fresh)
                row[fresh] = number
                opened[fresh] = number + 1
            chosen[step] = row
            row += row_base
            after = earlier.take(row)
            head[slot] = after
            emptied = (after < 0).nonzero()[0]
            if len(emptied):
                gone = place.take(emptied)
                left = bits.take(gone)
                left &= all_but.take(fill.take(emptied))
                bits[gone] = left
                bare = emptied[left == 0]
                if len(bare):
                    summary[bare] &= ~_BIT.take(word.take(bare))
            fill += length
            slot += length
        earlier[row] = head.take(slot)
        head[slot] = chosen[step]
        word = fill >> 6
        place = word_base + word
        bits[place] = bits.take(place) | bit_of.take(fill)
        summary |= _BIT.take(word)
    return chosen


def _highest(words: np.ndarray) -> np.ndarray:
    """Number of the highest set bit: the exponent of a float. The bit below it is cleared, so that rounding cannot reach the next."""
    exponents = (words & ~(words >> np.uint64(1))).astype(np.float64).view(np.int64)
    exponents >>= 52
    exponents -= 1023
    return exponents


def _one_by_one(lengths: np.ndarray, capacity: int) -> np.ndarray:
    rows = np.full(lengths.shape, -1, np.int64)
    for window, own in enumerate(lengths):
        present = np.flatnonzero(own)
        for row, numbers in enumerate(pack(own[present].tolist(), capacity)):
            rows[window, present[numbers]] = row
    return rows
