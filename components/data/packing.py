"""Best-fit decreasing: documents into rows of fixed capacity, none cut.

Longest first, each into the fullest row that still has room, of these the one that came to its fill last; where none has room, into a new
row. So the result depends on the lengths alone (and on the images, where a row may hold only so many).
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int, images: Sequence[int] = (), max_images: int | None = None) -> list[list[int]]:
    """Rows of document numbers whose lengths sum to at most `capacity`; each document is in exactly one row.

    With `max_images` the images of a row sum to at most that, and the fullest row is sought among those that can take them.
    Raises ValueError for a document that fits in no row.
    """
    rows: list[list[int]] = []
    shown: list[int] = []  # images of each row
    by_fill: list[list[int]] = [[] for _ in range(capacity + 1)]
    filled = 0  # bit f is set when some row holds f tokens
    for number in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length, own = lengths[number], images[number] if max_images is not None else 0
        if not 0 < length <= capacity:
            raise ValueError(f"document {number} has {length} tokens; a row holds 1 to {capacity}")
        if max_images is not None and own > max_images:
            raise ValueError(f"document {number} has {own} images; a row holds at most {max_images}")
        fitting = filled & ((2 << (capacity - length)) - 1)
        while fitting:
            fill = fitting.bit_length() - 1
            if (place := _place(by_fill[fill], shown, own, max_images)) is not None:
                row = by_fill[fill].pop(place)
                if not by_fill[fill]:
                    filled ^= 1 << fill
                break
            fitting ^= 1 << fill
        else:
            fill, row = 0, len(rows)
            rows.append([])
            shown.append(0)
        rows[row].append(number)
        shown[row] += own
        by_fill[fill + length].append(row)
        filled |= 1 << (fill + length)
    return rows


def _place(rows: Sequence[int], shown: Sequence[int], images: int, max_images: int | None) -> int | None:
    """Where the last of these rows stands that can take so many images."""
    if max_images is None:
        return len(rows) - 1
    return next((place for place in range(len(rows) - 1, -1, -1) if shown[rows[place]] + images <= max_images), None)
