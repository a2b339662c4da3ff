"""Best-fit decreasing: documents into rows of fixed capacity, none cut."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of document numbers whose lengths sum to at most `capacity`; each document is in exactly one row.

    Longest first, each into the fullest row that still has room, so the result depends on the
    lengths alone. Raises ValueError for a document that fits in no row.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    occupied = 0  # bit r is set when some row has r tokens of room
    for number in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[number]
        if not 0 < length <= capacity:
            raise ValueError(f"document {number} has {length} tokens; a row holds 1 to {capacity}")
        fitting = occupied >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                occupied &= ~(1 << room)
            rows[row].append(number)
        else:
            room, row = capacity, len(rows)
            rows.append([number])
        by_room[room - length].append(row)
        occupied |= 1 << (room - length)
    return rows
