"""Which checkpoints stay: a pure function of their steps and scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    """The newest `last`, every one whose step is a multiple of `every` (0: none), and the `best` with the lowest score."""

    last: int = 2
    every: int = 0
    best: int = 0

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"retention must keep at least the last checkpoint, not {self.last}")


def kept(
    steps: Collection[int], rule: Retention, pinned: Collection[int] = (), scores: Mapping[int, float] = {}, good: int | None = None
) -> set[int]:
    """The steps that stay. A pinned one always does, and so does `good`, the newest that is known to verify.

    Nothing is ordered by time: steps are, and scores; of equal scores the later step counts as better.
    """
    newest = sorted(steps)[-rule.last :]
    regular = [step for step in steps if rule.every and step % rule.every == 0]
    ranked = sorted((step for step in steps if step in scores), key=lambda step: (scores[step], -step))[: rule.best]
    return {*newest, *regular, *ranked, *(step for step in steps if step in pinned or step == good)}
