"""From answers to numbers: what all tasks share, and the tasks whose answers are texts. Needs no model and can be repeated."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.data.boxes import grid_of
from components.data.documents import LoadedDocument
from components.data.pictures import encode_png
from components.evaluation.answer_log import Answer
from components.evaluation.estimates import Metrics, MetricUnavailable, Unavailable
from components.evaluation.illustration import Cell, Illustration, Row, cell
from components.evaluation.manifest import Manifest, Request
from components.evaluation.metrics import answers, boxes, captions
from components.evaluation.statistics import Resampling, proportion, resampled

EXAMPLES = 6


@dataclass(frozen=True)
class Asked:
    """One request with its document and what was answered."""

    request: Request
    loaded: LoadedDocument
    answer: Answer


@dataclass
class Scored:
    """A task's result. `scores` and `flags` are by request id."""

    metrics: Metrics = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    flags: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    illustrations: list[Illustration] = field(default_factory=list)

    def score(self, metric: str, asked: Sequence[Asked], values: Sequence[float]) -> None:
        """Note one value of a metric per request."""
        for one, value in zip(asked, values, strict=True):
            self.scores[one.request.id][metric] = float(value)


@dataclass(frozen=True)
class Evidence:
    """Everything scoring looks at. `folder` holds the generated pictures."""

    manifest: Manifest
    documents: Mapping[str, LoadedDocument]
    answers: Mapping[str, Answer]
    folder: Path
    how: Resampling

    def asked(self, kind: str, mode: str | None = None, answering: str | None = None) -> list[Asked]:
        """Requests of a kind in the manifest's order. Raises LookupError when one has no answer: a partial set has no score."""
        chosen = [
            request
            for request in self.manifest.requests
            if request.kind == kind and mode in (None, request.mode) and answering in (None, request.answering)
        ]
        missing = [request.id for request in chosen if request.id not in self.answers]
        if missing:
            raise LookupError(f"{len(missing)} of {len(chosen)} requests have no answer, the first is {missing[0]}")
        return [Asked(request, self.documents[request.document], self.answers[request.id]) for request in chosen]


