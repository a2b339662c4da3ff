"""Questions on text in pictures: DocVQA, InfographicVQA, ST-VQA, EST-VQA, TextVQA, OCR-VQA, as published.

    docvqa    {train,val}_v1.0.json    {"data": [{"questionId", "question", "image": "documents/x.png", "answers"}]}, documents/
    infovqa   infographicsVQA_{train,val}_v1.0.json  {"data": [{"questionId", "question", "image_local_name", "answers"}]},
              infographicsvqa_images/
    stvqa     train_task_3.json        {"data": [{"question_id", "question", "file_path", "answers", "dataset"}]}, pictures below images/
    estvqa    annotations/train.json   [{"image", "annotation": [{"question", "answer"}]}], images/train/
    textvqa   TextVQA_0.5.1_{train,val}.json  {"data": [{"question_id", "question", "image_id", "answers" x 10}]}, train_images/;
              or the VQA format: textvqa_{phase}_questions.json and _annotations.json, whose questions name their `image`
    ocrvqa    dataset.json             {ID: {"imageURL", "questions", "answers", "split": 1 train, 2 val, 3 test}}, images/ID.jpg

Sources: the readers of Yuliang-Liu/MultimodalOCR and of OpenGVLab/MM-Interleaved (custom_datasets/vqa_datasets.py). Counts: Mathew et
al. 2021 (arXiv 2007.00398) and 2022 (2104.12756), Singh et al. 2019 (1904.08920); ST-VQA's is that of its task 3 as distributed. No
count of the files of EST-VQA (Wang et al. 2020) and OCR-VQA (Mishra et al. 2019) is published that could be checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from components.data.documents import DocumentError
from components.data.sources.annotated import AnnotatedSource, Shelf, open_set
from components.data.sources.hostile_values import identifier, record, stated, text, texts, whole
from components.data.sources.json_elements import Element
from components.data.sources.published import Phase, Published, SetOptions, found_form
from components.data.sources.questions import Filed, Question, QuestionList, Spread
from components.data.sources.source import Limits, read_options
from components.data.sources.values import list_of
from components.data.sources.vqa_pairs import VqaPairs
from components.params import CorpusParams

DOCVQA = Published(
    {"train": Phase(("train_v1.0.json",), count=39_463), "val": Phase(("val_v1.0.json",), count=5_349)}, evaluation="val", train="train"
)
INFOVQA = Published(
    {
        "train": Phase(("infographicsVQA_train_v1.0.json",), "infographicsvqa_images", 23_946),
        "val": Phase(("infographicsVQA_val_v1.0.json",), "infographicsvqa_images", 2_801),
    },
    evaluation="val",
    train="train",
)
STVQA = Published({"train": Phase(("train_task_3.json",), "images", 26_074)}, train="train")
ESTVQA = Published({"train": Phase(("annotations/train.json",), "images/train")}, train="train")
TEXTVQA = Published(
    {
        "train": Phase(("TextVQA_0.5.1_train.json",), "train_images", 34_602),
        "val": Phase(("TextVQA_0.5.1_val.json",), "train_images", 5_000),
    },
    evaluation="val",
)
TEXTVQA_PAIRS = Published(
    {
        name: Phase((f"textvqa_{name}_questions.json", f"textvqa_{name}_annotations.json"), phase.images, phase.count)
        for name, phase in TEXTVQA.phases.items()
    },
    evaluation="val",
)
_OCRVQA_SPLITS = {"train": 1, "val": 2, "test": 3}
OCRVQA = Published({name: Phase(("dataset.json",), "images") for name in _OCRVQA_SPLITS}, evaluation="test", train="train")


def docvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `docvqa`."""
    return open_set(corpus, folder, limits, DOCVQA, lambda _: QuestionList(_docvqa, "data", key=lambda one: _id(one, "questionId")))


def infovqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `infovqa`."""
    return open_set(corpus, folder, limits, INFOVQA, lambda _: QuestionList(_infovqa, "data", key=lambda one: _id(one, "questionId")))


def stvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `stvqa`."""
    return open_set(corpus, folder, limits, STVQA, lambda _: QuestionList(_stvqa, "data", key=lambda one: _id(one, "question_id")))


def estvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `estvqa`."""
    return open_set(corpus, folder, limits, ESTVQA, lambda _: QuestionList(_estvqa, spread=_each_annotation))


def textvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `textvqa`: its own form, or the VQA format where only that is there."""
    options = read_options(SetOptions, corpus)
    if found_form(corpus, folder, options, TEXTVQA, TEXTVQA_PAIRS) is TEXTVQA_PAIRS:
        return open_set(corpus, folder, limits, TEXTVQA_PAIRS, lambda _: VqaPairs(lambda asked: text(asked, "image")), options)
    return open_set(
        corpus, folder, limits, TEXTVQA, lambda _: QuestionList(_textvqa, "data", key=lambda one: _id(one, "question_id")), options
    )


def ocrvqa(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `ocrvqa`: each question of a book is a record."""
    return open_set(
        corpus, folder, limits, OCRVQA, lambda shelf: QuestionList(_ocrvqa, key=lambda one: one.values["key"], spread=_books(shelf))
    )


def _id(one: Filed, name: str) -> str:
    return identifier(record(one.values), name)


def _docvqa(one: Filed) -> Question:
    values = record(one.values)
    return Question((text(values, "image"),), text(values, "question"), texts(values, "answers"))


def _infovqa(one: Filed) -> Question:
    values = record(one.values)
    return Question((text(values, "image_local_name"),), text(values, "question"), texts(values, "answers"))


def _stvqa(one: Filed) -> Question:
    values = record(one.values)
    return Question((text(values, "file_path"),), text(values, "question"), texts(values, "answers"), fields=stated(values, "dataset"))


def _textvqa(one: Filed) -> Question:
    values = record(one.values)
    return Question((f"{identifier(values, 'image_id')}.jpg",), text(values, "question"), texts(values, "answers"))


def _each_annotation(element: Element) -> Iterable[tuple[str, Any]]:
    values = record(element.value)
    image, annotations = text(values, "image"), list_of(values, "annotation")
    if not annotations:
        raise DocumentError("annotation is empty: a picture without a question")
    for number, annotation in enumerate(annotations):
        yield f".annotation[{number}]", {"image": image, "annotation": annotation}


def _estvqa(one: Filed) -> Question:
    annotation = record(one.values["annotation"], "annotation")
    answers = annotation.get("answer")
    given = texts(annotation, "answer") if isinstance(answers, list) else [text(annotation, "answer")]
    return Question((one.values["image"],), text(annotation, "question"), given)


def _books(shelf: Shelf) -> Spread:
    def questions(element: Element) -> Iterable[tuple[str, Any]]:
        values = record(element.value)
        if whole(values, "split", 1, 3) != _OCRVQA_SPLITS[shelf.name]:
            return
        asked, answers = list_of(values, "questions"), list_of(values, "answers")
        if len(asked) != len(answers) or not asked:
            raise DocumentError(f"it has {len(asked)} questions and {len(answers)} answers")
        for number, (question, answer) in enumerate(zip(asked, answers, strict=True)):
            piece = {"question": question, "answer": answer, "book": str(element.key), "key": f"{element.key}-{number}"}
            yield f".questions[{number}]", piece | {"url": values.get("imageURL")}

    return questions


def _ocrvqa(one: Filed) -> Question:
    values = one.values
    pictures = [f"{values['book']}.jpg"]
    if isinstance(values["url"], str):
        try:
            suffix = PurePosixPath(urlsplit(values["url"]).path).suffix
        except ValueError:
            raise DocumentError("imageURL is no address") from None
        pictures = [f"{values['book']}{suffix}", *pictures] if suffix else pictures
    return Question(tuple(dict.fromkeys(pictures)), text(values, "question"), [text(values, "answer")], origin="automated")
