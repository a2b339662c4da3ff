"""Captions in the COCO format: COCO itself, its first 30,000 to generate pictures from, NoCaps, Flickr30k.

    {"images": [{"id", "file_name", "license"}], "annotations": [{"id", "image_id", "caption"}], "licenses": [{"id", "name"}]}

    coco_captions  annotations/captions_{train,val}{2014,2017}.json, pictures {phase}{year}/
    coco30k        annotations/captions_val2014.json: its first 30,000 captions, each with its own picture
    nocaps         nocaps_val_4500_captions.json, images/  (the captions of its test set are not published)
    flickr30k      test1k.token.coco_format as the release names it, or dataset_flickr30k.json (Karpathy's splits:
                   {"images": [{"filename", "split", "sentences": [{"raw"}]}]}), pictures flickr30k-images/

Sources: cocodataset.org (format), OpenGVLab/MM-Interleaved (mscoco.py, caption_datasets.py, configs/release/mm_eval.yaml). Counts: Chen
et al. 2015 (arXiv 1504.00325), Agrawal et al. 2019 (1812.08658), Karpathy and Fei-Fei 2015 (1412.2306).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.data.documents import CorpusError, DocumentError
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, keyed, open_set
from components.data.sources.caption_lists import CaptionOptions, LowerCaptionOptions, captioned, drawn
from components.data.sources.hostile_values import identifier, record, text
from components.data.sources.published import Phase, Published, found_form
from components.data.sources.source import Limits, Rejected, read_options
from components.data.sources.values import list_of
from components.params import CorpusParams

COCO_30K = 30_000
COCO_CAPTIONS = Published(
    {
        f"{phase}{year}": Phase((f"annotations/captions_{phase}{year}.json",), f"{phase}{year}", count)
        for phase, year, count in (("train", 2014, 82_783), ("val", 2014, 40_504), ("train", 2017, 118_287), ("val", 2017, 5_000))
    },
    evaluation="val2014",
    train="train2014",
)
COCO30K = Published({"val2014": Phase(("annotations/captions_val2014.json",), "val2014", COCO_30K)}, evaluation="val2014")
NOCAPS = Published({"val": Phase(("nocaps_val_4500_captions.json",), "images", 4_500)}, evaluation="val")
FLICKR30K = Published({"test": Phase(("test1k.token.coco_format",), "flickr30k-images", 1_000)}, evaluation="test")
FLICKR30K_SPLITS = Published(
    {
        phase: Phase(("dataset_flickr30k.json",), "flickr30k-images", count)
        for phase, count in (("test", 1_000), ("val", 1_014), ("train", 29_000))
    },
    evaluation="test",
)


class CocoOptions(LowerCaptionOptions):
    """Options of `coco_captions`."""

    captions: Literal["first", "each"] = Field(
        "first", description="a document of the first caption of each picture, as the release trains; or one of each caption"
    )


def coco_captions(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `coco_captions`."""
    options = read_options(CocoOptions, corpus)
    if options.captions == "each" and corpus.split == "evaluation":
        raise CorpusError(f"corpus {corpus.name}: options.captions `each` is to train on; at evaluation a picture has all its captions")
    return open_set(corpus, folder, limits, COCO_CAPTIONS, lambda _: CocoFormat(options, options.captions == "each"), options)


