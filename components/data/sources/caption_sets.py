"""Captions in forms of their own: COCO in Karpathy's split, TextCaps, Image2Paragraph, Localized Narratives of COCO.

    coco_karpathy    annotations/coco_karpathy_{test,val}.json  [{"image": "val2014/COCO_val2014_x.jpg", "caption": [5 texts]}]
    textcaps         TextCaps_0.1_{train,val}.json  {"data": [{"image_id", "caption_str", "reference_strs"}]}, a record a caption,
                     train_images/{image_id}.jpg
    image2paragraph  annotations/paragraphs_v1.json  [{"url", "image_id", "paragraph"}] (or the release's paragraphs_coco.json,
                     {"annotations": [{"url", "image_id", "caption"}]}) and annotations/{test,val,train}_split.json  [image_id];
                     pictures images/ + the last two parts of the url
    lncoco           coco_val_localized_narratives.jsonl (or the release's coco_val_captions.jsonl), a line {"image_id", "caption"},
                     val2017/{image_id, 12 digits}.jpg

Sources: OpenGVLab/MM-Interleaved (mscoco_karpathy.py, image2paragraph.py, lncoco.py), salesforce/LAVIS (coco and textcaps datasets).
Counts: Karpathy and Fei-Fei 2015 (arXiv 1412.2306), Sidorov et al. 2020 (2003.12462), Krause et al. 2017 (1611.06607), Pont-Tuset et al.
2020 (1912.03098). The release draws LN-COCO's narratives to 30,000 with weight 1 / narratives of the picture: each is read once here, and
`fields.narratives_of_image` says how many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.documents import DocumentError
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, content_key, keyed, open_set
from components.data.sources.caption_lists import CaptionOptions, LowerCaptionOptions, captioned, drawn
from components.data.sources.hostile_values import identifier, record, text, whole
from components.data.sources.published import Phase, Published, found_form
from components.data.sources.source import Limits, Rejected, read_options
from components.data.sources.values import list_of
from components.params import CorpusParams

COCO_KARPATHY = Published(
    {phase: Phase((f"annotations/coco_karpathy_{phase}.json",), "", 5_000) for phase in ("test", "val")}, evaluation="test"
)
TEXTCAPS = Published(
    {phase: Phase((f"TextCaps_0.1_{phase}.json",), "train_images", count) for phase, count in (("train", 21_953), ("val", 3_166))},
    evaluation="val",
    train="train",
)


def _paragraphs(file: str) -> Published:
    counts = (("test", 2_489), ("val", 2_487), ("train", 14_575))
    phases = {phase: Phase((f"annotations/{file}", f"annotations/{phase}_split.json"), "images", count) for phase, count in counts}
    return Published(phases, evaluation="test")


def _narratives(file: str) -> Published:
    return Published({"val": Phase((file,), "val2017", 8_573)}, evaluation="val")


IMAGE2PARAGRAPH, IMAGE2PARAGRAPH_RELEASE = _paragraphs("paragraphs_v1.json"), _paragraphs("paragraphs_coco.json")
LNCOCO, LNCOCO_RELEASE = _narratives("coco_val_localized_narratives.jsonl"), _narratives("coco_val_captions.jsonl")


def coco_karpathy(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `coco_karpathy`."""
    options = read_options(LowerCaptionOptions, corpus)
    return open_set(corpus, folder, limits, COCO_KARPATHY, lambda _: Karpathy(options), options)


