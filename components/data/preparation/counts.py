"""How much of what a data version holds and what was left out: the counts behind the metrics, `mmfs data show` and the data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from components.data.documents import SPLITS
from components.data.index import Row
from components.data.preparation.reasons import Reasons
from components.data.sources.source import Rejected

VERSION = 1


class Counts:
    """Documents, images and text tokens by source, kind and split; quarantined and missing by corpus and reason, dropped by corpus and
    filter.

    What is missing was never fetched: nothing is wrong with the input, so it is none of the quarantined and not in their rate.
    """

    def __init__(self) -> None:
        self._documents: Counter[tuple[str, str, str]] = Counter()
        self._images: Counter[tuple[str, str, str]] = Counter()
        self._tokens: Counter[tuple[str, str, str]] = Counter()
        self._reasons: dict[str, Reasons] = {}
        self._missing: dict[str, Reasons] = {}
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._dropped_images: Counter[tuple[str, str]] = Counter()
        self._notes: list[tuple[str, str]] = []

    def counting(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, counted as they pass."""
        for row in rows:
            key = (row.source, row.kind, row.split)
            self._documents[key] += 1
            self._images[key] += len(row.images)
            self._tokens[key] += row.tokens
            yield row

    def quarantine(self, corpus: str, rejected: Rejected) -> None:
        """One document, or part of one, that is unusable or missing, or an input shard that was given up."""
        (self._missing if rejected.missing else self._reasons).setdefault(corpus, Reasons()).add([rejected])

    def drop(self, corpus: str, filter_name: str, whole: bool) -> None:
        """One document that a filter dropped, or an image of one."""
        (self._dropped if whole else self._dropped_images)[corpus, filter_name] += 1

    def note(self, corpus: str, note: str) -> None:
        """What a corpus says of its whole."""
        self._notes.append((corpus, note))

    def metrics(self) -> dict[str, float]:
        """The stage's headline figures."""
        documents, quarantined, missing = self._documents.total(), _total(self._reasons), _total(self._missing)
        dropped = self._dropped.total()
        splits = {f"{split}_documents": sum(n for key, n in self._documents.items() if key[2] == split) for split in SPLITS}
        rate = round(quarantined / max(1, documents + quarantined + dropped), 6)
        whole = {"images": self._images.total(), "text_tokens": self._tokens.total(), "quarantined": quarantined}
        return {**splits, **whole, "quarantine_rate": rate, "missing": missing, "dropped": dropped}

    def as_dict(self) -> dict[str, Any]:
        """counts.json."""
        return {
            "version": VERSION,
            "documents": [
                {"source": source, "kind": kind, "split": split, "documents": n, "images": self._images[key], "tokens": self._tokens[key]}
                for key, n in sorted(self._documents.items())
                for source, kind, split in [key]
            ],
            "quarantined": _told(self._reasons),
            "missing": _told(self._missing),
            "dropped": [
                {"corpus": corpus, "filter": name, "documents": self._dropped[key], "images": self._dropped_images[key]}
                for key in sorted({*self._dropped, *self._dropped_images})
                for corpus, name in [key]
            ],
            "notes": [{"corpus": corpus, "note": note} for corpus, note in self._notes],
        }


def _total(reasons: Mapping[str, Reasons]) -> int:
    return sum(one.total for one in reasons.values())


def _told(found: Mapping[str, Reasons]) -> list[dict[str, Any]]:
    return [
        {"corpus": corpus, "documents": reasons.total, "reasons": [_reason(n, one) for n, one in reasons.top()]}
        for corpus, reasons in sorted(found.items())
    ]


def _reason(count: int, example: Rejected) -> dict[str, Any]:
    return {"count": count, "where": example.where, "reason": example.reason}
