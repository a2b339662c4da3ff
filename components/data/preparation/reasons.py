"""Reasons by the hundred thousand, grouped by what they have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from components.data.sources.source import Rejected

SHOWN = 5
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/.\\]\S*\.\w{2,4}\b|\b[\w-]*\d[\w-]*\b")
_MAX_GROUPS = 10_000


class Reasons:
    """Counts of reasons without their particulars (names, numbers, quotes), each with its first example."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, Rejected] = {}

    def add(self, rejected: Iterable[Rejected]) -> None:
        """Count these; groups beyond a bound are counted together."""
        for one in rejected:
            key = _PARTICULAR.sub("…", one.reason)
            if key not in self._counts and len(self._counts) >= _MAX_GROUPS:
                key = "others"
            self._counts[key] += 1
            self._examples.setdefault(key, one)

    @property
    def total(self) -> int:
        """How many were counted."""
        return self._counts.total()

    def top(self, shown: int = SHOWN) -> list[tuple[int, Rejected]]:
        """The most frequent groups: how often, and the first example."""
        return [(count, self._examples[key]) for key, count in self._counts.most_common(shown)]

    def line(self) -> str:
        """The most frequent groups in words."""
        groups = self.top()
        told = "; ".join(f"{f'{count} times, first ' if count > 1 else ''}{one.where}: {one.reason}" for count, one in groups)
        rest = self.total - sum(count for count, _ in groups)
        return told + (f"; {rest} of other kinds" if rest else "")
