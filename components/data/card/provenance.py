"""What documents say of their own making, added up by source and origin: licences, languages, alignment, what they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

PROVENANCE_FILE = "provenance.json"
MEASURED = ("alignment", "cost_seconds", "cost_usd")
STATED_FACTS = ("language", *MEASURED)
"""Facts of a document that are added up."""
VERSION = 1
_MOST_NAMED = 50
"""Licences and languages that are kept by name; what comes after the most frequent ones is added up as `other`."""


@dataclass
class Measured:
    """A number that some documents carry: how many, their mean and spread. Sums are exact fractions of 1e-9, so their order is nothing."""

    count: int = 0
    billionths: int = 0
    squares: int = 0

    def add(self, value: float) -> None:
        """One more document's number."""
        exact = round(value * 1_000_000_000)
        self.count, self.billionths, self.squares = self.count + 1, self.billionths + exact, self.squares + exact * exact

    def merge(self, other: Measured) -> None:
        """Add what another part of the corpus measured."""
        self.count += other.count
        self.billionths += other.billionths
        self.squares += other.squares

    @property
    def total(self) -> float:
        """Their sum."""
        return self.billionths / 1e9

    @property
    def mean(self) -> float | None:
        """Their mean; None where no document carries the number."""
        return self.total / self.count if self.count else None

    @property
    def deviation(self) -> float | None:
        """Their standard deviation; None where no document carries the number."""
        if not self.count:
            return None
        return math.sqrt(max(0, self.count * self.squares - self.billionths * self.billionths)) / self.count / 1e9


@dataclass
class Share:
    """The documents of one source and origin."""

    documents: int = 0
    images: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    alignment: Measured = field(default_factory=Measured)
    cost_seconds: Measured = field(default_factory=Measured)
    cost_usd: Measured = field(default_factory=Measured)

    def add(self, images: int, stated: Mapping[str, Any]) -> None:
        """One more document: its pictures, and what it states."""
        self.documents += 1
        self.images += images
        self.licences[str(stated["licence"])[:80]] += 1
        self.languages[str(stated.get("language", "not stated"))[:40]] += 1
        for name in MEASURED:
            value = stated.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                getattr(self, name).add(float(value))

    def merge(self, other: Share) -> None:
        """Add another part of the corpus."""
        self.documents += other.documents
        self.images += other.images
        self.licences.update(other.licences)
        self.languages.update(other.languages)
        for name in MEASURED:
            getattr(self, name).merge(getattr(other, name))


class Provenance:
    """Shares by (source, origin). Parts of a corpus can be added up in any order and grouping."""

    def __init__(self) -> None:
        self.shares: dict[tuple[str, str], Share] = {}

    def add(self, source: str, images: int, stated: Mapping[str, Any]) -> None:
        """One more document: its source, its pictures, and what it states (`origin`, `licence`, and of STATED_FACTS what it has)."""
        self.shares.setdefault((source, stated["origin"]), Share()).add(images, stated)

    def merge(self, other: Provenance) -> None:
        """Add another part of the corpus."""
        for key, share in other.shares.items():
            self.shares.setdefault(key, Share()).merge(share)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the same for the same documents."""
        return {
            "version": VERSION,
            "shares": [
                {
                    "source": source,
                    "origin": origin,
                    "documents": share.documents,
                    "images": share.images,
                    "licences": _named(share.licences),
                    "languages": _named(share.languages),
                    "alignment": vars(share.alignment),
                    "cost_seconds": vars(share.cost_seconds),
                    "cost_usd": vars(share.cost_usd),
                }
                for (source, origin), share in sorted(self.shares.items())
            ],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises ValueError for a newer version."""
        if values["version"] > VERSION:
            raise ValueError(f"provenance of version {values['version']} is not understood; install a newer mmfs")
        one = cls()
        for share in values["shares"]:
            one.shares[share["source"], share["origin"]] = Share(
                share["documents"],
                share["images"],
                Counter(share["licences"]),
                Counter(share["languages"]),
                Measured(**share["alignment"]),
                Measured(**share["cost_seconds"]),
                Measured(**share["cost_usd"]),
            )
        return one


def _named(counts: Counter[str]) -> dict[str, int]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    other = sum(count for _, count in ranked[_MOST_NAMED:])
    return dict(ranked[:_MOST_NAMED]) | ({"other": other} if other else {})
