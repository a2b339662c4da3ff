"""Tiny copies of the sets of questions and dialogues, in the forms in which they are published."""

from __future__ import annotations

from typing import Any

from task_set import TaskSet, png

ASK, ANSWER, ONE_WORD = (
    "Based on the image, please answer the question.",
    "The answer is:",
    "Please provide an accurate answer within one word.",
)
_QUESTION = (ASK, f"What is it?. {ANSWER}", "a cat")
_EVALUATED = (ASK, f"What is it? {ONE_WORD} {ANSWER}", "a cat")


def _vqa_files(prefix: str, phase: str) -> dict[str, Any]:
    def answers(*given: str) -> list[dict[str, Any]]:
        return [{"answer": text, "answer_confidence": "yes", "answer_id": number} for number, text in enumerate(given, 1)]

    return {
        f"{prefix}OpenEnded_mscoco_{phase}2014_questions.json": {
            "info": {"year": 2017},
            "questions": [
                {"image_id": 9, "question": "What is this? ", "question_id": 9000},
                {"image_id": 25, "question": "How many?", "question_id": 25001},
            ],
        },
        f"{prefix}mscoco_{phase}2014_annotations.json": {
            "annotations": [
                {
                    "question_id": 25001,
                    "image_id": 25,
                    "answers": answers("2", "2", "3"),
                    "multiple_choice_answer": "2",
                    "question_type": "how many",
                    "answer_type": "number",
                },
                {"question_id": 9000, "image_id": 9, "answers": answers("food", "lunch", "food", ""), "question_type": "what"},
            ],
        },
        f"{phase}2014/COCO_{phase}2014_000000000009.jpg": png(1),
        f"{phase}2014/COCO_{phase}2014_000000000025.jpg": png(2),
    }


