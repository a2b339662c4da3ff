"""Questions on charts: ChartQA and DVQA, as published.

    chartqa   {train,val,test}/{phase}_human.json and {phase}_augmented.json  [{"imgname", "query", "label"}], {phase}/png/
    dvqa      {train,val_easy,val_hard}_qa.json  [{"question_id", "question", "answer", "image", "template_id", "answer_bbox"}], images/

Sources: vis-nlp/ChartQA (folder "ChartQA Dataset") and the README of kushalkafle/DVQA_dataset. Counts: Masry et al. 2022 (arXiv
2203.10244), Kafle et al. 2018 (1801.08163). ChartQA has no ids; its augmented questions and all of DVQA's are made by machines.
"""

from __future__ import annotations

from pathlib import Path

from components.data.sources.annotated import AnnotatedSource, open_set
from components.data.sources.hostile_values import identifier, record, stated, text, text_or_number
from components.data.sources.published import Phase, Published
from components.data.sources.questions import Filed, Question, QuestionList
from components.data.sources.source import Limits
from components.params import CorpusParams

CHARTQA = Published(
    {
        phase: Phase((f"{phase}/{phase}_human.json", f"{phase}/{phase}_augmented.json"), f"{phase}/png", count)
        for phase, count in (("train", 28_299), ("val", 1_920), ("test", 2_500))
    },
    evaluation="test",
    train="train",
)
DVQA = Published(
    {
        phase: Phase((f"{phase}_qa.json",), "images", count)
        for phase, count in (("train", 2_325_316), ("val_easy", 580_557), ("val_hard", 581_321))
    },
    evaluation="val_easy",
    train="train",
)


def chartqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `chartqa`."""
    return open_set(corpus, folder, limits, CHARTQA, lambda _: QuestionList(_chartqa))


def dvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `dvqa`."""
    return open_set(
        corpus, folder, limits, DVQA, lambda _: QuestionList(_dvqa, key=lambda one: identifier(record(one.values), "question_id"))
    )


def _chartqa(one: Filed) -> Question:
    values = record(one.values)
    by_machine = one.file.endswith("_augmented.json")
    answers = [text_or_number(values, "label")]
    return Question((text(values, "imgname"),), text(values, "query"), answers, origin="automated" if by_machine else "human")


def _dvqa(one: Filed) -> Question:
    values = record(one.values)
    fields = stated(values, "template_id", "question_type")
    return Question((text(values, "image"),), text(values, "question"), [text_or_number(values, "answer")], "", fields, "automated")
