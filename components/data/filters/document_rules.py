"""Rules that look at the whole of a document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.data.filters.rules import Judgement, number
from components.data.filters.sequence import sequence_score, similarities
from components.data.keyed import generator
from components.data.sources.source import Accepted


@dataclass(frozen=True)
class LanguageRule:
    """Documents in other languages. `en` allows `en-GB`."""

    allowed: tuple[str, ...]
    drop_unstated: bool
    name: str = "language"

    def judge(self, accepted: Accepted) -> Judgement:
        """Compares tags without regard to case."""
        stated = accepted.document.facts.get("language")
        if not isinstance(stated, str) or not stated:
            return "language is not stated" if self.drop_unstated else None
        tag = stated.lower().replace("_", "-")
        if any(tag == one.lower() or tag.startswith(one.lower() + "-") for one in self.allowed):
            return None
        return f"language is {stated}"


@dataclass(frozen=True)
class AlignmentRule:
    """Documents whose texts and pictures have little to do with each other."""

    minimum: float
    drop_unstated: bool
    name: str = "alignment"

    def judge(self, accepted: Accepted) -> Judgement:
        """By the document's stated score."""
        score = number(accepted.document.facts, "alignment")
        if score is None:
            return "alignment is not stated" if self.drop_unstated else None
        return f"alignment {score:g} is below {self.minimum:g}" if score < self.minimum else None


@dataclass(frozen=True)
class CaptionRule:
    """Captions that are too short. `length` counts what `unit` says."""

    minimum: int
    unit: str
    length: Callable[[str], int]
    name: str = "caption_length"

    def judge(self, accepted: Accepted) -> Judgement:
        """Only of documents of kind `caption`."""
        if accepted.document.kind != "caption":
            return None
        length = self.length(" ".join(accepted.document.texts).strip())
        return f"caption of {length} {self.unit} is shorter than {self.minimum}" if length < self.minimum else None


@dataclass(frozen=True)
class ImagelessRule:
    """Documents without a picture that are not meant to be text."""

    name: str = "imageless"

    def judge(self, accepted: Accepted) -> Judgement:
        """All of them, except kind `text`."""
        return "no image" if not accepted.images and accepted.document.kind != "text" else None


@dataclass(frozen=True)
class SingleImageRule:
    """A share of the documents with one picture, by a coin that belongs to the document."""

    share: float
    seed: int
    name: str = "single_image"

    def judge(self, accepted: Accepted) -> Judgement:
        """Tosses the coin of (seed, filter, document)."""
        if len(accepted.images) != 1:
            return None
        return "one image, and the coin fell" if generator(self.seed, self.name, accepted.document.id).random() < self.share else None


@dataclass(frozen=True)
class SequenceRule:
    """Documents whose pictures do not follow from each other."""

    minimum: float
    drop_unstated: bool
    name: str = "sequence"

    def judge(self, accepted: Accepted) -> Judgement:
        """Only where there are two pictures or more."""
        if len(accepted.images) < 2:
            return None
        matrix = similarities(accepted.document)
        if matrix is None:
            return "fields.image_similarity is not stated" if self.drop_unstated else None
        score = sequence_score(matrix)
        return f"sequence score {score:.4g} is below {self.minimum:g}" if score < self.minimum else None
