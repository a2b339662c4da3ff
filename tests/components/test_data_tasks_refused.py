"""Fine-tuning and evaluation sets: what is refused of hostile files, where and why, each once."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_set import HEIGHT, WIDTH, mask, png, read, source
from task_sets import SETS

from components.data.documents import CorpusError


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
CAPTIONS, COCO_VAL = "annotations/captions_train2014.json", "annotations/captions_val2014.json"
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
    ("llava", MIX, (0, "conversations", 0, "from"), "system", f"{MIX}:[0]", "do not take turns"),
    ("llava", MIX, (0, "conversations", 2), DROP, f"{MIX}:[0]", "do not take turns"),
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
    ("docvqa", "train_v1.0.json", ("data",), [], "train_v1.0.json:data", "there is no record in it"),
    ("dvqa", "train_qa.json", (), [], "train_qa.json", "there is no record in it"),
    ("refcoco", REFS, (), b"", REFS, "there is no record in it"),
    ("gqa", "testdev_balanced_questions.json", ("201307251", "answer"), DROP, "questions.json:201307251", "answer is absent"),
    ("image2paragraph", "annotations/test_split.json", (), [1, 3], "test_split.json:[1]", "image_id 3 has no paragraph"),
    ("lncoco", "coco_val_localized_narratives.jsonl", (1, "caption"), 4, "narratives.jsonl:2", "caption must be a text"),
    ("flickr30k", "dataset_flickr30k.json", ("images", 1, "split"), "restval", "json:images[1]", "its split is none of"),
    ("flickr30k", "dataset_flickr30k.json", ("images", 1, "split"), [["test"]], "json:images[1]", "its split is none of"),
    ("coco30k", COCO_VAL, ("images", 1, "id"), 7, "json:images[1]", "image id 7 was used before"),
    ("coco30k", COCO_VAL, ("annotations", 1, "image_id"), 9, "json:annotations[1]", "image_id 9, which is not in"),
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


ODD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "\ud800",
    "../x",
    "/etc/passwd",
    "a\0b",
    "x" * 20_000,
    [],
    {},
    [[]],
    [{}],
    {"a": 1},
    "<image>",
]


def places(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where all values of a JSON value stand."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*above, key)
        yield from places(inner, (*above, key))


@pytest.mark.parametrize("name", SETS)
def test_no_odd_value_raises_anything_and_parts_agree_on_it(name: str, tmp_path: Path) -> None:
    one = SETS[name]
    rng = random.Random(name)
    one.write(tmp_path)
    files = [file for file in one.files if file.endswith((".json", ".jsonl"))]
    for _ in range(10):
        file = rng.choice(files)
        content = one.files[file]
        for _ in range(rng.randint(1, 3)):
            if found := list(places(content)):
                content = changed(content, rng.choice(found), rng.choice(ODD))
        (tmp_path / file).write_bytes(one.encoded(file, content))
        accepted, rejected = read(one, tmp_path)
        parted, again = read(one, tmp_path, parts=3)
        assert sorted(map(str, again)) == sorted(map(str, rejected))
        assert sorted(result.document.id for result in parted) == sorted({result.document.id for result in accepted})
        (tmp_path / file).write_bytes(one.encoded(file, one.files[file]))
