"""Tiny copies of the sets of captions, boxes, class maps and stories, in the forms in which they are published; and of all sets."""

from __future__ import annotations

from typing import Any

import numpy as np
from task_set import HEIGHT, WIDTH, TaskSet, mask, png
from task_sets_of_questions import question_sets

_LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
_LABELS[:10], _LABELS[20:] = 1, 150
_STORY = [{"sequence_index": number, "image_id": f"p{number}", "caption": f"sentence {number}."} for number in (1, 0, 2, 4, 3)]


def _coco_files(phase: str, file: str, folder: str) -> dict[str, Any]:
    return {
        file: {
            "licenses": [{"id": 4, "name": "Attribution License", "url": "x"}],
            "images": [
                {"id": 7, "file_name": f"COCO_{phase}_7.jpg", "license": 4, "height": HEIGHT, "width": WIDTH},
                {"id": 8, "file_name": f"COCO_{phase}_8.jpg", "license": 99},
            ],
            "annotations": [
                {"id": 70, "image_id": 7, "caption": "A Cat on a mat."},
                {"id": 80, "image_id": 8, "caption": "A dog."},
                {"id": 71, "image_id": 7, "caption": "The cat sits."},
            ],
        },
        f"{folder}/COCO_{phase}_7.jpg": png(7),
        f"{folder}/COCO_{phase}_8.jpg": png(8),
    }


def _strips(*names: str) -> dict[str, bytes]:
    return {name: png(number, 128, 128 * (1 + number % 3)) for number, name in enumerate(names)}


def _refs(name: str) -> dict[str, Any]:
    return {
        f"{name}_train.jsonl": [
            {"image": "train2014/COCO_train2014_000000000001.jpg", "sent": "left guy", "bbox": [0, 3, 20, 29.999], "height": HEIGHT},
            {"image": "train2014/COCO_train2014_000000000001.jpg", "sent": "woman", "bbox": [20.5, 0, 40, 30]},
            {"image": "train2014/COCO_train2014_000000000001.jpg", "sent": "left guy", "bbox": [0, 3, 20, 29.999], "height": HEIGHT},
        ],
        "train2014/COCO_train2014_000000000001.jpg": png(1),
    }