def _dialogue(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def _visdial() -> dict[str, Any]:
    def a_round(question: int, answer: int) -> dict[str, Any]:
        return {"question": question, "answer": answer, "answer_options": [0, 1, 2], "gt_index": 1}

    return {
        "visdial_1.0_val.json": {
            "version": "1.0",
            "split": "val",
            "data": {
                "answers": ["yes", "no", "a red one"],
                "questions": ["is it big", "what color is it"],
                "dialogs": [
                    {"image_id": 5, "caption": "a bus", "dialog": [a_round(0, 0), a_round(1, 2), a_round(0, 1)]},
                    {"image_id": 6, "caption": "a cat", "dialog": [a_round(0, 1)]},
                ],
            },
        },
        "visdial_1.0_val_dense_annotations.json": [
            {"image_id": 6, "round_id": 1, "gt_relevance": [0, 1, 0.5]},
            {"image_id": 5, "round_id": 2, "gt_relevance": [0.0, 0.2, 1.0]},
        ],
        "VisualDialog_val2018/VisualDialog_val2018_000000000005.jpg": png(5),
        "VisualDialog_val2018/VisualDialog_val2018_000000000006.jpg": png(6),
    }


def question_sets() -> list[TaskSet]:
    """All of them."""
    asked = {"question": "What is it?"}
    return [
        TaskSet(
            "llava",
            {
                "llava_v1_5_mix665k.json": [
                    {
                        "id": "1",
                        "image": "coco/train2017/1.jpg",
                        "conversations": _dialogue("<image>\nWhat is it?", "a cat", "And that?", "a dog"),
                    },
                    {"id": "1", "image": "coco/train2017/1.jpg", "conversations": _dialogue("Tell me.\n<image>", "It is a cat.")},
                    {"id": "x_1", "conversations": _dialogue("Who are you?", "A model.", "Why?", "Because.")},
                    {"id": "1", "image": "coco/train2017/1.jpg", "conversations": _dialogue("Tell me.\n<image>", "It is a cat.")},
                ],
                "coco/train2017/1.jpg": png(1),
            },
            "dialogue",
            4,
            texts=(ASK, f"What is it?. {ANSWER}", "a cat", f"And that?. {ANSWER}", "a dog"),
            prompt_items=3,
            fields={"question": "What is it?", "answer": "a cat", "rounds": 2},
            expected_count=665_298,
        ),
        TaskSet(
            "llavar",
            {
                "llava_instruct_150k_llavar_16k.json": [
                    {"id": "1", "image": "1.jpg", "conversations": _dialogue("<image>\nWhat is it?", "a cat")}
                ],
                "images/1.jpg": png(1),
            },
            "question",
            1,
            options={"prompt": "plain"},
            texts=("What is it?", "a cat"),
            prompt_items=2,
            expected_count=174_000,
        ),
        TaskSet(
            "vqav2",
            _vqa_files("v2_", "train"),
            "question",
            2,
            texts=(ASK, f"What is this?. {ANSWER}", "food"),
            prompt_items=3,
            fields={"question": "What is this?", "answer": "food", "answers": ["food", "lunch", "food", ""], "question_type": "what"},
            expected_count=443_757,
        ),
        TaskSet(
            "okvqa",
            _vqa_files("", "val"),
            "question",
            2,
            "evaluation",
            texts=(ASK, f"What is this? {ONE_WORD} {ANSWER}", "food"),
            prompt_items=3,
            expected_count=5_046,
        ),
        TaskSet(
            "chartqa",
            {
                "train/train_human.json": [{"imgname": "1.png", "query": "What is it?", "label": "a cat"}],
                "train/train_augmented.json": [{"imgname": "1.png", "query": "How many?", "label": 14}],
                "train/png/1.png": png(1),
            },
            "question",
            2,
            texts=_QUESTION,
            prompt_items=3,
            fields=asked | {"answers": ["a cat"]},
            expected_count=28_299,
        ),
        TaskSet(
            "dvqa",
            {
                "train_qa.json": [
                    {
                        "question": "What is it?",
                        "question_id": 1,
                        "template_id": "reasoning",
                        "answer": "a cat",
                        "image": "bar_train_00000001.png",
                        "answer_bbox": [],
                    },
                ],
                "images/bar_train_00000001.png": png(1),
            },
            "question",
            1,
            texts=_QUESTION,
            prompt_items=3,
            fields={"template_id": "reasoning"},
            expected_count=2_325_316,
        ),
        TaskSet(
            "docvqa",
            {
                "train_v1.0.json": {
                    "dataset_name": "docvqa",
                    "data": [
                        {
                            "questionId": 337,
                            "question": "What is it?",
                            "image": "documents/x_1.png",
                            "docId": 2,
                            "answers": ["a cat", "cat"],
                        }
                    ],
                },
                "documents/x_1.png": png(1),
            },
            "question",
            1,
            texts=_QUESTION,
            prompt_items=3,
            fields=asked | {"answers": ["a cat", "cat"]},
            expected_count=39_463,
        ),
        TaskSet(
            "infovqa",
            {
                "infographicsVQA_train_v1.0.json": {
                    "data": [
                        {"questionId": 6, "question": "What is it?", "image_local_name": "3.jpeg", "answers": ["a cat"], "image_url": "u"}
                    ]
                },
                "infographicsvqa_images/3.jpeg": png(1),
            },
            "question",
            1,
            texts=_QUESTION,
            prompt_items=3,
            expected_count=23_946,
        ),
        TaskSet(
            "stvqa",
            {
                "train_task_3.json": {
                    "data": [
                        {
                            "question_id": 1,
                            "question": "What is it?",
                            "file_path": "coco-text/1.jpg",
                            "answers": ["a cat"],
                            "dataset": "coco-text",
                        }
                    ]
                },
                "images/coco-text/1.jpg": png(1),
            },
            "question",
            1,
            texts=_QUESTION,
            prompt_items=3,
            fields={"dataset": "coco-text"},
            expected_count=26_074,
        ),
        TaskSet(
            "estvqa",
            {
                "annotations/train.json": [
                    {
                        "image": "1.jpg",
                        "annotation": [
                            {"question": "What is it?", "answer": "a cat", "evidence": [[0, 0]]},
                            {"question": "店名?", "answer": "茶"},
                        ],
                    }
                ],
                "images/train/1.jpg": png(1),
            },
            "question",
            2,
            texts=_QUESTION,
            prompt_items=3,
        ),
        TaskSet(
            "ocrvqa",
            {
                "dataset.json": {
                    "0001": {
                        "imageURL": "http://host/1.jpeg",
                        "title": "T",
                        "authorName": "A",
                        "genre": "G",
                        "questions": ["What is it?", "Who?"],
                        "answers": ["a cat", "Ann"],
                        "split": 1,
                    },
                    "0002": {"imageURL": "http://host/2.jpg", "questions": ["Who?"], "answers": ["Bob"], "split": 3},
                },
                "images/0001.jpg": png(1),
            },
            "question",
            2,
            texts=_QUESTION,
            prompt_items=3,
        ),
        TaskSet(
            "textvqa",
            {
                "TextVQA_0.5.1_val.json": {
                    "data": [{"question_id": 34602, "question": "What is it?", "image_id": "00ab", "answers": ["a dog", "a cat", "a cat"]}]
                },
                "train_images/00ab.jpg": png(1),
            },
            "question",
            1,
            "evaluation",
            texts=_EVALUATED,
            prompt_items=3,
            fields=asked | {"answers": ["a dog", "a cat", "a cat"]},
            expected_count=5_000,
        ),
        TaskSet(
            "gqa",
            {
                "testdev_balanced_questions.json": {
                    "201307251": {
                        "imageId": "n161313",
                        "question": "What is it?",
                        "answer": "a cat",
                        "fullAnswer": "It is a cat.",
                        "types": {},
                    }
                },
                "images/n161313.jpg": png(1),
            },
            "question",
            1,
            "evaluation",
            texts=_EVALUATED,
            prompt_items=3,
            fields={"fullAnswer": "It is a cat.", "answers": ["a cat"]},
            expected_count=12_578,
        ),
        TaskSet(
            "vizwiz",
            {
                "val.json": [
                    {
                        "image": "VizWiz_val_00000000.jpg",
                        "question": "What is it?",
                        "answers": [{"answer": "a cat", "answer_confidence": "yes"}, {"answer": "unanswerable", "answer_confidence": "no"}],
                        "answer_type": "other",
                        "answerable": 1,
                    }
                ],
                "val/VizWiz_val_00000000.jpg": png(1),
            },
            "question",
            1,
            "evaluation",
            texts=(
                ASK,
                f"What is it? When the provided information is insufficient, respond with 'Unanswerable'. {ONE_WORD} {ANSWER}",
                "a cat",
            ),
            prompt_items=3,
            fields={"answers": ["a cat", "unanswerable"], "answer_type": "other"},
            expected_count=4_319,
        ),
        TaskSet(
            "visdial",
            _visdial(),
            "dialogue",
            2,
            "evaluation",
            texts=("caption: a bus question: is it big? answer: yes. question: what color is it? answer:", "a red one"),
            prompt_items=2,
            fields={"options": ["yes", "no", "a red one"], "relevance": [0.0, 0.2, 1.0], "round": 2, "answer_option": 1},
            expected_count=2_064,
        ),
    ]
