"""The metrics of an evaluation, by name: whose they are and how people call them. One table for gate, report, evaluation, parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.params import EvaluatedKind, Task


@dataclass(frozen=True)
class Measured:
    """What a metric says, of which task, from held-out documents of which kind.

    `paired`: each document has a score of its own, so that the gate can compare two models by it.
    """

    title: str
    task: Task
    kind: EvaluatedKind
    paired: bool = True


METRICS = {
    "question_accuracy": Measured("Digit questions", "vqa", "question"),
    "two_picture_accuracy": Measured("Questions over two pictures", "vqa", "multi"),
    "cider": Measured("Captions (CIDEr)", "vqa", "caption"),
    "box_accuracy": Measured("Boxes, IoU ≥ 0.5", "grounding", "referring"),
    "parse_rate": Measured("Boxes that parse", "grounding", "referring", paired=False),
    "miou": Measured("Segmentation → picture, mIoU", "segmentation", "segmentation"),
    "digit_miou": Measured("The same without the ground", "segmentation", "segmentation", paired=False),
    "picture_accuracy": Measured("Generated pictures recognised", "story", "story"),
    "digit_accuracy": Measured("Generated digits recognised", "story", "story"),
    "zero_shot_picture_accuracy": Measured("Pictures before fine-tuning", "story", "story"),
    "zero_shot_digit_accuracy": Measured("Digits before fine-tuning", "story", "story"),
    "placement_accuracy": Measured("Pictures put where they belong", "story", "story"),
    "stop_accuracy": Measured("Stopped where the story ends", "story", "story"),
    "text_picture_agreement": Measured("Own text agrees with own picture", "story", "story"),
}


def metrics_of(task: Task, *, paired: bool = False) -> list[str]:
    """Names of a task's metrics; with `paired` those that the gate can compare."""
    return [name for name, one in METRICS.items() if one.task == task and (one.paired or not paired)]


def kinds_of(task: Task) -> tuple[EvaluatedKind, ...]:
    """Kinds of held-out documents that a task is asked about, in their order."""
    return tuple(dict.fromkeys(one.kind for one in METRICS.values() if one.task == task))
