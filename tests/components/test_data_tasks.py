"""Fine-tuning and evaluation sets: each record once in the words of the paper, and what is refused of hostile files."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_set import HEIGHT, LIMITS, WIDTH, TaskSet, corpus, mask, png, read, source
from task_sets import SETS

from components.data.documents import CorpusError, parse_document
from components.data.pictures import decode
from components.data.sources.ade20k import CLASSES, labels_of, palette
from components.data.sources.annotated import open_set
from components.data.sources.caption_lists import LowerCaptionOptions
from components.data.sources.coco_format import COCO30K, COCO_30K, CocoPictures
from components.data.sources.source import Accepted, Noted, Rejected

MIX, REFS, ADE = "llava_v1_5_mix665k.json", "refcoco_train.jsonl", "annotations/training/ADE_train_00000001.png"
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
    assert [parse_document(document.model_dump_json()) for document in documents] == documents
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


def test_an_answer_before_the_first_question_is_left_out_and_told(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "Welcome."}, {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
    (result,), _ = read(SETS["llava"], SETS["llava"].write(tmp_path, **{MIX: [{"id": "1", "conversations": turns}]}))
    assert result.document.texts == ("Who?", "Me.")
    assert result.document.facts == {"turns_left_out": 1}


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
