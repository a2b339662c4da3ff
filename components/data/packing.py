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
    limit = 0 if max_images is None else max_images
    rows: list[list[int]] = []
    left: list[int] = []  # images that each row can still take
    by_fill: list[list[int]] = [[] for _ in range(capacity + 1)]
    filled = [0] * (limit + 1)  # bit f of number l is set when some row holds f tokens and can take l more images
    for number in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length, own = lengths[number], images[number] if max_images is not None else 0
        if not 0 < length <= capacity:
            raise ValueError(f"document {number} has {length} tokens; a row holds 1 to {capacity}")
        if own > limit:
            raise ValueError(f"document {number} has {own} images; a row holds at most {max_images}")
        fitting = 0
        for fills in filled[own:]:
            fitting |= fills
        fitting &= (2 << (capacity - length)) - 1
        if fitting:
            fill = fitting.bit_length() - 1
            alike = by_fill[fill]
            row = alike.pop(next(place for place in range(len(alike) - 1, -1, -1) if left[alike[place]] >= own))
            if not any(left[other] == left[row] for other in alike):
                filled[left[row]] ^= 1 << fill
        else:
            fill, row = 0, len(rows)
            rows.append([])
            left.append(limit)
        rows[row].append(number)
        left[row] -= own
        by_fill[fill + length].append(row)
        filled[left[row]] |= 1 << (fill + length)
    return rows
