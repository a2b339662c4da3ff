"""Fine-tuning and evaluation sets: each record once in the words of the paper, and what is refused of hostile files."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_set import HEIGHT, WIDTH, TaskSet, mask, png
from task_sets import SETS

from components.data.documents import CorpusError, Split
from components.data.pictures import decode
from components.data.sources.ade20k import CLASSES, labels_of, palette
from components.data.sources.annotated import AnnotatedSource, open_set
from components.data.sources.caption_lists import LowerCaptionOptions
from components.data.sources.coco_format import COCO30K, COCO_30K, CocoPictures
from components.data.sources.formats import open_source
from components.data.sources.source import Accepted, Limits, Noted, Rejected
from components.params import CorpusParams

LIMITS = Limits(image_pixels=1_000_000, text_bytes=10_000, images=20)
EVALUATION_ONLY = [
    "coco_karpathy",
    "nocaps",
    "flickr30k",
    "image2paragraph",
    "lncoco",
    "coco30k",
    "okvqa",
    "gqa",
    "vizwiz",
    "textvqa",
    "visdial",
]


def corpus(one: TaskSet, *, split: Split | None = None, **options: Any) -> CorpusParams:
    return CorpusParams.model_validate(
        {"name": "mine", "format": one.format, "split": split or one.split, "licence": "L", "options": one.options | options}
    )


def source(one: TaskSet, folder: Path, *, split: Split | None = None, **options: Any) -> AnnotatedSource:
    opened = open_source(corpus(one, split=split, **options), folder, LIMITS)
    assert isinstance(opened, AnnotatedSource)
    return opened


def read(one: TaskSet, folder: Path, *, split: Split | None = None, **options: Any) -> tuple[list[Accepted], list[Rejected]]:
    opened = source(one, folder, split=split, **options)
    found = [result for unit in opened.units() for result in opened.documents(unit)]
    return [one for one in found if isinstance(one, Accepted)], [one for one in found if isinstance(one, Rejected)]


@pytest.mark.parametrize("name", SETS)
def test_each_record_of_a_set_is_read_once_in_the_words_of_the_paper(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    accepted, rejected = read(one, one.write(tmp_path))
    assert rejected == []
    documents = [result.document for result in accepted]
    assert len(documents) == len({document.id for document in documents}) == one.documents
    first = documents[0]
    assert (first.kind, first.split, first.source, first.texts) == (one.kind, one.split, "mine", one.texts)
    assert first.prompt_items == one.prompt_items
    assert {key: first.fields.get(key) for key in one.fields} == one.fields
    given, reference = first.items[: first.prompt_items], first.items[first.prompt_items :]
    if one.kind == "story":  # every picture is learned, no caption is
        assert all(item.loss == (item.type == "image") for item in first.items)
    else:  # questions and what is looked at are given, the answer is learned
        assert not any(item.loss for item in given)
        assert reference[0].loss
    for result in accepted:
        assert [decode(data, 10**6).shape[1::-1] for data in result.images] == result.sizes


@pytest.mark.parametrize("name", SETS)
def test_parts_hold_the_same_documents_each_in_one_of_them(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    whole, _ = read(one, one.write(tmp_path))
    parted, rejected = read(one, tmp_path, parts=3)
    assert len(source(one, tmp_path, parts=3).units()) == 3
    assert rejected == []
    by_id = {result.document.id: result for result in whole}
    assert len(parted) == len(whole)
    assert {result.document.id: result for result in parted} == by_id


@pytest.mark.parametrize("name", SETS)
def test_a_count_that_differs_from_the_published_one_is_a_note(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    opened = source(one, one.write(tmp_path))
    assert isinstance(opened, Noted)
    assert opened.expected_count() == one.expected_count
    if one.expected_count is None:
        assert opened.notes(2) == []
    else:
        assert opened.notes(one.expected_count) == []
        (note,) = opened.notes(2)
        assert note.startswith(f"corpus mine: 2 records, the complete {name}")
        assert str(one.expected_count) in note


def test_a_count_published_rounded_is_met_within_its_last_digit(tmp_path: Path) -> None:
    opened = source(SETS["vist"], SETS["vist"].write(tmp_path))
    assert opened.notes(34_499) == []
    assert "about 34000" in opened.notes(33_400)[0]


@pytest.mark.parametrize("name", EVALUATION_ONLY)
def test_an_evaluation_set_is_not_trained_on(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"corpus mine: {name} is for evaluation only"):
        source(SETS[name], SETS[name].write(tmp_path), split="train")


@pytest.mark.parametrize("name", SETS)
def test_missing_annotations_and_wrong_options_are_named(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    with pytest.raises(CorpusError, match=r"is read from .*docs/corpora\.md"):
        source(one, tmp_path)
    one.write(tmp_path)
    with pytest.raises(CorpusError, match=r"options\.phase: .* has no 'nowhere', but "):
        source(one, tmp_path, phase="nowhere")
    with pytest.raises(CorpusError, match=r"options\.parts"):
        source(one, tmp_path, parts=0)
    with pytest.raises(CorpusError, match=r"options\.page"):
        source(one, tmp_path, page=1)


@pytest.mark.parametrize("name", ["llava", "llavar", "stvqa", "estvqa"])
def test_what_is_published_to_train_on_is_evaluated_only_when_asked_for(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    one.write(tmp_path)
    with pytest.raises(CorpusError, match=r"no published split to evaluate on; name one of train"):
        source(one, tmp_path, split="evaluation")
    assert {result.document.split for result in read(one, tmp_path, split="evaluation", phase="train")[0]} == {"evaluation"}


def test_files_may_lie_elsewhere(tmp_path: Path) -> None:
    one = SETS["vqav2"]
    moved = {f"Annotations/{name}" if name.endswith(".json") else f"coco/{name}": content for name, content in one.files.items()}
    TaskSet("vqav2", moved, "question", 2).write(tmp_path)
    assert len(read(one, tmp_path, annotations="Annotations", images="coco/train2014")[0]) == 2


def test_the_other_published_forms_of_a_set_give_the_same_documents(tmp_path: Path) -> None:
    """VIST as published, TextVQA in the VQA format, Flickr30k in the COCO format, Image2Paragraph of the release."""
    turns = SETS["vist"].files["annotations/train_formatted_filtered.json"]["annotations"]["s1"]
    published = [
        [
            {
                "story_id": "s1",
                "photo_flickr_id": turn["image_id"],
                "worker_arrangement_order": turn["sequence_index"],
                "text": turn["caption"],
                "tier": "story-in-sequence",
            }
        ]
        for turn in turns
    ]
    textvqa = SETS["textvqa"].files["TextVQA_0.5.1_val.json"]["data"][0]
    answers = [{"answer": answer} for answer in textvqa["answers"]]
    others = {
        "vist": {
            "annotations/train_formatted_filtered.json": None,
            "annotations/train.story-in-sequence.json": {"images": [], "annotations": published},
        },
        "textvqa": {
            "TextVQA_0.5.1_val.json": None,
            "textvqa_val_questions.json": {
                "questions": [
                    {"question_id": 34602, "image_id": "00ab", "image": "00ab.jpg", "question": textvqa["question"]},
                ]
            },
            "textvqa_val_annotations.json": {"annotations": [{"question_id": 34602, "image_id": "00ab", "answers": answers}]},
        },
        "flickr30k": {
            "dataset_flickr30k.json": None,
            "test1k.token.coco_format": {
                "images": [{"id": "1.jpg", "file_name": "1.jpg"}],
                "annotations": [{"id": n, "image_id": "1.jpg", "caption": text} for n, text in enumerate(["Two men.", "They run."])],
            },
        },
        "image2paragraph": {
            "annotations/paragraphs_v1.json": None,
            "annotations/paragraphs_coco.json": {
                "annotations": [
                    {"url": "https://host/rak248/VG_100K_2/1.jpg", "image_id": 1, "caption": "A board. On it are mushrooms."},
                ]
            },
        },
    }
    for name, changes in others.items():
        one = SETS[name]
        (expected,), _ = read(one, one.write(tmp_path / name / "own"))
        (found,), rejected = read(one, one.write(tmp_path / name / "other", **changes))
        assert rejected == []
        assert (found.document.items, found.document.fields) == (expected.document.items, expected.document.fields)


# What is refused. Each case changes one thing in a set; the rest of it is read as before.


def at(value: Any, *path: str | int) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value, path[-1]


def changed(content: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy with another value at a path; DROP removes it."""
    content = copy.deepcopy(content)
    holder, key = at(content, *path)
    if new is DROP:
        del holder[key]
    else:
        holder[key] = new
    return content