def picture_sets() -> list[TaskSet]:
    """All of them."""
    return [
        TaskSet(
            "coco_captions",
            _coco_files("train2014", "annotations/captions_train2014.json", "train2014"),
            "question",
            2,
            texts=("Provide a one-sentence caption for the provided image.", "a cat on a mat."),
            prompt_items=2,
            fields={"references": ["A Cat on a mat.", "The cat sits."]},
            expected_count=82_783,
        ),
        TaskSet(
            "coco30k",
            _coco_files("val2014", "annotations/captions_val2014.json", "val2014"),
            "interleaved",
            3,
            "evaluation",
            texts=("a cat on a mat.",),
            prompt_items=1,
            fields={"references": ["A Cat on a mat."], "task": "text_to_image", "image_id": "7"},
            expected_count=30_000,
        ),
        TaskSet(
            "nocaps",
            _coco_files("x", "nocaps_val_4500_captions.json", "images"),
            "caption",
            2,
            "evaluation",
            {"prompt": "zero_shot"},
            texts=("a photo of", "A Cat on a mat."),
            prompt_items=2,
            fields={"references": ["A Cat on a mat.", "The cat sits."]},
            expected_count=4_500,
        ),
        TaskSet(
            "flickr30k",
            {
                "dataset_flickr30k.json": {
                    "images": [
                        {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "Two men.", "tokens": []}, {"raw": "They run."}]},
                        {"filename": "2.jpg", "split": "train", "sentences": [{"raw": "No."}]},
                    ],
                    "dataset": "flickr30k",
                },
                "flickr30k-images/1.jpg": png(1),
            },
            "caption",
            1,
            "evaluation",
            texts=("Provide a one-sentence caption for the provided image.", "Two men."),
            prompt_items=2,
            fields={"references": ["Two men.", "They run."]},
            expected_count=1_000,
        ),
        TaskSet(
            "coco_karpathy",
            {
                "annotations/coco_karpathy_test.json": [
                    {"image": "val2014/COCO_val2014_000000000001.jpg", "caption": ["A bus.", "A red bus."]},
                    {"image": "val2014/COCO_val2014_000000000002.jpg", "caption": "One."},
                ],
                "val2014/COCO_val2014_000000000001.jpg": png(1),
                "val2014/COCO_val2014_000000000002.jpg": png(2),
            },
            "caption",
            2,
            "evaluation",
            texts=("Provide a one-sentence caption for the provided image.", "a bus."),
            prompt_items=2,
            fields={"references": ["A bus.", "A red bus."]},
            expected_count=5_000,
        ),
        TaskSet(
            "textcaps",
            {
                "TextCaps_0.1_train.json": {
                    "dataset_name": "textcaps",
                    "data": [
                        {"image_id": "a1", "caption_str": "A sign says STOP.", "caption_id": 0, "image_path": "train/a1.jpg"},
                        {"image_id": "b2", "caption_str": "A can of Coke.", "caption_id": 1},
                        {"image_id": "a1", "caption_str": "STOP.", "caption_id": 2},
                    ],
                },
                "train_images/a1.jpg": png(1),
                "train_images/b2.jpg": png(2),
            },
            "question",
            2,
            texts=("Provide a one-sentence caption for the provided image.", "A sign says STOP."),
            prompt_items=2,
            fields={"references": ["A sign says STOP.", "STOP."]},
            expected_count=21_953,
        ),
        TaskSet(
            "image2paragraph",
            {
                "annotations/paragraphs_v1.json": [
                    {"url": "https://host/rak248/VG_100K_2/1.jpg", "image_id": 1, "paragraph": "A board. On it are mushrooms."},
                    {"url": "https://host/rak248/VG_100K/2.jpg", "image_id": 2, "paragraph": "Of another split."},
                ],
                "annotations/test_split.json": [1],
                "images/VG_100K_2/1.jpg": png(1),
            },
            "caption",
            1,
            "evaluation",
            texts=("Please describe the image in detail.", "A board. On it are mushrooms."),
            prompt_items=2,
            expected_count=2_489,
        ),
        TaskSet(
            "lncoco",
            {
                "coco_val_localized_narratives.jsonl": [
                    {"dataset_id": "mscoco_val2017", "image_id": "12", "annotator_id": 1, "caption": "In this image a cat.", "traces": []},
                    {"dataset_id": "mscoco_val2017", "image_id": "12", "annotator_id": 2, "caption": "A cat sits."},
                ],
                "val2017/000000000012.jpg": png(1),
            },
            "interleaved",
            2,
            "evaluation",
            lines=("coco_val_localized_narratives.jsonl",),
            texts=("In this image a cat.",),
            prompt_items=1,
            fields={"references": ["In this image a cat."], "narratives_of_image": 2},
            expected_count=8_573,
        ),
        *(
            TaskSet(
                name,
                _refs(name),
                "referring",
                3,
                lines=(f"{name}_train.jsonl",),
                texts=(
                    "Question: Provide the bounding box coordinate of the region this sentence describes: left guy, Answer:",
                    "(000,100)(500,999)",
                ),
                prompt_items=2,
                fields={"phrase": "left guy", "box": [0, 3, 20, 30.0]},
                expected_count=count,
            )
            for name, count in (("refcoco", 120_624), ("refcoco+", 120_191), ("refcocog", 80_512))
        ),
        TaskSet(
            "ade20k",
            {
                "training.json": [{"image_id": "ADE_train_00000001", "caption": "a wall and a flag"}],
                "images/training/ADE_train_00000001.jpg": png(1),
                "annotations/training/ADE_train_00000001.png": mask(_LABELS),
                "objectInfo150.txt": (
                    "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(f"{n}\t0.1\t1\t1\t0\tname {n}\n" for n in range(1, 151))
                ).encode(),
            },
            "segmentation",
            1,
            texts=("a wall and a flag.",),
            prompt_items=2,
            fields={"classes": [1, 150], "categories": ["name 1", "name 150"]},
            expected_count=20_210,
        ),
        TaskSet(
            "vist",
            {
                "annotations/train_formatted_filtered.json": {"annotations": {"s1": _STORY}},
                **{f"images/train_images/p{number}.{'jpg' if number == 2 else 'png'}": png(number) for number in range(5)},
            },
            "story",
            1,
            texts=tuple(f"sentence {number}." for number in range(5)),
            prompt_items=9,
            expected_count=34_000,
        ),
        TaskSet(
            "pororosv",
            {
                "stories.json": {
                    "train": [
                        {
                            "id": "17",
                            "frames": [{"image": f"ep1/{number}.png", "caption": f"pororo meets LOOPY\n{number}"} for number in range(5)],
                        }
                    ],
                    "val": [],
                    "test": [],
                },
                **_strips(*(f"ep1/{number}.png" for number in range(5))),
            },
            "story",
            1,
            texts=tuple(f"Pororo meets Loopy {number}" for number in range(5)),
            prompt_items=3,
            expected_count=10_191,
        ),
        TaskSet(
            "flintstonessv",
            {
                "train-val-test_split.json": {"train": ["c0", "c1"], "val": [], "test": []},
                "flintstones_annotations_v1-0.json": [
                    {"globalID": f"c{number}", "description": f"FRED drives {number}."} for number in range(5)
                ],
                "following_cache4.json": {"c0": ["c1", "c2", "c3", "c4"], "c1": ["c2"]},
                **_strips(*(f"video_frames_sampled_png/c{number}.png" for number in range(5))),
            },
            "story",
            1,
            texts=tuple(f"Fred drives {number}." for number in range(5)),
            prompt_items=3,
            expected_count=20_132,
        ),
    ]


SETS: dict[str, TaskSet] = {one.format: one for one in (*question_sets(), *picture_sets())}
