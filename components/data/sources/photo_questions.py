"""Questions on photographs that are for evaluation only: GQA and VizWiz, as published.

    gqa     {testdev,val,train}_balanced_questions.json  {ID: {"imageId", "question", "answer", "fullAnswer"}}, images/{imageId}.jpg
    vizwiz  {val,train}.json  [{"image", "question", "answers": [{"answer", "answer_confidence"}] x 10, "answer_type", "answerable"}],
            {val,train}/

Sources: cs.stanford.edu/people/dorarad/gqa (download page) and vizwiz.org, as OpenGVLab/MM-Interleaved
(custom_datasets/vqa_datasets.py) and haotian-liu/LLaVA (docs/Evaluation.md) read them. Counts: Hudson and Manning 2019 (arXiv
1902.09506), Gurari et al. 2018 (1802.08218). The paper names VizWiz's test-dev, whose answers are not published.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.data.sources.annotated import AnnotatedSource, open_set
from components.data.sources.hostile_values import identifier, record, stated, text, texts
from components.data.sources.json_elements import Element
from components.data.sources.published import Phase, Published
from components.data.sources.questions import Filed, Question, QuestionList
from components.data.sources.source import Limits
from components.data.sources.values import list_of
from components.params import CorpusParams

GQA = Published(
    {
        phase: Phase((f"{phase}_balanced_questions.json",), "images", count)
        for phase, count in (("testdev", 12_578), ("val", 132_062), ("train", 943_000))
    },
    evaluation="testdev",
)
VIZWIZ = Published(
    {phase: Phase((f"{phase}.json",), phase, count) for phase, count in (("val", 4_319), ("train", 20_523))}, evaluation="val"
)


def gqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `gqa`."""
    return open_set(corpus, folder, limits, GQA, lambda _: QuestionList(_gqa, key=lambda one: str(one.values["key"]), spread=_with_key))


def vizwiz(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `vizwiz`: a question's id is its picture."""
    form = QuestionList(_vizwiz, key=lambda one: identifier(record(one.values), "image"), prompt="vizwiz")
    return open_set(corpus, folder, limits, VIZWIZ, lambda _: form)


def _with_key(element: Element) -> Iterable[tuple[str, Any]]:
    return (("", {"key": element.key, "values": element.value}),)


def _gqa(one: Filed) -> Question:
    values = record(one.values["values"])
    answer = text(values, "answer")
    return Question((f"{identifier(values, 'imageId')}.jpg",), text(values, "question"), [answer], answer, stated(values, "fullAnswer"))


def _vizwiz(one: Filed) -> Question:
    values = record(one.values)
    given = {"answers": [record(answer, "an answer").get("answer") for answer in list_of(values, "answers")]}
    return Question((text(values, "image"),), text(values, "question"), texts(given, "answers"), fields=stated(values, "answer_type"))