def score_vqa(evidence: Evidence) -> Scored:
    """Digit questions, questions that need two pictures, captions."""
    scored = Scored()
    for kind, metric in (("question", "question_accuracy"), ("multi", "two_picture_accuracy")):
        asked = evidence.asked(kind)
        if not asked:
            scored.metrics[metric] = none_of(kind)
            continue
        fields = [one.loaded.document.fields for one in asked]
        right = [answers.is_right(one.answer.text, one.loaded.document.fields["answer"]) for one in asked]
        chance = guessing([(str(values.get("question_type", "")), values["answer"]) for values in fields])
        scored.metrics[metric] = proportion(right, evidence.how, chance=chance)
        scored.score(metric, asked, right)
        scored.illustrations += [_answered(one, ok) for one, ok in zip(asked[: EXAMPLES // 2], right, strict=False)]
        _flag_texts(scored, asked)
    _score_captions(scored, evidence)
    return scored


def score_grounding(evidence: Evidence) -> Scored:
    """Boxes of referring expressions, against the original box in pixels."""
    scored = Scored()
    asked = evidence.asked("referring")
    if not asked:
        scored.metrics |= {"box_accuracy": none_of("referring"), "parse_rate": none_of("referring")}
        return scored
    found = [boxes.parse_box(one.answer.text, *_size(one.loaded), grid_of(one.loaded.document.texts[-1]).span) for one in asked]
    true: list[boxes.Box] = [tuple(one.loaded.document.fields["box"]) for one in asked]
    right = [boxes.is_right(ours, box) for ours, box in zip(found, true, strict=True)]
    overlaps = [0.0 if ours is None else boxes.intersection_over_union(ours, box) for ours, box in zip(found, true, strict=True)]
    chance = sum(boxes.is_right(other, box) for other, box in zip(true[1:] + true[:1], true, strict=True)) / len(true)
    scored.metrics["box_accuracy"] = proportion(right, evidence.how, chance=chance)
    scored.metrics["parse_rate"] = proportion([ours is not None for ours in found], evidence.how)
    scored.score("box_accuracy", asked, right)
    scored.score("box_iou", asked, overlaps)
    _flag_texts(scored, asked)
    for one, ours in zip(asked, found, strict=True):
        if ours is None:
            scored.flags[one.request.id].append("parse_failed")
    scored.illustrations = [_boxed(*row) for row in zip(asked[:EXAMPLES], found, true, right, strict=False)]
    return scored


def none_of(kind: str) -> Unavailable:
    """The metric of documents that there are none of."""
    return Unavailable(
        unavailable=f"there are no held-out documents of kind {kind!r}; raise evaluate.documents.{kind} or add some to the data"
    )


def guessing(asked: Sequence[tuple[str, str]]) -> float:
    """What drawing the answer of another question of the same type reaches, from (type, answer): the sum of squared answer shares."""
    total = 0.0
    for kind in {kind for kind, _ in asked}:
        counts = Counter(answer for found, answer in asked if found == kind)
        total += sum(count * count for count in counts.values()) / sum(counts.values())
    return total / len(asked)


def sample_rows(evidence: Evidence, scored: Scored) -> list[dict[str, Any]]:
    """One row a request for samples.jsonl, in the manifest's order."""
    return [
        {
            "sample": request.id,
            "document": request.document,
            "kind": request.kind,
            "mode": request.mode,
            "answering": request.answering,
            "input_sha256": request.input_sha256,
            "generated": [item.model_dump() for item in evidence.answers[request.id].items],
            "ended": evidence.answers[request.id].ended,
            "scores": scored.scores.get(request.id, {}),
            "flags": scored.flags.get(request.id, []),
        }
        for request in evidence.manifest.requests
    ]


def _score_captions(scored: Scored, evidence: Evidence) -> None:
    asked = evidence.asked("caption")
    if not asked:
        scored.metrics["cider"] = none_of("caption")
        return
    references = [one.loaded.document.fields["references"] for one in asked]
    _flag_texts(scored, asked)
    try:
        tokens = captions.penn_treebank_tokens([one.answer.text for one in asked] + [text for group in references for text in group])
    except MetricUnavailable as reason:
        scored.metrics["cider"] = Unavailable(unavailable=str(reason))
        return
    rest = iter(tokens[len(asked) :])
    values = captions.cider_d(tokens[: len(asked)], [[next(rest) for _ in group] for group in references])
    scored.metrics["cider"] = resampled(lambda rows: values[rows].mean(axis=-1), len(values), evidence.how)
    scored.score("cider", asked, values.tolist())
    for one, group in zip(asked[: EXAMPLES // 2], references, strict=False):
        rows = (
            Row(label="picture", cells=(cell(group[0], encode_png(one.loaded.pictures[0])),)),
            Row(label="vqa model", cells=(cell(one.answer.text or "–"),)),
        )
        scored.illustrations.append(Illustration(title="Caption", rows=rows))


def _answered(one: Asked, right: bool) -> Illustration:
    document = one.loaded.document
    pictures = iter(one.loaded.pictures)
    given: list[Cell] = []
    for item in document.items[: document.prompt_items - 1]:  # the last one is the question, which is the title
        if item.type == "image":
            given.append(cell("", encode_png(next(pictures))))
        else:
            given[-1:] = [cell(item.text, given[-1].png if given else None)]
    answer = cell(one.answer.text or "–", None, "right" if right else "wrong")
    rows = (Row(label="given", cells=tuple(given)), Row(label="vqa model", cells=(answer,)))
    return Illustration(title=document.fields["question"], rows=rows, note=f"truth: {document.fields['answer']}")


def _boxed(one: Asked, found: boxes.Box | None, true: boxes.Box, right: bool) -> Illustration:
    picture = one.loaded.pictures[0]
    outlined = [encode_png(outline(picture, box)) for box in (true, found)]
    cells = (cell("truth", outlined[0]), cell(one.answer.text or "–", outlined[1], "right" if right else "wrong"))
    return Illustration(title=str(one.loaded.document.fields["phrase"]), rows=(Row(label="grounding model", cells=cells),))


def outline(picture: np.ndarray, box: boxes.Box | None, scale: int = 4) -> np.ndarray:
    """The picture (uint8 [h, w, 3]) enlarged, with a white frame inside a box given in its pixels; None draws nothing."""
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    if box is not None:
        height, width = large.shape[:2]
        x0, x1 = sorted(round(float(np.clip(value * scale, 0, width))) for value in (box[0], box[2]))
        y0, y1 = sorted(round(float(np.clip(value * scale, 0, height))) for value in (box[1], box[3]))
        window, thick = large[y0:y1, x0:x1], scale // 2
        inside = window[thick:-thick, thick:-thick].copy()
        window[:] = 255
        window[thick:-thick, thick:-thick] = inside
    return large


def _size(loaded: LoadedDocument) -> tuple[int, int]:
    height, width = loaded.pictures[0].shape[:2]
    return width, height


def _flag_texts(scored: Scored, asked: Sequence[Asked]) -> None:
    for one in asked:
        if not one.answer.text.strip():
            scored.flags[one.request.id].append("empty")
        if not one.answer.ended:
            scored.flags[one.request.id].append("cut_off")