def coco30k(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `coco30k`."""
    options = read_options(LowerCaptionOptions, corpus)
    return open_set(corpus, folder, limits, COCO30K, lambda _: CocoPictures(options), options)


def nocaps(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `nocaps`."""
    options = read_options(CaptionOptions, corpus)
    return open_set(corpus, folder, limits, NOCAPS, lambda _: CocoFormat(options), options)


def flickr30k(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `flickr30k`: the release's file, or Karpathy's where only that is there."""
    options = read_options(CaptionOptions, corpus)
    if found_form(corpus, folder, options, FLICKR30K, FLICKR30K_SPLITS) is FLICKR30K_SPLITS:
        return open_set(corpus, folder, limits, FLICKR30K_SPLITS, lambda _: KarpathySplits(options), options)
    return open_set(corpus, folder, limits, FLICKR30K, lambda _: CocoFormat(options), options)


@dataclass(slots=True)
class _Picture:
    """A picture of the file and the captions (id, text) found for it."""

    where: str
    name: str
    licence: str | None
    captions: list[tuple[str, str]] = field(default_factory=list)


class CocoFormat:
    """A Form: a document of each picture with its captions, or of `each` caption."""

    def __init__(self, options: CaptionOptions, each: bool = False) -> None:
        self._options, self._each = options, each

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The pictures in the order of the file; before them the captions that belong to none."""
        file = shelf.phase.files[0]
        pictures: dict[str, _Picture] = {}
        yield from _read_pictures(shelf, file, mine, pictures)
        ids: set[str] = set()
        for found in keyed(shelf.elements(file, "annotations"), _image_id, lambda _: True):
            if isinstance(found, Rejected):
                yield found
                continue
            image = str(found.key)
            try:
                own = identifier(found.values, "id")
                if own in ids:
                    raise DocumentError(f"annotation id {own} was used before")
                ids.add(own)
                if not mine(image):
                    continue
                if image not in pictures:
                    raise DocumentError(f"it captions image_id {image}, which is not in the file")
                pictures[image].captions.append((own, text(found.values, "caption")))
            except DocumentError as error:
                if mine(image):
                    yield Keyed(found.where, image, error)
        for image, picture in pictures.items():
            if not picture.captions:
                yield Keyed(picture.where, image, DocumentError(f"image id {image} has no caption"))
            elif self._each:
                for own, caption in picture.captions:
                    yield Keyed(picture.where, f"{image}-{own}", (picture, [caption]))
            else:
                yield Keyed(picture.where, image, (picture, [caption for _, caption in picture.captions]))

    def draft(self, values: tuple[_Picture, list[str]], shelf: Shelf) -> Draft:
        """The picture with its captions."""
        picture, captions = values
        return captioned(shelf, shelf.picture(picture.name), captions, self._options, licence=picture.licence)


class CocoPictures:
    """A Form: the first `most` captions, each with its picture to generate."""

    def __init__(self, options: CaptionOptions, most: int = COCO_30K) -> None:
        self._options, self._most = options, most

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The captions in the order of the file."""
        file = shelf.phase.files[0]
        pictures: dict[str, _Picture] = {}
        for problem in _read_pictures(shelf, file, lambda _: True, pictures):
            if isinstance(problem, Rejected) or mine(str(problem.key)):
                yield problem
        for number, found in enumerate(
            keyed(shelf.elements(file, "annotations"), lambda one: identifier(record(one), "id"), lambda _: True)
        ):
            if number >= self._most:
                return
            if isinstance(found, Rejected):
                yield found
            elif mine(str(found.key)):
                yield Keyed(found.where, found.key, (pictures, found.values))

    def draft(self, values: tuple[dict[str, _Picture], Any], shelf: Shelf) -> Draft:
        """The caption with its picture."""
        pictures, annotation = values[0], record(values[1])
        image = identifier(annotation, "image_id")
        if image not in pictures:
            raise DocumentError(f"it captions image_id {image}, which is not in the file")
        picture = pictures[image]
        draft = drawn(shelf.picture(picture.name), text(annotation, "caption"), self._options, licence=picture.licence)
        draft.fields["image_id"] = image
        return draft


class KarpathySplits:
    """A Form: Karpathy's file of all splits, of which one is read."""

    def __init__(self, options: CaptionOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The pictures of the split."""
        for found in keyed(shelf.elements(shelf.phase.files[0], "images"), lambda one: text(record(one), "filename"), mine):
            if isinstance(found, Rejected) or found.values.get("split") == shelf.name:
                yield found
            elif found.values.get("split") not in tuple(FLICKR30K_SPLITS.phases):
                yield Keyed(found.where, found.key, DocumentError("its split is none of train, val and test"))

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The picture with its sentences."""
        captions = [text(record(sentence, "a sentence"), "raw") for sentence in list_of(values, "sentences")]
        if not captions:
            raise DocumentError("it has no sentence")
        return captioned(shelf, shelf.picture(text(values, "filename")), captions, self._options)


def _read_pictures(shelf: Shelf, file: str, mine: Mine, pictures: dict[str, _Picture]) -> Iterator[Keyed | Rejected]:
    """Fill `pictures` by id; yields those that are unusable."""
    licences = _licences(shelf, file)
    for found in keyed(shelf.elements(file, "images"), lambda one: identifier(record(one), "id"), mine):
        if isinstance(found, Rejected):
            yield found
            continue
        key = str(found.key)
        if key in pictures:
            yield Keyed(found.where, key, DocumentError(f"image id {key} was used before"))
            continue
        try:
            pictures[key] = _Picture(found.where, text(found.values, "file_name"), _licence(found.values, licences))
        except DocumentError as error:
            yield Keyed(found.where, key, error)


def _licences(shelf: Shelf, file: str) -> dict[str, str]:
    """Names by id; a file may leave them out."""
    names = {}
    for found in shelf.elements(file, "licenses"):
        if not isinstance(found, Rejected) and isinstance(found.value, dict):
            with suppress(DocumentError):
                names[identifier(found.value, "id")] = text(found.value, "name")
    return names


def _licence(values: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    try:
        return names.get(identifier(values, "license"))
    except DocumentError:
        return None


def _image_id(values: Any) -> str:
    return identifier(record(values), "image_id")