DROP = object()
VQA_Q, VQA_A = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"
MIX = "llava_v1_5_mix665k.json"
CAPTIONS = "annotations/captions_train2014.json"
REFS = "refcoco_train.jsonl"
ADE = "annotations/training/ADE_train_00000001.png"
VIST = "annotations/train_formatted_filtered.json"
DENSE, DIALOGS = "visdial_1.0_val_dense_annotations.json", "visdial_1.0_val.json"
REFUSED: list[tuple[str, str, tuple[str | int, ...], Any, str, str]] = [
    # set, file, path, new value, where it is refused, why
    ("vqav2", VQA_Q, ("questions", 0, "question"), 5, "questions.json:questions[0]", "question must be a text, not a number"),
    ("vqav2", VQA_Q, ("questions", 0, "question"), "  ", "questions.json:questions[0]", "question is empty"),
    ("vqav2", VQA_Q, ("questions", 0, "question"), "\ud800?", "questions.json:questions[0]", "half of a surrogate pair"),
    ("vqav2", VQA_Q, ("questions", 0, "question_id"), None, "questions.json:questions[0]", "question_id is empty"),
    ("vqav2", VQA_Q, ("questions", 0, "question_id"), 25001, "questions.json:questions[1]", "id 25001 was used before"),
    ("vqav2", VQA_Q, ("questions", 0, "image_id"), "../../9", "questions.json:questions[0]", "its annotation on 9"),
    ("vqav2", VQA_Q, ("questions", 0), DROP, "annotations.json:annotations[1]", "it annotates question_id 9000, which is not in"),
    ("vqav2", VQA_Q, ("questions", 0), ["x"], "questions.json:questions[0]", "the record must be an object"),
    ("vqav2", VQA_A, ("annotations", 1), DROP, "questions.json:questions[0]", "question_id 9000 has no annotation"),
    ("vqav2", VQA_A, ("annotations", 1, "answers"), [], "annotations.json:annotations[1]", "answers is empty"),
    ("vqav2", VQA_A, ("annotations", 1, "answers"), [{"answer": " "}], "annotations.json:annotations[1]", "nothing but blanks"),
    ("vqav2", VQA_A, ("annotations", 1, "answers", 0), 7, "annotations.json:annotations[1]", "an answer must be an object"),
    ("vqav2", VQA_A, ("annotations", 1, "question_id"), 25001, "annotations.json:annotations[1]", "was annotated before"),
    ("llava", MIX, (0, "conversations", 0, "value"), "What?", f"{MIX}:[0]", "0 <image> marks, but 1 pictures"),
    ("llava", MIX, (0, "conversations", 0, "value"), "<image>", f"{MIX}:[0]", "nothing but <image>"),
    ("llava", MIX, (0, "conversations", 0, "from"), "gpt", f"{MIX}:[0]", "do not take turns"),
    ("llava", MIX, (0, "conversations"), [], f"{MIX}:[0]", "do not take turns"),
    ("llava", MIX, (0, "conversations", 3), DROP, f"{MIX}:[0]", "do not take turns"),
    ("llava", MIX, (0, "conversations"), {"a": 1}, f"{MIX}:[0]", "conversations must be a list"),
    ("llava", MIX, (0, "image"), "../secret.png", f"{MIX}:[0]", "must be relative and stay inside"),
    ("llava", MIX, (0, "image"), "/etc/passwd", f"{MIX}:[0]", "must be relative and stay inside"),
    ("llava", MIX, (0, "image"), "coco/none.jpg", f"{MIX}:[0]", "coco/none.jpg cannot be opened"),
    ("llava", MIX, (0, "image"), MIX, f"{MIX}:[0]", "not a"),
    ("coco_captions", CAPTIONS, ("images", 0, "file_name"), "../../x.jpg", f"{CAPTIONS}:images[0]", "must be relative"),
    ("coco_captions", CAPTIONS, ("images", 1, "id"), 7, f"{CAPTIONS}:images[1]", "image id 7 was used before"),
    ("coco_captions", CAPTIONS, ("annotations", 0, "image_id"), 99, f"{CAPTIONS}:annotations[0]", "image_id 99, which is not in the file"),
    ("coco_captions", CAPTIONS, ("annotations", 1), DROP, f"{CAPTIONS}:images[1]", "image id 8 has no caption"),
    ("coco_captions", CAPTIONS, ("annotations", 0, "id"), 80, f"{CAPTIONS}:annotations[1]", "annotation id 80 was used before"),
    ("coco_captions", CAPTIONS, ("annotations", 0, "caption"), ["x"], f"{CAPTIONS}:annotations[0]", "caption must be a text"),
    ("coco_captions", CAPTIONS, ("annotations", 0, "caption"), "x" * 10_001, f"{CAPTIONS}:images[0]", "longer than max_text_bytes"),
    ("refcoco", REFS, (1, "bbox"), [0, 0, 41, 30], f"{REFS}:2", "reaches out of its 40x30 picture"),
    ("refcoco", REFS, (1, "bbox"), [-1, 0, 40, 30], f"{REFS}:2", "reaches out of its 40x30 picture"),
    ("refcoco", REFS, (1, "bbox"), [20, 0, 20, 30], f"{REFS}:2", "is empty: it is two corners"),
    ("refcoco", REFS, (1, "bbox"), [20, 5, 10, 15], f"{REFS}:2", "is empty: it is two corners"),
    ("refcoco", REFS, (1, "bbox"), ["0", "0", "4", "4"], f"{REFS}:2", "must be 4 finite numbers"),
    ("refcoco", REFS, (1, "bbox"), [0, 0, 10**400, 4], f"{REFS}:2", "must be 4 finite numbers"),
    ("refcoco", REFS, (1, "bbox"), [0, 0, 4], f"{REFS}:2", "must be 4 finite numbers"),
    ("refcoco", REFS, (1, "sent"), "", f"{REFS}:2", "sent is empty"),
    ("ade20k", ADE, (), mask(np.full((HEIGHT, WIDTH), 151)), "training.json:[0]", "class 151, but there are 150"),
    ("ade20k", ADE, (), mask(np.zeros((HEIGHT, WIDTH)))[:-30], "training.json:[0]", "unreadable"),
    ("ade20k", ADE, (), mask(np.zeros((HEIGHT, WIDTH - 1))), "training.json:[0]", "has 39x30 pixels, its picture 40x30"),
    ("ade20k", ADE, (), png(3), "training.json:[0]", "mode RGB; a class map has one channel"),
    ("ade20k", ADE, (), b"\x89PNG\r\n\x1a\n", "training.json:[0]", "not a PNG picture"),
    ("ade20k", "training.json", (0, "image_id"), "../ADE", "training.json:[0]", "no name of a file"),
    ("visdial", DENSE, (0, "round_id"), 9, f"{DIALOGS}:data.dialogs[1]", "round_id must be a whole number from 1 to 1, not 9"),
    ("visdial", DENSE, (0, "gt_relevance"), [1], f"{DIALOGS}:data.dialogs[1]", "must be 3 finite numbers"),
    ("visdial", DENSE, (0, "gt_relevance"), [0, 0, 2], f"{DIALOGS}:data.dialogs[1]", "outside of 0 to 1"),
    ("visdial", DENSE, (0,), DROP, f"{DIALOGS}:data.dialogs[1]", "image_id 6 has no annotation"),
    ("visdial", DIALOGS, ("data", "dialogs", 1), DROP, f"{DENSE}:[0]", "it annotates image_id 6"),
    (
        "visdial",
        DIALOGS,
        ("data", "dialogs", 1, "dialog", 0, "question"),
        -1,
        f"{DIALOGS}:data.dialogs[1]",
        "from 0 to 1, not -1",
    ),
    (
        "visdial",
        DIALOGS,
        ("data", "dialogs", 1, "dialog", 0, "answer_options", 2),
        3,
        f"{DIALOGS}:data.dialogs[1]",
        "from 0 to 2, not 3",
    ),
    ("ocrvqa", "dataset.json", ("0001", "answers"), ["a"], "dataset.json:0001", "2 questions and 1 answers"),
    ("ocrvqa", "dataset.json", ("0001", "split"), 4, "dataset.json:0001", "split must be a whole number from 1 to 3, not 4"),
    ("ocrvqa", "dataset.json", ("0001", "answers", 1), "", "dataset.json:0001.questions[1]", "answer is empty"),
    ("estvqa", "annotations/train.json", (0, "annotation"), [], "annotations/train.json:[0]", "a picture without a question"),
    ("chartqa", "train/train_human.json", (0, "label"), None, "train/train_human.json:[0]", "label is empty"),
    ("docvqa", "train_v1.0.json", ("data", 0, "answers"), DROP, "train_v1.0.json:data[0]", "answers is absent"),
    ("gqa", "testdev_balanced_questions.json", ("201307251", "answer"), DROP, "questions.json:201307251", "answer is absent"),
    ("image2paragraph", "annotations/test_split.json", (), [1, 3], "test_split.json:[1]", "image_id 3 has no paragraph"),
    ("lncoco", "coco_val_localized_narratives.jsonl", (1, "caption"), 4, "narratives.jsonl:2", "caption must be a text"),
    ("flickr30k", "dataset_flickr30k.json", ("images", 1, "split"), "restval", "json:images[1]", "its split is none of"),
    (
        "vist",
        "annotations/train_formatted_filtered.json",
        ("annotations", "s1", 0, "image_id"),
        "no",
        "json:annotations.s1",
        "cannot be opened",
    ),
    (
        "vist",
        "annotations/train_formatted_filtered.json",
        ("annotations", "s1", 0, "sequence_index"),
        0,
        "annotations.s1",
        "the same place",
    ),
    ("vist", VIST, ("annotations", "s1"), [], "annotations.s1", "a story of 0 pictures"),
    ("pororosv", "ep1/0.png", (), png(0, 128, 100), "stories.json:train[0]", "a strip has frames of 128x128"),
    ("pororosv", "stories.json", ("train", 0, "frames", 0, "image"), "../x.png", "stories.json:train[0]", "must be relative"),
    ("flintstonessv", "flintstones_annotations_v1-0.json", (3,), DROP, "split.json:train[0]", "description of c3 is empty"),
    ("flintstonessv", "flintstones_annotations_v1-0.json", (3, "description"), 7, "split.json:train[0]", "must be a text, not a number"),
    ("flintstonessv", "flintstones_annotations_v1-0.json", (3, "globalID"), "c2", "v1-0.json:[3]", "globalID c2 was used before"),
    ("flintstonessv", "following_cache4.json", ("c0",), "c1", "following_cache4.json:c0", "the followers are no list"),
]


