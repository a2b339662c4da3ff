"""How many documents and pictures go in, and which filter takes how many. Parts of a corpus are counted apart and added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from components.data.filters.outcome import Dropped, Outcome

_Key = TypeVar("_Key")
FUNNEL_FILE = "funnel.json"
TAKEDOWN = "takedown"
ORDER = (
    TAKEDOWN,
    "language",
    "nsfw",
    "alignment",
    "caption_length",
    "image_size",
    "aesthetic",
    "similarity",
    "image_count",
    "imageless",
    "single_image",
    "sequence",
    "contamination",
    "exact_duplicate",
    "near_duplicate",
)
"""Filters in the order in which documents meet them."""


@dataclass(frozen=True)
class Count:
    """Documents and pictures."""

    documents: int = 0
    images: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.documents + other.documents, self.images + other.images)

    def __sub__(self, other: Count) -> Count:
        return Count(self.documents - other.documents, self.images - other.images)


@dataclass(frozen=True)
class Funnel:
    """By corpus what went in; by corpus and filter what was dropped, zero where the filter found nothing. `+` is the sum of both."""

    entered: Mapping[str, Count]
    dropped: Mapping[tuple[str, str], Count]

    @classmethod
    def empty(cls, corpus: str, filters: Iterable[str]) -> Self:
        """Nothing yet, of a corpus that these filters look at."""
        return cls({corpus: Count()}, {(corpus, name): Count() for name in filters})

    @classmethod
    def of(cls, corpus: str, outcome: Outcome) -> Self:
        """One document that the rules of its corpus were asked about."""
        left = outcome.images if isinstance(outcome, Dropped) else len(outcome.accepted.images)
        taken = cls.taken(corpus, outcome)
        return cls({corpus: Count(1, left + len(outcome.losses))}, taken.dropped)

    @classmethod
    def taken(cls, corpus: str, outcome: Outcome) -> Self:
        """Only what was dropped of a document; it was counted before as one that goes in."""
        dropped: dict[tuple[str, str], Count] = {}
        for loss in outcome.losses:
            key = (corpus, loss.filter)
            dropped[key] = dropped.get(key, Count()) + Count(images=1)
        if isinstance(outcome, Dropped):
            key = (corpus, outcome.filter)
            dropped[key] = dropped.get(key, Count()) + Count(1, outcome.images)
        return cls({}, dropped)

    def __add__(self, other: Funnel) -> Funnel:
        return Funnel(_sum(self.entered, other.entered), _sum(self.dropped, other.dropped))

    def kept(self, corpus: str) -> Count:
        """What is left of a corpus."""
        return self.entered[corpus] - sum((count for (name, _), count in self.dropped.items() if name == corpus), Count())

    def as_json(self) -> dict[str, Any]:
        """JSON values, by name; `from_json` reads them."""
        return {
            corpus: {
                "entered": vars(self.entered.get(corpus, Count())),
                "dropped": {name: vars(self.dropped[corpus, name]) for name in _filters(self, corpus)},
            }
            for corpus in _corpora(self)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        return cls(
            {corpus: Count(**one["entered"]) for corpus, one in values.items()},
            {(corpus, name): Count(**count) for corpus, one in values.items() for name, count in one["dropped"].items()},
        )


def funnel_rows(funnel: Funnel) -> list[dict[str, str | int]]:
    """A table: a line for each corpus and filter in the order they are met, with what comes to it, what it drops and what goes on."""
    rows: list[dict[str, str | int]] = []
    for corpus in _corpora(funnel):
        left = funnel.entered.get(corpus, Count())
        for name in _filters(funnel, corpus):
            taken = funnel.dropped[corpus, name]
            rest = left - taken
            rows.append(
                {
                    "corpus": corpus,
                    "filter": name,
                    "documents_in": left.documents,
                    "documents_dropped": taken.documents,
                    "documents_out": rest.documents,
                    "images_in": left.images,
                    "images_dropped": taken.images,
                    "images_out": rest.images,
                }
            )
            left = rest
    return rows


def funnel_metrics(funnel: Funnel) -> dict[str, float]:
    """Flat numbers: `filters/CORPUS/{documents,images}_{in,out}` and `filters/CORPUS/FILTER/{documents,images}_dropped`."""
    metrics: dict[str, float] = {}
    for corpus in _corpora(funnel):
        entered, kept = funnel.entered.get(corpus, Count()), (funnel + Funnel.empty(corpus, ())).kept(corpus)
        metrics |= {f"filters/{corpus}/{what}_in": float(count) for what, count in vars(entered).items()}
        for name in _filters(funnel, corpus):
            taken = vars(funnel.dropped[corpus, name])
            metrics |= {f"filters/{corpus}/{name}/{what}_dropped": float(count) for what, count in taken.items()}
        metrics |= {f"filters/{corpus}/{what}_out": float(count) for what, count in vars(kept).items()}
    return metrics


def _sum(one: Mapping[_Key, Count], two: Mapping[_Key, Count]) -> dict[_Key, Count]:
    return {key: one.get(key, Count()) + two.get(key, Count()) for key in (*one, *(key for key in two if key not in one))}


def _corpora(funnel: Funnel) -> list[str]:
    return sorted({*funnel.entered, *(corpus for corpus, _ in funnel.dropped)})


def _filters(funnel: Funnel, corpus: str) -> list[str]:
    return sorted((name for found, name in funnel.dropped if found == corpus), key=ORDER.index)
