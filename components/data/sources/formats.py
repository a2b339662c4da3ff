"""The formats by name. Each is imported when it is asked for: some need packages that others do not."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from components.data.documents import CorpusError
from components.data.sources.source import Limits, Source
from components.params import CorpusParams

FORMATS: dict[str, str] = {
    "ade20k": "components.data.sources.ade20k:ade20k",
    "captioned": "components.data.sources.captioned:CaptionedSource",
    "captions": "components.data.sources.captions:CaptionsSource",
    "chartqa": "components.data.sources.charts:chartqa",
    "coco30k": "components.data.sources.coco_format:coco30k",
    "coco_captions": "components.data.sources.coco_format:coco_captions",
    "coco_karpathy": "components.data.sources.caption_sets:coco_karpathy",
    "documents": "components.data.sources.folder:FolderSource",
    "docvqa": "components.data.sources.text_questions:docvqa",
    "dvqa": "components.data.sources.charts:dvqa",
    "estvqa": "components.data.sources.text_questions:estvqa",
    "flickr30k": "components.data.sources.coco_format:flickr30k",
    "flintstonessv": "components.data.sources.flintstonessv:flintstonessv",
    "git": "components.data.sources.git_repository:GitSource",
    "gqa": "components.data.sources.photo_questions:gqa",
    "html": "components.data.sources.saved_pages:HtmlSource",
    "image2paragraph": "components.data.sources.caption_sets:image2paragraph",
    "img2dataset": "components.data.sources.img2dataset:Img2datasetSource",
    "infovqa": "components.data.sources.text_questions:infovqa",
    "llava": "components.data.sources.llava:llava",
    "llavar": "components.data.sources.llava:llavar",
    "lncoco": "components.data.sources.caption_sets:lncoco",
    "mmc4": "components.data.sources.mmc4:Mmc4Source",
    "nocaps": "components.data.sources.coco_format:nocaps",
    "obelics": "components.data.sources.obelics:ObelicsSource",
    "objects365": "components.data.sources.objects365:Objects365Source",
    "ocrvqa": "components.data.sources.text_questions:ocrvqa",
    "okvqa": "components.data.sources.vqa_pairs:okvqa",
    "omnicorpus": "components.data.sources.omnicorpus:OmniCorpusSource",
    "pdf": "components.data.sources.pdf:PdfSource",
    "pororosv": "components.data.sources.pororosv:pororosv",
    "refcoco": "components.data.sources.refcoco:refcoco",
    "refcoco+": "components.data.sources.refcoco:refcoco_plus",
    "refcocog": "components.data.sources.refcoco:refcocog",
    "stvqa": "components.data.sources.text_questions:stvqa",
    "textcaps": "components.data.sources.caption_sets:textcaps",
    "texts": "components.data.sources.texts:TextsSource",
    "textvqa": "components.data.sources.text_questions:textvqa",
    "visdial": "components.data.sources.visdial:visdial",
    "vist": "components.data.sources.vist:vist",
    "vizwiz": "components.data.sources.photo_questions:vizwiz",
    "vqav2": "components.data.sources.vqa_pairs:vqav2",
    "warc": "components.data.sources.warc:WarcSource",
}
"""Format to `module:class`, or to a function that makes one; in alphabetical order."""


def reader_of(corpus: CorpusParams) -> str:
    """The `module:class` that reads the corpus. Raises CorpusError for an unknown format."""
    if corpus.format not in FORMATS:
        raise CorpusError(f"corpus {corpus.name}: there is no format {corpus.format!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[corpus.format]


def open_with(reader: str, corpus: CorpusParams, folder: Path, limits: Limits) -> Source:
    """The corpus whose files lie in `folder`, by a `module:class`. Raises CorpusError for a folder that is none of its kind."""
    module, _, name = reader.partition(":")
    source: Source = getattr(import_module(module), name)(corpus, folder, limits)
    return source


def open_source(corpus: CorpusParams, folder: Path, limits: Limits) -> Source:
    """The corpus whose files lie in `folder`. Raises CorpusError for an unknown format or a folder that is none of its kind."""
    return open_with(reader_of(corpus), corpus, folder, limits)
