"""The rules of a corpus, asked one after the other of each document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers

from components.data.documents import CorpusError, DocumentError
from components.data.filters.document_rules import (
    AlignmentRule,
    CaptionRule,
    ImagelessRule,
    LanguageRule,
    SequenceRule,
    SingleImageRule,
)
from components.data.filters.funnel import Funnel
from components.data.filters.image_rules import CountRule, NsfwRule, ScoreRule, SizeRule
from components.data.filters.outcome import Dropped, Kept, Loss, Outcome
from components.data.filters.removal import LOOSE_KINDS, without
from components.data.filters.rules import Rule
from components.data.sources.files import read_inside
from components.data.sources.source import Accepted
from components.filter_params import FilterParams
from components.params import CorpusParams

_MAX_TOKENIZER_BYTES = 100_000_000


class Filters:
    """The rules that one document decides. What they do to it is a function of the document, the parameters and the seed."""

    def __init__(self, corpus: CorpusParams, seed: int, folder: Path) -> None:
        """`folder` is the corpus's. Raises CorpusError where its tokenizer for captions cannot be used."""
        self._corpus = corpus.name
        self._rules = tuple(_rules(corpus.filters, seed, folder))

    @property
    def nothing(self) -> Funnel:
        """The funnel of no document, with every rule that is asked; counts are added to it."""
        return Funnel.empty(self._corpus, [rule.name for rule in self._rules])

    def apply(self, accepted: Accepted) -> Outcome:
        """The document after all rules, or the first that drops it. A document for evaluation is kept as it is."""
        losses: list[Loss] = []
        if accepted.document.split == "evaluation":
            return Kept(accepted)
        for rule in self._rules:
            judgement = rule.judge(accepted)
            if not judgement:
                continue
            if isinstance(judgement, str):
                return _dropped(accepted, rule, judgement, losses)
            images = accepted.document.images
            if accepted.document.kind not in LOOSE_KINDS:
                place, reason = min(judgement.items())
                return _dropped(accepted, rule, f"image {images[place].id}: {reason}", losses)
            smaller = without(accepted, judgement)
            if smaller is None:
                return _dropped(accepted, rule, f"nothing but images, and all are gone: {min(judgement.items())[1]}", losses)
            losses += [Loss(images[place].id, rule.name, reason) for place, reason in sorted(judgement.items())]
            accepted = smaller
        return Kept(accepted, tuple(losses))


def _dropped(accepted: Accepted, rule: Rule, reason: str, losses: list[Loss]) -> Dropped:
    return Dropped(accepted.document.id, rule.name, reason, len(accepted.images), tuple(losses))


def _rules(params: FilterParams, seed: int, folder: Path) -> Iterator[Rule]:
    """Those that are on. Pictures are judged before they are counted, as in the release."""
    unstated = params.drop_unstated
    if params.languages:
        yield LanguageRule(params.languages, "language" in unstated)
    if params.nsfw_values or params.max_nsfw is not None or "nsfw" in unstated:
        yield NsfwRule(params.nsfw_values, params.max_nsfw, "nsfw" in unstated)
    if params.min_alignment is not None:
        yield AlignmentRule(params.min_alignment, "alignment" in unstated)
    if params.min_caption is not None:
        yield CaptionRule(params.min_caption, params.caption_unit, _length(params, folder))
    if params.min_side_px or params.max_side_px or params.max_aspect:
        yield SizeRule(params.min_side_px, params.max_side_px, params.max_aspect)
    if params.min_aesthetic is not None:
        yield ScoreRule("aesthetic", params.min_aesthetic, "aesthetic" in unstated)
    if params.min_similarity is not None:
        yield ScoreRule("similarity", params.min_similarity, "similarity" in unstated)
    if params.max_images is not None:
        yield CountRule(params.max_images, params.kept_images == "similar", seed)
    if params.drop_imageless:
        yield ImagelessRule()
    if params.single_image_drop:
        yield SingleImageRule(params.single_image_drop, seed)
    if params.min_sequence_score is not None:
        yield SequenceRule(params.min_sequence_score, "sequence" in unstated)


def _length(params: FilterParams, folder: Path) -> Callable[[str], int]:
    if params.caption_unit == "characters":
        return len
    if params.caption_unit == "words":
        return lambda text: len(text.split())
    name = params.caption_tokenizer or ""
    try:
        tokenizer = tokenizers.Tokenizer.from_str(read_inside(folder, name, _MAX_TOKENIZER_BYTES).decode())
    except DocumentError as error:
        raise CorpusError(f"filters.caption_tokenizer: {error}") from None
    except Exception as error:  # the library raises bare Exception for malformed files
        raise CorpusError(f"filters.caption_tokenizer: {name} is no tokenizer.json ({error})") from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
