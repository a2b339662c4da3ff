"""VQAv2 and OK-VQA in the VQA format: a file of questions and a file of annotations, joined by question id.

    questions.json    {..., "questions": [{"question_id", "image_id", "question"}]}
    annotations.json  {..., "annotations": [{"question_id", "image_id", "answers": [{"answer", "answer_confidence", "answer_id"}] x 10,
                      "multiple_choice_answer", "question_type", "answer_type"}]}
    pictures          {train,val}2014/COCO_{train,val}2014_{image_id, 12 digits}.jpg

Names are those of visualqa.org/download.html and okvqa.allenai.org, as the official code reads them (OpenGVLab/MM-Interleaved
custom_datasets/vqa_datasets.py, GT-Vision-Lab/VQA). Counts: Goyal et al. 2017 (arXiv 1612.00837), Marino et al. 2019 (1906.00067).
The answers of VQAv2's test splits are not published: its evaluation here is on val.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.documents import DocumentError
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, keyed, open_set
from components.data.sources.hostile_values import identifier, record, stated, text, texts, whole
from components.data.sources.published import Phase, Published
from components.data.sources.questions import Question, question_draft
from components.data.sources.source import Limits, Rejected
from components.data.sources.values import list_of
from components.params import CorpusParams

_LAST_COCO_ID = 10**12 - 1


def _phases(prefix: str, train: int, val: int) -> dict[str, Phase]:
    return {
        phase: Phase(
            (f"{prefix}OpenEnded_mscoco_{phase}2014_questions.json", f"{prefix}mscoco_{phase}2014_annotations.json"), f"{phase}2014", count
        )
        for phase, count in (("train", train), ("val", val))
    }


VQAV2 = Published(_phases("v2_", 443_757, 214_354), evaluation="val", train="train")
OKVQA = Published(_phases("", 9_009, 5_046), evaluation="val")


def vqav2(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `vqav2`."""
    return open_set(corpus, folder, limits, VQAV2, lambda shelf: VqaPairs(_coco_2014(shelf)))


def okvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `okvqa`."""
    return open_set(corpus, folder, limits, OKVQA, lambda shelf: VqaPairs(_coco_2014(shelf)))


@dataclass(frozen=True, slots=True)
class _Answered:
    """What is kept of an annotation while the questions are read; a train file has half a million."""

    where: str
    image: str
    answers: tuple[str, ...]
    answer: str
    types: tuple[tuple[str, str], ...]


class VqaPairs:
    """A Form: questions joined with their annotations. `image` names a question's picture in the phase's folder."""

    def __init__(self, image: Callable[[Mapping[str, Any]], str]) -> None:
        self._image = image

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """Each question with its annotation, then the annotations that no question belongs to."""
        questions_file, annotations_file = shelf.phase.files
        answered: dict[str, _Answered | None] = {}
        for found in keyed(shelf.elements(annotations_file, "annotations"), _question_id, mine):
            if isinstance(found, Rejected):
                yield found
                continue
            key = str(found.key)
            if key in answered:
                yield Keyed(found.where, key, DocumentError(f"question_id {key} was annotated before"))
                continue
            try:
                answered[key] = _answered(found)
            except DocumentError as error:
                answered[key] = None
                yield Keyed(found.where, key, error)
        asked: set[str] = set()
        for found in keyed(shelf.elements(questions_file, "questions"), _question_id, mine):
            if isinstance(found, Rejected):
                yield found
                continue
            key = str(found.key)
            asked.add(key)
            if key not in answered:
                yield Keyed(found.where, key, DocumentError(f"question_id {key} has no annotation in {annotations_file}"))
            elif (answers := answered[key]) is not None:  # else it was refused with its annotation
                yield Keyed(found.where, key, (found.values, answers))
        for key, answers in answered.items():
            if key not in asked and answers is not None:
                yield Keyed(answers.where, key, DocumentError(f"it annotates question_id {key}, which is not in {questions_file}"))

    def draft(self, values: tuple[Any, _Answered], shelf: Shelf) -> Draft:
        """The question with its picture in the words of the paper."""
        asked, answers = record(values[0]), values[1]
        if (image := identifier(asked, "image_id")) != answers.image:
            raise DocumentError(f"the question is on image_id {image}, its annotation on {answers.image}")
        question = Question((self._image(asked),), text(asked, "question"), answers.answers, answers.answer, dict(answers.types))
        return question_draft(question, shelf.picture(question.pictures[0]), shelf)


def _coco_2014(shelf: Shelf) -> Callable[[Mapping[str, Any]], str]:
    return lambda asked: f"COCO_{shelf.name}2014_{whole(asked, 'image_id', 0, _LAST_COCO_ID):012d}.jpg"


def _question_id(values: Any) -> str:
    return identifier(record(values), "question_id")


def _answered(found: Keyed) -> _Answered:
    values = record(found.values)
    given = {"answers": [record(one, "an answer").get("answer") for one in list_of(values, "answers")]}
    answers = tuple(sys.intern(one) for one in texts(given, "answers"))
    chosen = sys.intern(text(values, "multiple_choice_answer")) if values.get("multiple_choice_answer") is not None else ""
    types = tuple(sorted((name, sys.intern(value)) for name, value in stated(values, "question_type", "answer_type").items()))
    return _Answered(found.where, identifier(values, "image_id"), answers, chosen, types)
