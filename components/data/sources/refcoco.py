"""Referring expressions: RefCOCO, RefCOCO+ and RefCOCOg in the release's form, a line an expression.

    {"image": "train2014/COCO_train2014_000000000009.jpg", "sent": "left guy", "bbox": [x0, y0, x1, y1], "category": "person"}

    refcoco   refcoco_{train,val,testA,testB}.jsonl
    refcoco+  refcoco+_{train,val,testA,testB}.jsonl
    refcocog  refcocog_{train,val,test}.jsonl  (UMD's split)

`bbox` holds two corners in pixels; `category` may be left out. Pictures lie below the corpus's folder. Repeated expressions are kept:
annotators repeat themselves.

The sets are published as `refs(unc).p` or `refs(umd).p` beside instances.json (lichengunc/refer). The first is a pickle, which can run any
code when it is opened, and is never opened here. docs/corpora.md has a script that writes these lines from both files, for a machine where
they may be trusted. Counts: Yu et al. 2016 (arXiv 1608.00272), Mao et al. 2016 (1511.02283) with UMD's split (Nagaraja et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.data import templates
from components.data.documents import CorpusError, DocumentError
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, open_set, unkeyed
from components.data.sources.hostile_values import numbers, record, stated, text
from components.data.sources.published import Phase, Published, SetOptions
from components.data.sources.source import Limits, Rejected, measure, read_options
from components.params import CorpusParams

_HUNDREDTH = 2


def _lines(name: str, counts: Mapping[str, int]) -> Published:
    return Published(
        {phase: Phase((f"{name}_{phase}.jsonl",), "", count) for phase, count in counts.items()}, evaluation="val", train="train"
    )


REFCOCO = _lines("refcoco", {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095})
REFCOCO_PLUS = _lines("refcoco+", {"train": 120_191, "val": 10_758, "testA": 5_726, "testB": 4_889})
REFCOCOG = _lines("refcocog", {"train": 80_512, "val": 4_896, "test": 9_602})


class RefOptions(SetOptions):
    """How expressions are put."""

    wording: Literal["paper", "release"] = Field("paper", description="the paper's prompt (appendix B.2) or the release's")


def refcoco(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `refcoco`."""
    return _open(REFCOCO)(corpus, folder, limits)


def refcoco_plus(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `refcoco+`."""
    return _open(REFCOCO_PLUS)(corpus, folder, limits)


def refcocog(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `refcocog`."""
    return _open(REFCOCOG)(corpus, folder, limits)


def _open(published: Published) -> Callable[[CorpusParams, Path, Limits], AnnotatedSource]:
    def opened(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
        options = read_options(RefOptions, corpus)
        try:
            return open_set(corpus, folder, limits, published, lambda _: Expressions(options), options)
        except CorpusError as error:
            if pickles := sorted(path.name for path in folder.glob("refs(*).p")):
                raise CorpusError(
                    f"corpus {corpus.name}: {pickles[0]} is a pickle, which can run any code when it is opened, and is not read; write "
                    f"{published.phases['train'].files[0]} from it where it may be trusted (docs/corpora.md has the script)"
                ) from None
            raise error

    return opened


class Expressions:
    """A Form: lines of expressions with their boxes."""

    def __init__(self, options: RefOptions) -> None:
        self._options = options

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All lines."""
        yield from unkeyed(shelf.lines(shelf.phase.files[0]), mine)

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The expression with its box, in pixels as a field and in thousandths as text."""
        values = record(values)
        phrase, corners = text(values, "sent"), numbers(values, "bbox", 4)
        box = [round(value, _HUNDREDTH) for value in corners]
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DocumentError(f"bbox {box} is empty: it is two corners [x0, y0, x1, y1], not a corner and a size")
        item, data = shelf.picture(text(values, "image"))
        width, height = measure(data, item.path, shelf.limits)
        if min(box) < 0 or box[2] > width or box[3] > height:
            raise DocumentError(f"bbox {box} reaches out of its {width}x{height} picture")
        items, given = templates.grounding(item, phrase, box, width, height, wording=self._options.wording)
        fields = {"phrase": phrase, "box": box} | stated(values, "category")
        return Draft("referring", items, given, [data], fields, sizes=[(width, height)])
