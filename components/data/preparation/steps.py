"""What is asked of a document between its reader and its shard: a chain of rules, the same in every process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.data.sources.source import Accepted
from components.params import CorpusParams


@dataclass(frozen=True)
class Kept:
    """A document that goes on, as it is now."""

    accepted: Accepted


@dataclass(frozen=True)
class Dropped:
    """A usable document that is not wanted: which filter says so, and why."""

    id: str
    filter: str
    reason: str


Outcome = Kept | Dropped


class Chain(Protocol):
    """Rules that one document decides."""

    def apply(self, accepted: Accepted) -> Outcome:
        """The document after all rules, or the first that drops it."""
        ...


class _NoRules:
    def apply(self, accepted: Accepted) -> Outcome:
        return Kept(accepted)


def chain(corpus: CorpusParams, seed: int, folder: Path) -> Chain:
    """The rules of the corpus whose files lie in `folder`."""
    return _NoRules()


def records(outcome: Outcome) -> Iterator[Mapping[str, str | None]]:
    """The lines of dropped.jsonl."""
    if isinstance(outcome, Dropped):
        yield {"document": outcome.id, "image": None, "filter": outcome.filter, "reason": outcome.reason}
