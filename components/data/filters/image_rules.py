"""Rules that look at each picture."""

from __future__ import annotations

from dataclasses import dataclass

from components.data.documents import Facts
from components.data.filters.rules import Judgement, number
from components.data.keyed import generator
from components.data.sources.source import Accepted


@dataclass(frozen=True)
class NsfwRule:
    """Pictures, and whole documents, that are stated as not safe for work, in words or as a probability."""

    words: tuple[str, ...]
    maximum: float | None
    drop_unstated: bool
    name: str = "nsfw"

    def judge(self, accepted: Accepted) -> Judgement:
        """What the document states is about all of it and stands for pictures that state nothing."""
        facts = accepted.document.facts
        if "nsfw" in facts and (reason := self._reason(facts)):
            return reason
        return {
            place: reason
            for place, item in enumerate(accepted.document.images)
            if ("nsfw" in item.facts or "nsfw" not in facts) and (reason := self._reason(item.facts))
        }

    def _reason(self, facts: Facts) -> str | None:
        if (probability := number(facts, "nsfw")) is not None:
            return f"nsfw {probability:g} is above {self.maximum:g}" if self.maximum is not None and probability > self.maximum else None
        word = facts.get("nsfw")
        if isinstance(word, str) and word:
            return f"nsfw is {word}" if word.lower() in (one.lower() for one in self.words) else None
        return "nsfw is not stated" if self.drop_unstated else None


@dataclass(frozen=True)
class SizeRule:
    """Pictures too small, too large or too narrow, by their measured sides in pixels."""

    min_side: int | None
    max_side: int | None
    max_aspect: float | None
    name: str = "image_size"

    def judge(self, accepted: Accepted) -> Judgement:
        """By [width, height] as decoded, not as stated."""
        return {place: reason for place, size in enumerate(accepted.sizes) if (reason := self._reason(*size))}

    def _reason(self, width: int, height: int) -> str | None:
        short, long = sorted((width, height))
        if self.min_side is not None and short < self.min_side:
            return f"{width}x{height} has a side below {self.min_side}"
        if self.max_side is not None and long > self.max_side:
            return f"{width}x{height} has a side above {self.max_side}"
        if self.max_aspect is not None and long > self.max_aspect * short:
            return f"{width}x{height} is longer than {self.max_aspect:g} times its shorter side"
        return None


@dataclass(frozen=True)
class ScoreRule:
    """Pictures whose stated score is too low; the rule is called what the fact is called."""

    name: str
    minimum: float
    drop_unstated: bool

    def judge(self, accepted: Accepted) -> Judgement:
        """Each picture by its own facts."""
        return {place: reason for place, item in enumerate(accepted.document.images) if (reason := self._reason(item.facts))}

    def _reason(self, facts: Facts) -> str | None:
        score = number(facts, self.name)
        if score is None:
            return f"{self.name} is not stated" if self.drop_unstated else None
        return f"{self.name} {score:g} is below {self.minimum:g}" if score < self.minimum else None


@dataclass(frozen=True)
class CountRule:
    """Pictures beyond the number that a document may keep. Those kept stay in their order."""

    maximum: int
    most_similar: bool
    seed: int
    name: str = "image_count"

    def judge(self, accepted: Accepted) -> Judgement:
        """The most similar stay, the earlier of equal ones; or those that the shuffle of (seed, filter, document) puts first."""
        images = accepted.document.images
        if len(images) <= self.maximum:
            return None
        if self.most_similar:
            scores = [number(item.facts, "similarity") for item in images]
            ranked = sorted(range(len(images)), key=lambda place: (scores[place] is None, -(scores[place] or 0.0), place))
        else:
            ranked = generator(self.seed, self.name, accepted.document.id).permutation(len(images)).tolist()
        return {place: f"{len(images)} images, {self.maximum} are kept" for place in sorted(ranked[self.maximum :])}