@pytest.mark.parametrize(("name", "file", "path", "new", "where", "reason"), REFUSED)
def test_what_is_refused_says_where_and_why(
    name: str, file: str, path: tuple[str | int, ...], new: Any, where: str, reason: str, tmp_path: Path
) -> None:
    one = SETS[name]
    change = {file: changed(one.files[file], path, new) if path else new}
    accepted, rejected = read(one, one.write(tmp_path, **change))
    assert any(found.where.endswith(where) and reason in found.reason for found in rejected), rejected
    assert len(accepted) < one.documents or name in ("image2paragraph", "coco_captions", "flickr30k", "flintstonessv")
    parted, again = read(one, tmp_path, parts=3)
    assert sorted(map(str, again)) == sorted(map(str, rejected))  # each once, in whichever part
    assert {result.document.id for result in parted} == {result.document.id for result in accepted}


def test_a_picture_that_was_never_fetched_is_missing_and_not_faulty(tmp_path: Path) -> None:
    accepted, rejected = read(SETS["vqav2"], SETS["vqav2"].write(tmp_path, **{"train2014/COCO_train2014_000000000009.jpg": None}))
    assert len(accepted) == 1
    assert [(found.where, found.missing) for found in rejected] == [(f"{VQA_Q}:questions[0]", True)]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(1))
    folder = SETS["dvqa"].write(tmp_path / "corpus", **{"images/bar_train_00000001.png": None})
    (folder / "images").mkdir()
    (folder / "images/bar_train_00000001.png").symlink_to(outside)
    (found,) = read(SETS["dvqa"], folder)[1]
    assert "leads out of the folder" in found.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[{'question': 'What?', 'answer': 'a'}]", "looks like Python"),
        (b"[{\"question\": 'What?'}]", "looks like Python"),
        (b'[{"question": "a\xff?"}]', "not UTF-8"),
        (b'[{"question_id": NaN}]', "NaN is not allowed"),
        (b'[{"question": "What?"', "the file ends in the middle"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1}', "the record must be an object, not a number"),
        (b'[{"a": 1}]', "question_id is absent"),
        (b"7", "expected a list or an object"),
        (b"", "the file ends in the middle"),
        (b"[] []", "more text after the end"),
    ],
)
def test_a_file_that_is_no_json_is_refused_at_its_place(content: bytes, reason: str, tmp_path: Path) -> None:
    one = SETS["dvqa"]
    accepted, rejected = read(one, one.write(tmp_path, **{"train_qa.json": content}))
    assert accepted == []
    assert all(found.where.startswith("train_qa.json") for found in rejected)
    assert any(reason in found.reason for found in rejected), rejected


