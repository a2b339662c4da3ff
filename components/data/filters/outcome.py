"""What the rules make of a document: kept, perhaps with fewer pictures, or dropped; each loss with its filter and reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.data.sources.source import Accepted


@dataclass(frozen=True)
class Loss:
    """A picture that a rule took out of a document."""

    image: str
    filter: str
    reason: str


@dataclass(frozen=True)
class Kept:
    """A document that goes on, as it is now, and the pictures that it lost."""

    accepted: Accepted
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """A document that ends at `filter`, with the `images` that it had left there; `losses` are those that it had lost before."""

    id: str
    filter: str
    reason: str
    images: int
    losses: tuple[Loss, ...] = ()


Outcome = Kept | Dropped


def records(outcome: Outcome) -> Iterator[Mapping[str, str | None]]:
    """The lines of dropped.jsonl: one for each picture lost, one with `image` null for the document."""
    document = outcome.id if isinstance(outcome, Dropped) else outcome.accepted.document.id
    for loss in outcome.losses:
        yield {"document": document, "image": loss.image, "filter": loss.filter, "reason": loss.reason}
    if isinstance(outcome, Dropped):
        yield {"document": document, "image": None, "filter": outcome.filter, "reason": outcome.reason}
