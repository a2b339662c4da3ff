"""Weights, courses and the other keys of the order of training: what can be read, and what is named as wrong before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.params import ParamsError, parse
from components.run.parameters import resolve
from components.training.job import Job

ROOT = Path(__file__).resolve().parents[2]
CORPORA = '[{name: mmc4, format: "mmc4"}, {name: laion, format: "img2dataset"}, {name: coco, format: "coco", split: evaluation}]'


def test_a_weight_is_a_number_or_a_course() -> None:
    values = resolve(ROOT, overrides=["pretrain.mixture={question: [[0, 1], [50, 1], [50, 0]], caption: 2, digits/story: 1}"])
    mixture = parse(values).pretrain.mixture
    assert mixture["question"] == ((0, 1.0), (50, 1.0), (50, 0.0))
    assert mixture["caption"] == 2.0
    assert mixture["digits/story"] == 1.0
    train = parse(values).pretrain
    assert Job.model_fields["train"].annotation.model_validate_json(train.model_dump_json()) == train


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("pretrain.mixture.question=[[0, -1]]", r"pretrain\.mixture\.question: .*greater than or equal to 0"),
        ("pretrain.mixture.question=[[5, 1], [0, 1]]", r"pretrain\.mixture\.question: the steps of a course must ascend"),
        ("pretrain.mixture.question=[[0, 1], [0, 2], [0, 3]]", "two points at one step are a jump, three are nothing"),
        ("pretrain.mixture.question=[[0.5, 1]]", "steps of a course must be whole"),
        ("pretrain.mixture.question=[]", r"a course is a list of \[step, weight\]"),
        ("pretrain.mixture.question=much", "expected a weight, or a course"),
        ("pretrain.mixture.question=true", "expected a weight, or a course"),
        ("pretrain.mixture.question=.inf", "must be finite"),
        ("pretrain.mixture.question=[[0, [[1, 2]]]]", r"a course is a list of \[step, weight\]"),
        ("pretrain.mixture.mmc4=1", r"pretrain\.mixture\.mmc4 is 1, and there are no documents of that name; there are caption, .*digits"),
        ("pretrain.mixture.digits/text=1", "there are no documents of that name"),
        ("pretrain.max_images_per_row.mmc4=15", r"max_images_per_row\.mmc4: the mixture has no such name"),
        ("pretrain.max_images_per_row.question=0", r"pretrain\.max_images_per_row\.question: .*greater than 0"),
        ("pretrain.few_shot={min: 4, max: 3}", r"min \(4\) must be at most max \(3\)"),
        ("pretrain.packing=cut", r"pretrain\.packing: .*'best_fit' or 'concatenate_split'"),
    ],
)
def test_what_cannot_be_is_named(override: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        resolve(ROOT, overrides=[override])


def test_a_course_counts_steps_and_joint_rows_have_none() -> None:
    with pytest.raises(ParamsError, match=r"mixture\.question is a course in steps, and with rows_of `any` weights count documents"):
        resolve(ROOT, overrides=["pretrain.rows_of=any", "pretrain.mixture.question=[[0, 1]]"])


def test_a_mixture_that_falls_silent_is_named() -> None:
    only = "pretrain.mixture={referring: 0, caption: 0, segmentation: 0, story: 0, question: %s}"
    with pytest.raises(ParamsError, match="all weights are 0 from step 50 to 130"):
        resolve(ROOT, overrides=[only % "[[0, 1], [50, 1], [50, 0]]"])
    with pytest.raises(ParamsError, match="all weights are 0 from step 0 to 9"):
        resolve(ROOT, overrides=[only % "[[9, 0], [9, 1]]"])
    resolve(ROOT, overrides=[only % "[[0, 0], [130, 1]]"])


def test_a_mixture_names_corpora_their_kinds_and_both() -> None:
    stages = ("pretrain", "finetune.vqa", "finetune.grounding", "finetune.segmentation", "finetune.story")
    corpora = ["data.source=corpora", f"data.corpora={CORPORA}"]
    resolve(ROOT, overrides=[*corpora, "pretrain.mixture={mmc4: 2, laion/caption: 1}"])
    with pytest.raises(ParamsError, match=r"mixture\.coco is 1, and there are no documents of that name; there are .*laion.*mmc4/matched"):
        resolve(ROOT, overrides=[*corpora, f"{stages[0]}.mixture.coco=1"])
