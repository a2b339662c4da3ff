"""Dialogues on pictures in LLaVA's form: LLaVA-Mix-665K and LLaVAR.

    [{"id", "image": "coco/train2017/000000033471.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
      {"from": "gpt", "value": "A bus."}, ...]}]

    llava   llava_v1_5_mix665k.json, pictures below the corpus's folder (coco/, gqa/, ocr_vqa/, textvqa/, vg/); no `image`: text only
    llavar  llava_instruct_150k_llavar_16k.json (158K + 16K), pictures in images/

Ids repeat in the published files, so that a record is known by its content. Sources: haotian-liu/LLaVA (README, train.py),
SALT-NLP/LLaVAR (README). Count of the mix: Liu et al. 2023 (arXiv 2310.03744, 665K) and its file (665,298 records).

With one round a document is of kind `question`, with more a `dialogue`. With a picture in the first round, rounds are put in the paper's
words (appendix B.2) where `options.prompt` does not say `plain`; without one always plain. The release cuts a dialogue into single rounds;
here it stays whole, each answer is trained. An answer before the first question, as some published texts have, is left out as LLaVA's
own code does; the fact `turns_left_out` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.data import templates
from components.data.documents import DocumentError, Facts, ImageItem, TextItem
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, open_set, unkeyed
from components.data.sources.hostile_values import record, shown, text
from components.data.sources.published import Phase, Published, SetOptions
from components.data.sources.source import Limits, Rejected, read_options
from components.data.sources.values import list_of
from components.params import CorpusParams

MARK = "<image>"
LLAVA = Published({"train": Phase(("llava_v1_5_mix665k.json",), "", 665_298)}, train="train")
LLAVAR = Published({"train": Phase(("llava_instruct_150k_llavar_16k.json",), "images", 174_000, within=1_000)}, train="train")
_SPEAKERS = ("human", "gpt")


class LlavaOptions(SetOptions):
    """How dialogues are put."""

    prompt: Literal["paper", "plain"] = Field("paper", description="the words of appendix B.2 around the rounds, or the rounds alone")


def llava(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `llava`."""
    options = read_options(LlavaOptions, corpus)
    return open_set(corpus, folder, limits, LLAVA, lambda _: Dialogues(options), options)


def llavar(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `llavar`."""
    options = read_options(LlavaOptions, corpus)
    return open_set(corpus, folder, limits, LLAVAR, lambda _: Dialogues(options), options)


class Dialogues:
    """A Form: records of conversations."""

    def __init__(self, options: LlavaOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All records."""
        yield from unkeyed(shelf.elements(shelf.phase.files[0]), mine)

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The dialogue with its pictures where they are marked."""
        values = record(values)
        turns = [record(turn, "a turn") for turn in list_of(values, "conversations")]
        early = int(bool(turns) and turns[0].get("from") == _SPEAKERS[1])
        rounds = _rounds(turns[early:])
        names = _pictures(values)
        marks = [question.count(MARK) for question, _ in rounds]
        if sum(marks) != len(names):
            raise DocumentError(f"{sum(marks)} {MARK} marks, but {len(names)} pictures")
        loaded = [shelf.picture(name, number) for number, name in enumerate(names)]
        items, images = [item for item, _ in loaded], [data for _, data in loaded]
        plain = [(_unmarked(question), answer) for question, answer in rounds]
        if names and marks[0] == len(names) and self._options.prompt == "paper":
            told, given = templates.conversation(items, plain)
        else:
            told, given = _plainly(items, marks, plain)
        fields = {"question": plain[0][0], "answer": plain[0][1], "rounds": len(rounds)}
        facts: Facts = {"turns_left_out": early} if early else {}
        return Draft("question" if len(rounds) == 1 else "dialogue", told, given, images, fields, facts, origin="automated")


def _rounds(turns: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    speakers = [turn.get("from") for turn in turns]
    if not turns or len(turns) % 2 or speakers != list(_SPEAKERS) * (len(turns) // 2):
        raise DocumentError(f"human and gpt do not take turns, question and answer: {shown(speakers)}")
    texts = [text(turn, "value") for turn in turns]
    if any(MARK in answer for answer in texts[1::2]):
        raise DocumentError(f"{MARK} in an answer")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _pictures(values: Any) -> list[str]:
    if values.get("image") is None:
        return []
    if isinstance(values["image"], list):
        return [text({"image": name}, "image") for name in values["image"]]
    return [text(values, "image")]


def _unmarked(question: str) -> str:
    if not (rest := " ".join(part for part in (piece.strip() for piece in question.split(MARK)) if part)):
        raise DocumentError(f"a question is nothing but {MARK}")
    return rest


def _plainly(pictures: list[ImageItem], marks: list[int], rounds: list[tuple[str, str]]) -> tuple[templates.Items, int]:
    """Questions and answers alone, each picture before the question that has its mark. Given are the items up to the first answer."""
    items: templates.Items = []
    left = iter(pictures)
    for count, (question, answer) in zip(marks, rounds, strict=True):
        items += [next(left) for _ in range(count)]
        items += [TextItem(text=question, loss=False), TextItem(text=answer)]
    return items, marks[0] + 1