def test_of_a_file_that_is_cut_short_the_beginning_is_read_and_the_end_is_missed(tmp_path: Path) -> None:
    one = SETS["llava"]
    text = json.dumps(one.files[MIX])
    cut = text[: text.index("Who are you") + 5].encode()
    accepted, rejected = read(one, one.write(tmp_path, **{MIX: cut}))
    assert len(accepted) == 2
    assert [found.where for found in rejected] == [f"{MIX}:[2]"]
    assert "the rest of the file is not read" in rejected[0].reason


class Trap:
    """Pickled, it would write a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("name", "wanted", "pickled"),
    [
        ("refcoco", "refcoco_train.jsonl", "refs(unc).p"),
        ("refcocog", "refcocog_train.jsonl", "refs(umd).p"),
        ("pororosv", "stories.json", "descriptions.npy"),
        ("flintstonessv", "following_cache4.json", "following_cache4.pkl"),
    ],
)
def test_a_pickle_is_never_opened(name: str, wanted: str, pickled: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    folder = SETS[name].write(tmp_path / "corpus", **{wanted: None})
    (folder / pickled).write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(CorpusError, match=rf"run any code when .* is not read; write {wanted.replace('.', '[.]')}"):
        source(SETS[name], folder)
    assert not trace.exists()


# What single sets promise.


def test_every_caption_of_coco_can_be_a_document(tmp_path: Path) -> None:
    one = SETS["coco_captions"]
    accepted, _ = read(one, one.write(tmp_path), captions="each", lower_case=False)
    assert [result.document.texts[-1] for result in accepted] == ["A Cat on a mat.", "The cat sits.", "A dog."]
    with pytest.raises(CorpusError, match="has all its captions"):
        source(one, tmp_path, split="evaluation", captions="each", phase="train2014")


def test_the_licence_of_a_picture_goes_with_it(tmp_path: Path) -> None:
    accepted, _ = read(SETS["coco_captions"], SETS["coco_captions"].write(tmp_path))
    assert [result.document.licence for result in accepted] == ["Attribution License", "L"]


def test_of_coco30k_the_first_captions_are_read_good_or_not(tmp_path: Path) -> None:
    one = SETS["coco30k"]
    (name,) = (name for name in one.files if name.endswith(".json"))
    few = [{"id": number, "image_id": 7 if number % 2 else 5, "caption": f"cat {number}"} for number in range(9)]
    one.write(tmp_path, **{name: one.files[name] | {"annotations": few}})
    options = LowerCaptionOptions()
    opened = open_set(corpus(one), tmp_path, LIMITS, COCO30K, lambda _: CocoPictures(options, most=4), options)
    found = [result for unit in opened.units() for result in opened.documents(unit)]
    assert [type(result) for result in found] == [Rejected, Accepted, Rejected, Accepted]
    assert COCO30K.phases["val2014"].count == COCO_30K == 30_000


def test_who_made_a_question_is_known(tmp_path: Path) -> None:
    accepted, _ = read(SETS["chartqa"], SETS["chartqa"].write(tmp_path))
    assert [(result.document.origin, result.document.fields["answer"]) for result in accepted] == [("human", "a cat"), ("automated", "14")]


def test_text_alone_is_a_dialogue_without_a_picture(tmp_path: Path) -> None:
    accepted, _ = read(SETS["llava"], SETS["llava"].write(tmp_path))
    assert [result.document.kind for result in accepted] == ["dialogue", "question", "dialogue", "question"]
    alone = accepted[2].document
    assert (alone.images, alone.prompt_items) == ((), 1)
    assert alone.texts == ("Who are you?", "A model.", "Why?", "Because.")
    assert [item.loss for item in alone.items] == [False, True, False, True]


def test_a_picture_in_a_later_round_stands_there(tmp_path: Path) -> None:
    late = [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}]
    late += [{"from": "human", "value": "See <image> here?"}, {"from": "gpt", "value": "Yes."}]
    (result,), _ = read(SETS["llava"], SETS["llava"].write(tmp_path, **{MIX: [{"image": "coco/train2017/1.jpg", "conversations": late}]}))
    assert [item.type for item in result.document.items] == ["text", "text", "image", "text", "text"]
    assert result.document.texts[2] == "See here?"


def test_a_class_map_is_drawn_in_the_colours_of_the_release_and_read_back(tmp_path: Path) -> None:
    colours = palette()
    assert len({tuple(colour) for colour in colours.tolist()}) == CLASSES + 1
    # The first, second, seventh and last of the release's list: six steps of 42 a channel, blue first.
    assert colours[[0, 1, 2, 7, 150]].tolist() == [[0, 0, 0], [255, 255, 255], [255, 255, 213], [255, 213, 255], [87, 255, 45]]
    labels = np.random.default_rng(0).integers(0, CLASSES + 1, (HEIGHT, WIDTH))
    (result,), _ = read(SETS["ade20k"], SETS["ade20k"].write(tmp_path, **{ADE: mask(labels)}))
    class_map = decode(result.images[0], 10**6)
    assert np.array_equal(class_map, colours[labels])
    assert np.array_equal(labels_of(class_map), labels)
    assert result.sizes == [(WIDTH, HEIGHT)] * 2


def test_a_frame_of_a_strip_is_drawn_by_the_story_alone(tmp_path: Path) -> None:
    one = SETS["pororosv"]
    (first,), _ = read(one, one.write(tmp_path / "a"))
    (again,), _ = read(one, one.write(tmp_path / "b"))
    assert first == again
    for number, (data, frame) in enumerate(zip(first.images, first.document.fields["drawn_frames"], strict=True)):
        strip = decode(one.files[f"ep1/{number}.png"], 10**6)
        assert np.array_equal(decode(data, 10**6), strip[frame * 128 : (frame + 1) * 128])


def test_a_split_of_a_set_is_chosen_by_name(tmp_path: Path) -> None:
    one = SETS["ocrvqa"]
    (only,), rejected = read(one, one.write(tmp_path, **{"images/0002.jpg": png(2)}), split="evaluation")
    assert only.document.fields["answer"] == "Bob"
    assert rejected == []
    assert read(one, tmp_path, phase="val") == ([], [])


@pytest.mark.parametrize("name", SETS)
def test_no_damage_to_an_annotation_file_raises_anything(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    rng = np.random.default_rng(len(name))
    one.write(tmp_path)
    for file in [file for file in one.files if file.endswith((".json", ".jsonl"))]:
        good = one.encoded(file, one.files[file])
        for _ in range(15):
            damaged = bytearray(good)
            start = int(rng.integers(len(damaged)))
            damaged[start : start + int(rng.integers(0, 8))] = bytes(
                rng.choice([*b'"{}[],:\\ \xff\x000e']) for _ in range(rng.integers(0, 4))
            )
            (tmp_path / file).write_bytes(damaged)
            accepted, _ = read(one, tmp_path)
            assert len(accepted) <= one.documents + 1
        (tmp_path / file).write_bytes(good)


def scripts() -> list[str]:
    """The conversions that docs/corpora.md prints, in its order: RefCOCO, PororoSV, FlintstonesSV."""
    page = (Path(__file__).parents[2] / "docs/corpora.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def run(script: str, folder: Path, *arguments: str) -> None:
    (folder / "convert.py").write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, "convert.py", *arguments], cwd=folder, check=True, timeout=60)


def test_the_printed_conversions_write_what_is_read(tmp_path: Path) -> None:
    refs, pororo, flintstones = scripts()
    one = SETS["refcoco"]
    folder = one.write(tmp_path / "refs", **{REFS: None})
    sentences = [{"sent": "left guy", "raw": "Left guy", "tokens": []}, {"sent": "woman"}]
    ref = {"ref_id": 1, "ann_id": 5, "image_id": 1, "category_id": 2, "split": "train", "sentences": sentences}
    instances = {
        "images": [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg"}],
        "annotations": [{"id": 5, "bbox": [1.5, 2, 10, 20.25]}],
        "categories": [{"id": 2, "name": "person"}],
    }
    (folder / "refs(unc).p").write_bytes(pickle.dumps([ref]))
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    run(refs, folder, "refcoco", "refs(unc).p")
    accepted, rejected = read(one, folder)
    assert rejected == []
    boxes = [result.document.fields for result in accepted]
    assert boxes == [{"phrase": phrase, "box": [1.5, 2, 11.5, 22.25], "category": "person"} for phrase in ("left guy", "woman")]

    one = SETS["pororosv"]
    folder = one.write(tmp_path / "pororo", **{"stories.json": None})
    frames = [frame for story in one.files["stories.json"]["train"] for frame in story["frames"]]
    names = [str(frame["image"]) for frame in frames]
    captions: Any = {name.removesuffix(".png"): [frame["caption"]] for name, frame in zip(names, frames, strict=True)}
    np.save(folder / "descriptions.npy", captions, allow_pickle=True)
    np.save(folder / "img_cache4.npy", np.array([names[0].encode()]))
    np.save(folder / "following_cache4.npy", np.array([[f"b'{name}'" for name in names[1:]]]))
    splits = np.empty(3, object)
    splits[:] = [np.array([0]), np.array([], int), np.array([], int)]
    np.save(folder / "train_seen_unseen_ids.npy", splits, allow_pickle=True)
    run(pororo, folder)
    (result,), rejected = read(one, folder)
    assert (result.document.texts, rejected) == (one.texts, [])

    one = SETS["flintstonessv"]
    folder = one.write(tmp_path / "flintstones", **{"following_cache4.json": None})
    (folder / "following_cache4.pkl").write_bytes(pickle.dumps(one.files["following_cache4.json"]))
    run(flintstones, folder)
    (result,), rejected = read(one, folder)
    assert (result.document.texts, rejected) == (one.texts, [])


def test_a_table_of_the_manual_names_each_set_with_its_counts() -> None:
    page = (Path(__file__).parents[2] / "docs/corpora.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip().strip("`"): row for row in page.splitlines() if row.startswith("| `")}
    for name, one in SETS.items():
        assert one.expected_count is None or f"{one.expected_count:,}" in rows[name]
        assert ("| never |" in rows[name]) == (name in EVALUATION_ONLY)
