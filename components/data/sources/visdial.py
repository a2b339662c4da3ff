"""Visual dialogue: VisDial 1.0 with its dense annotations, as published. For evaluation only.

    visdial_1.0_val.json                    {"data": {"questions": [text], "answers": [text], "dialogs": [{"image_id", "caption",
                                            "dialog": [{"question", "answer", "answer_options": [100 numbers], "gt_index"}] x 10}]}}
    visdial_1.0_val_dense_annotations.json  [{"image_id", "round_id" (from 1), "gt_relevance": [100 numbers]}]
    VisualDialog_val2018/VisualDialog_val2018_{image_id, 12 digits}.jpg

Questions, answers and options are numbers into the two lists. A dialogue is asked at the round that is densely annotated, with all rounds
before it; NDCG ranks its options by `fields.relevance`. Sources: visualdialog.org (data page), OpenGVLab/MM-Interleaved
(visdial_dense.py). Count: Das et al. 2017 (arXiv 1611.08669), version 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.data import templates
from components.data.documents import DocumentError
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, keyed, open_set
from components.data.sources.hostile_values import identifier, numbers, record, text, whole
from components.data.sources.published import Phase, Published, SetOptions
from components.data.sources.source import Limits, Rejected, read_options
from components.data.sources.values import list_of
from components.params import CorpusParams

VISDIAL = Published(
    {"val": Phase(("visdial_1.0_val.json", "visdial_1.0_val_dense_annotations.json"), "VisualDialog_val2018", 2_064)}, evaluation="val"
)


class VisdialOptions(SetOptions):
    """How dialogues are put."""

    wording: Literal["paper", "release"] = Field("paper", description="without a period after the caption (Table 17), or with it")


def visdial(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `visdial`."""
    options = read_options(VisdialOptions, corpus)
    return open_set(corpus, folder, limits, VISDIAL, lambda _: VisDial(options), options)


@dataclass(frozen=True)
class _Dense:
    """The annotation of a round, and the texts that all rounds number."""

    values: Any
    questions: list[Any]
    answers: list[Any]


class VisDial:
    """A Form: dialogues joined with their dense annotations."""

    def __init__(self, options: VisdialOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The dialogues; before them what is wrong with the lists, after them the annotations that belong to none."""
        dialogues_file, dense_file = shelf.phase.files
        lists: dict[str, list[Any]] = {"questions": [], "answers": []}
        for name, texts in lists.items():
            for element in shelf.elements(dialogues_file, "data", name):
                texts.append(None if isinstance(element, Rejected) else element.value)
                if isinstance(element, Rejected):
                    yield element
        dense: dict[str, Keyed] = {}
        for found in keyed(shelf.elements(dense_file), _image_id, mine):
            if isinstance(found, Rejected):
                yield found
            elif str(found.key) in dense:
                yield Keyed(found.where, found.key, DocumentError(f"image_id {found.key} was annotated before"))
            else:
                dense[str(found.key)] = found
        met: set[str] = set()
        for found in keyed(shelf.elements(dialogues_file, "data", "dialogs"), _image_id, mine):
            if isinstance(found, Rejected):
                yield found
                continue
            met.add(key := str(found.key))
            if key in dense:
                yield Keyed(found.where, key, (found.values, _Dense(dense[key].values, lists["questions"], lists["answers"])))
            else:
                yield Keyed(found.where, key, DocumentError(f"image_id {key} has no annotation in {dense_file}"))
        for key, found in dense.items():
            if key not in met:
                yield Keyed(found.where, key, DocumentError(f"it annotates image_id {key}, which is not in {dialogues_file}"))

    def draft(self, values: tuple[Any, _Dense], shelf: Shelf) -> Draft:
        """The dialogue up to the annotated round. Fields: `question`, `answer`, `options`, `relevance`, `answer_option`."""
        dialogue, dense = values
        rounds = [record(one, "a round") for one in list_of(dialogue, "dialog")]
        annotated = record(dense.values)
        asked = whole(annotated, "round_id", 1, len(rounds)) - 1
        told = [(_numbered(one, "question", dense.questions), _numbered(one, "answer", dense.answers)) for one in rounds[: asked + 1]]
        numbered = list_of(rounds[asked], "answer_options")
        options = [_numbered({"answer_options": number}, "answer_options", dense.answers) for number in numbered]
        relevance = numbers(annotated, _relevance(annotated), len(options))
        if not options or not all(0 <= value <= 1 for value in relevance):
            raise DocumentError("gt_relevance has values outside of 0 to 1" if options else "the round has no answer_options")
        fields = {
            "question": told[-1][0],
            "answer": told[-1][1],
            "answer_option": whole(rounds[asked], "gt_index", 0, len(options) - 1),
            "options": options,
            "relevance": relevance,
            "round": asked + 1,
        }
        image = whole(dialogue, "image_id", 0, 10**12 - 1)
        item, data = shelf.picture(f"VisualDialog_{shelf.name}2018_{image:012d}.jpg")
        items, given = templates.visual_dialog(item, text(dialogue, "caption"), told[:-1], *told[-1], wording=self._options.wording)
        return Draft("dialogue", items, given, [data], fields)


def _image_id(values: Any) -> str:
    return identifier(record(values), "image_id")


def _relevance(annotated: Any) -> str:
    return "gt_relevance" if "gt_relevance" in annotated else "relevance"


def _numbered(values: Any, key: str, texts: list[Any]) -> str:
    return text({key: texts[whole(values, key, 0, len(texts) - 1)]}, key)
