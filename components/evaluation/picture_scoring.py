"""From generated pictures to numbers: segmentation maps painted, stories illustrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from components.data.documents import LoadedDocument
from components.data.pictures import encode_png
from components.data.sources.digits import drawn
from components.data.sources.ink import labels_from_map, labels_from_picture
from components.evaluation.answer_log import TextAnswer, read_picture
from components.evaluation.estimates import Unavailable
from components.evaluation.illustration import Cell, Illustration, Row, Verdict, cell
from components.evaluation.metrics import interleaving
from components.evaluation.metrics.segmentation import areas
from components.evaluation.scoring import EXAMPLES, Asked, Evidence, Scored, none_of
from components.evaluation.statistics import clustered_mean, proportion, resampled

if TYPE_CHECKING:
    from components.evaluation.judge import Judge

CLASSES = 11
"""The ground and ten digits."""
_FOREIGN = Unavailable(unavailable="pictures are judged by what the built-in corpus draws; documents of another source have no judge")


def score_segmentation(evidence: Evidence) -> Scored:
    """Labels read back from the generated pictures against the map they were generated from."""
    scored = Scored()
    asked = evidence.asked("segmentation")
    if not asked or not _drawn_by_us(asked):
        reason = _FOREIGN if asked else none_of("segmentation")
        scored.metrics |= {"miou": reason, "digit_miou": reason}
        return scored
    generated = [_first_picture(evidence, one) for one in asked]
    truth = np.stack([labels_from_map(one.loaded.pictures[0]) for one in asked])
    ours = areas(np.stack([labels_from_picture(_sized(picture, truth.shape[1:])) for picture in generated]), truth, CLASSES)
    true = areas(np.stack([labels_from_picture(one.loaded.pictures[1]) for one in asked]), truth, CLASSES)
    scored.metrics["miou"] = resampled(ours.miou, len(asked), evidence.how, ceiling=float(true.miou()))
    digits, true_digits = ours.without(0), true.without(0)
    scored.metrics["digit_miou"] = resampled(digits.miou, len(asked), evidence.how, ceiling=float(true_digits.miou()))
    scored.score("miou", asked, ours.miou(np.arange(len(asked))[:, None]).tolist())
    for one, picture in zip(asked[:EXAMPLES], generated, strict=False):
        cells = (
            cell("map", encode_png(one.loaded.pictures[0])),
            cell("truth", encode_png(one.loaded.pictures[1])),
            cell("model", encode_png(picture)),
        )
        scored.illustrations.append(Illustration(title=one.loaded.document.texts[0], rows=(Row(label="segmentation model", cells=cells),)))
    return scored


def score_story(evidence: Evidence, judge: Callable[[], Judge]) -> Scored:
    """Frames generated from the true story so far, and whole stories that the model told by itself; `judge` is called only when needed."""
    scored = Scored()
    told = evidence.asked("story", "document")
    _score_interleaving(scored, evidence, told)
    frames = evidence.asked("story", "picture", "task")
    names = ("picture_accuracy", "digit_accuracy", "zero_shot_picture_accuracy", "zero_shot_digit_accuracy", "text_picture_agreement")
    if not frames or not _drawn_by_us(frames):
        scored.metrics |= dict.fromkeys(names, _FOREIGN if frames else none_of("story"))
        return scored
    trained = judge()
    zero_shot = evidence.asked("story", "picture", "pretrain")
    verdicts = _score_frames(scored, evidence, trained, frames, "")
    verdicts |= _score_frames(scored, evidence, trained, zero_shot, "zero_shot_")
    verdicts |= _score_agreement(scored, evidence, trained, told)
    scored.illustrations = [_story(evidence, one, verdicts) for one in told[:EXAMPLES]]
    return scored


Verdicts = dict[tuple[str, int], Verdict]


def _score_interleaving(scored: Scored, evidence: Evidence, told: Sequence[Asked]) -> None:
    if not told:
        scored.metrics |= {"placement_accuracy": none_of("story"), "stop_accuracy": none_of("story")}
        return
    steps: list[bool] = []
    stories: list[str] = []
    stopped = []
    for one in told:
        generated = [item.type for item in one.answer.items]
        reference = [item.type for item in one.loaded.document.items[one.request.items :]]
        agree = interleaving.places_agree(generated, reference)
        steps += agree
        stories += [one.request.document] * len(agree)
        stopped.append(interleaving.stops_agree(generated, reference, one.answer.ended))
        scored.score("placement_accuracy", [one], [sum(agree) / len(agree)])
    scored.metrics["placement_accuracy"] = clustered_mean(steps, stories, evidence.how)
    scored.metrics["stop_accuracy"] = proportion(stopped, evidence.how)
    scored.score("stop_accuracy", told, stopped)


def _score_frames(scored: Scored, evidence: Evidence, judge: Judge, asked: Sequence[Asked], prefix: str) -> Verdicts:
    stated = [_stated(one.loaded, _picture_number(one)) for one in asked]
    found = judge.recognises([_first_picture(evidence, one) for one in asked], stated)
    true = judge.recognises([one.loaded.pictures[_picture_number(one)] for one in asked], stated)
    right, ceiling = [all(frame) for frame in found], [all(frame) for frame in true]
    stories = [one.request.document for one in asked]
    of_digits = [story for story, frame in zip(stories, found, strict=True) for _ in frame]
    scored.metrics[f"{prefix}picture_accuracy"] = clustered_mean(
        right, stories, evidence.how, chance=sum(0.1 ** len(digits) for digits in stated) / len(stated), ceiling=sum(ceiling) / len(ceiling)
    )
    scored.metrics[f"{prefix}digit_accuracy"] = clustered_mean(
        [digit for frame in found for digit in frame], of_digits, evidence.how, chance=0.1, ceiling=sum(map(sum, true)) / len(of_digits)
    )
    scored.score(f"{prefix}picture_accuracy", asked, right)
    scored.score(f"{prefix}digit_accuracy", asked, [sum(frame) / len(frame) for frame in found])
    return {(one.request.id, 0): "right" if ok else "wrong" for one, ok in zip(asked, right, strict=True)}


def _score_agreement(scored: Scored, evidence: Evidence, judge: Judge, told: Sequence[Asked]) -> Verdicts:
    """Whether each picture of a told story shows what the text before it says; pictures whose text says nothing of a digit are left out."""
    claims: list[tuple[Asked, int, dict[str, int]]] = []
    for one in told:
        story: list[tuple[interleaving.ItemType, str]] = [("text", _given(one))]
        story += [(item.type, item.text if isinstance(item, TextAnswer) else "") for item in one.answer.items]
        texts = interleaving.texts_before_pictures(story)
        claims += [(one, number, digits) for number, text in enumerate(texts) if (digits := interleaving.stated_digits(text))]
    if not claims:
        scored.metrics["text_picture_agreement"] = Unavailable(
            unavailable="the model put no picture after a sentence that says which digit is where"
        )
        return {}
    pictures = [read_picture(evidence.folder, one.answer.pictures[number]) for one, number, _ in claims]
    agree = [all(digits) for digits in judge.recognises(pictures, [digits for _, _, digits in claims])]
    scored.metrics["text_picture_agreement"] = clustered_mean(agree, [one.request.document for one, _, _ in claims], evidence.how)
    for one in told:
        values = [ok for (claimed, _, _), ok in zip(claims, agree, strict=True) if claimed is one]
        if values:
            scored.score("text_picture_agreement", [one], [sum(values) / len(values)])
    return {(one.request.id, number): "right" if ok else "wrong" for (one, number, _), ok in zip(claims, agree, strict=True)}


def _story(evidence: Evidence, told: Asked, verdicts: Verdicts) -> Illustration:
    """The truth, the frames generated after the true text by both models, and the story as the model told it."""
    document = told.loaded.document
    texts = [item.text for item in document.items if item.type == "text"]
    truth = tuple(cell(text, encode_png(picture)) for text, picture in zip(texts, told.loaded.pictures, strict=False))
    rows = [Row(label="truth", cells=truth)]
    for label, answering in (("story model, true texts", "task"), ("before fine-tuning", "pretrain")):
        frames = [one for one in evidence.asked("story", "picture", answering) if one.request.document == document.id]
        cells = [
            cell(f"picture {_picture_number(one) + 1}", encode_png(_first_picture(evidence, one)), verdicts.get((one.request.id, 0)))
            for one in frames
        ]
        rows.append(Row(label=label, cells=tuple(cells)))
    if told.answer.items:
        rows.append(Row(label="story model on its own", cells=tuple(_told_cells(evidence, told, verdicts))))
    return Illustration(title=texts[0], rows=tuple(rows))


def _told_cells(evidence: Evidence, told: Asked, verdicts: Verdicts) -> list[Cell]:
    cells, since, number = [], "", 0
    for item in told.answer.items:
        if isinstance(item, TextAnswer):
            since += item.text
        else:
            cells.append(cell(since, encode_png(read_picture(evidence.folder, item)), verdicts.get((told.request.id, number))))
            since, number = "", number + 1
    return [*cells, cell(since)] if since else cells


def _given(one: Asked) -> str:
    """The given text after the last given picture: what is said of the first picture the model puts."""
    after = takewhile(lambda item: item.type == "text", reversed(one.loaded.document.items[: one.request.items]))
    return " ".join(reversed([item.text for item in after if item.type == "text"]))


def _first_picture(evidence: Evidence, one: Asked) -> np.ndarray:
    return read_picture(evidence.folder, one.answer.pictures[0])


def _picture_number(one: Asked) -> int:
    return sum(item.type == "image" for item in one.loaded.document.items[: one.request.items])


def _stated(loaded: LoadedDocument, number: int) -> dict[str, int]:
    return {figure["place"]: figure["digit"] for figure in drawn(loaded.document)[number]}


def _drawn_by_us(asked: Sequence[Asked]) -> bool:
    return all("scenes" in one.loaded.document.fields for one in asked)


def _sized(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resized to (height, width) where it differs."""
    if picture.shape[:2] == shape:
        return picture
    return np.asarray(Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