def textcaps(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `textcaps`: a document of each picture, with all its captions as references."""
    options = read_options(CaptionOptions, corpus)
    return open_set(corpus, folder, limits, TEXTCAPS, lambda _: TextCaps(options), options)


def image2paragraph(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `image2paragraph`."""
    options = read_options(CaptionOptions, corpus)
    published = found_form(corpus, folder, options, IMAGE2PARAGRAPH, IMAGE2PARAGRAPH_RELEASE)
    return open_set(corpus, folder, limits, published, lambda _: Paragraphs(options), options)


def lncoco(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `lncoco`."""
    options = read_options(CaptionOptions, corpus)
    published = found_form(corpus, folder, options, LNCOCO, LNCOCO_RELEASE)
    return open_set(corpus, folder, limits, published, lambda _: Narratives(options), options)


class Karpathy:
    """A Form: pictures with a list of captions, known by the picture's name."""

    def __init__(self, options: CaptionOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The pictures."""
        yield from keyed(shelf.elements(shelf.phase.files[0]), lambda one: text(record(one), "image"), mine)

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The picture with its captions."""
        stated = values if isinstance(values.get("caption"), list) else {"caption": [values.get("caption")]}
        captions = [text({"caption": caption}, "caption") for caption in list_of(stated, "caption")]
        if not captions:
            raise DocumentError("it has no caption")
        return captioned(shelf, shelf.picture(text(values, "image")), captions, self._options)


class TextCaps:
    """A Form: records of single captions, put together by picture."""

    def __init__(self, options: CaptionOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The pictures in the order of their first captions."""
        captions: dict[str, tuple[str, list[str]]] = {}
        for found in keyed(shelf.elements(shelf.phase.files[0], "data"), lambda one: identifier(record(one), "image_id"), mine):
            if isinstance(found, Rejected):
                yield found
                continue
            try:
                captions.setdefault(str(found.key), (found.where, []))[1].append(text(found.values, "caption_str"))
            except DocumentError as error:
                yield Keyed(found.where, found.key, error)
        for key, (where, own) in captions.items():
            if own:
                yield Keyed(where, key, (key, own))

    def draft(self, values: tuple[str, list[str]], shelf: Shelf) -> Draft:
        """The picture with its captions."""
        return captioned(shelf, shelf.picture(f"{values[0]}.jpg"), values[1], self._options)


class Paragraphs:
    """A Form: a file of paragraphs, and a list of the pictures of a split."""

    def __init__(self, options: CaptionOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The paragraphs of the split's pictures, then the pictures that have none."""
        file, split = shelf.phase.files
        wanted: dict[str, str] = {}
        for found in keyed(shelf.elements(split), lambda one: identifier({"image_id": one}, "image_id"), lambda _: True):
            if isinstance(found, Rejected):
                yield found
            else:
                wanted[str(found.key)] = found.where
        told: set[str] = set()
        path = ("annotations",) if file.endswith("paragraphs_coco.json") else ()
        for found in keyed(shelf.elements(file, *path), lambda one: identifier(record(one), "image_id"), mine):
            if isinstance(found, Rejected):
                yield found
            elif found.key in wanted:
                told.add(str(found.key))
                yield found
        for key, where in wanted.items():
            if key not in told and mine(key):
                yield Keyed(where, key, DocumentError(f"image_id {key} has no paragraph in {file}"))

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The picture with its paragraph."""
        paragraph = text(values, "paragraph" if "paragraph" in values else "caption")
        parts = [part for part in text(values, "url").split("/") if part][-2:]
        return captioned(shelf, shelf.picture("/".join(parts)), [paragraph], self._options, length="long")


class Narratives:
    """A Form: lines of narratives, each with its picture to generate."""

    def __init__(self, options: CaptionOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The narratives, which are known by picture and text."""
        counts: Counter[str] = Counter()
        for found in keyed(shelf.lines(shelf.phase.files[0]), _image_of_narrative, lambda _: True):
            counts.update([] if isinstance(found, Rejected) else [str(found.key)])
        for found in keyed(shelf.lines(shelf.phase.files[0]), _narrative_key, mine):
            yield found if isinstance(found, Rejected) else Keyed(found.where, found.key, _narrative(found.values, counts))

    def draft(self, values: dict[str, Any], shelf: Shelf) -> Draft:
        """The narrative with its picture."""
        name = f"{whole(values, 'image_id', 0, 10**12 - 1):012d}.jpg"
        draft = drawn(shelf.picture(name), text(values, "caption"), self._options)
        draft.fields |= {"image_id": values["image_id"], "narratives_of_image": values["count"]}
        return draft


def _narrative(values: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
    """What is used of a line; the traces of the published file are long."""
    image = identifier(values, "image_id")
    return {"image_id": image, "caption": values.get("caption"), "count": counts[image]}


def _image_of_narrative(values: Any) -> str:
    return identifier(record(values), "image_id")


def _narrative_key(values: Any) -> str:
    return content_key([_image_of_narrative(values), values.get("caption")])
