"""How a global batch is shared out: micro-batches per optimizer step from the rows, the ranks, and what a device takes at once."""

from __future__ import annotations


def accumulation(rows_per_step: int, ranks: int, rows_per_device: int) -> int:
    """The fewest equal micro-batches of at most `rows_per_device` rows that make a rank's share of a step.

    Raises ValueError, naming the nearest global batches that can be dealt, where the rows do not divide by the ranks.
    """
    if rows_per_step % ranks:
        below = rows_per_step // ranks * ranks
        near = " or ".join(str(rows) for rows in (below, below + ranks) if rows)
        raise ValueError(f"rows_per_step ({rows_per_step}) does not divide by ranks ({ranks}); the nearest that does is {near}")
    share = rows_per_step // ranks
    return next(parts for parts in range(-(-share // rows_per_device), share + 1) if share % parts == 0)
