"""What a rule is, and how it reads the facts that a corpus states."""

from __future__ import annotations

import math
from typing import Protocol

from components.data.documents import Facts
from components.data.sources.source import Accepted

Judgement = str | dict[int, str] | None
"""Why the document is dropped; or why pictures are, by their number; or nothing."""


class Rule(Protocol):
    """One filter. It looks at one document and at nothing else."""

    @property
    def name(self) -> str:
        """What the funnel calls it."""
        ...

    def judge(self, accepted: Accepted) -> Judgement:
        """What is to go."""
        ...


def number(facts: Facts, name: str) -> float | None:
    """A stated number; None where it is absent, a word, or not finite."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
