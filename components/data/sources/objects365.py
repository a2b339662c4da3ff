"""Objects365: photographs with boxes and without captions, which captioning is to make.

Form: the data set's `zhiyuan_objv2_train.json` (v1: `objects365_train.json`) in COCO's form, as read by mmdetection's Objects365V2Dataset
(https://github.com/open-mmlab/mmdetection): `images` (`id`, `file_name` as `images/v1/patch8/objects365_v1_00420917.jpg`, `width`,
`height`), `annotations` (`image_id`, `category_id`, `bbox` [x, y, width, height], `iscrowd`), `categories` (`id`, `name`), and folders
`patch0`, `patch1`, ... of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import Field

from components.data.documents import CorpusError, DocumentError, document_from
from components.data.pictures import PictureError
from components.data.sources.coco_boxes import BoxTable, box_table
from components.data.sources.files import MissingFileError, path_inside, read_image
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept, document_id, measure, read_options
from components.params import CorpusParams, Frozen

_ROUNDING = 1.0
"""Pixels by which a published box may reach out of its picture; it is cut there."""


class Options(Frozen):
    """Where annotations and pictures lie."""

    annotations: str = Field("", description="the JSON file; empty: the only one in the corpus folder or its folder `annotations`")
    images: str = Field("", description="folder of the pictures: `file_name`, its last two parts or its last one are looked for there")
    units: int = Field(64, ge=1, le=10_000, description="parts that the images are divided into")


class Objects365Source:
    """Format `objects365`: kind `caption` with a picture, no sentence, and `fields.objects`. Memory grows with the boxes (coco_boxes)."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._options = read_options(Options, corpus)
        self._annotations = self._options.annotations or _only(corpus, folder)
        if not (folder / self._annotations).is_file():
            raise CorpusError(f"corpus {corpus.name}: {folder / self._annotations} does not exist; set options.annotations")

    def units(self) -> Sequence[Unit]:
        """Every n-th image."""
        return [Unit(f"{self._annotations}-{number:04d}", (self._annotations,)) for number in range(self._options.units)]

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each image of the unit; what is wrong with the file itself stands in the first unit."""
        first = int(unit.name.rpartition("-")[2])
        try:
            table = box_table(path_inside(self._folder, self._annotations), self._annotations)
        except (DocumentError, OSError) as error:
            if first == 0:
                yield Rejected(self._annotations, str(error))
            return
        if first == 0:
            yield from table.problems
        for row in range(first, len(table), self._options.units):
            where = f"{self._annotations}:{table.image(row).id}"
            try:
                yield from self._document(table, row, where)
            except (DocumentError, PictureError) as error:
                yield Rejected(where, str(error), isinstance(error, MissingFileError))

    def _document(self, table: BoxTable, row: int, where: str) -> Iterator[Accepted | Rejected]:
        image = table.image(row)
        data = self._picture(image.file)
        width, height = size = measure(data, image.file, self._limits)
        if size != image.size:
            raise DocumentError(f"{image.file} is {width}x{height}, but its boxes are for {image.size[0]}x{image.size[1]}")
        objects = []
        for number, one in enumerate(table.boxes(row)):
            x0, y0, x1, y1 = one.box
            if min(x0, y0) < -_ROUNDING or x1 > width + _ROUNDING or y1 > height + _ROUNDING:
                yield Rejected(f"{where}#objects.{number}", f"box {list(one.box)} reaches out of its {width}x{height} picture")
                continue
            box = [max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)]
            objects.append({"name": one.name, "box": box} | ({"crowd": True} if one.crowd else {}))
        document = document_from(
            {
                "id": document_id(self._corpus.name, str(image.id)),
                "source": self._corpus.name,
                "kind": "caption",
                "split": self._corpus.split,
                "licence": self._corpus.licence,
                "origin": "natural",
                "items": [{"type": "image", "id": "0", "path": image.file, "facts": {"width": width, "height": height}}],
                "prompt_items": 1,
                "fields": {"references": [], "objects": objects},
            }
        )
        yield accept(document, [data], self._limits, [size])

    def _picture(self, name: str) -> bytes:
        """The file under its stated path, its patch folder or its own name alone."""
        parts = PurePosixPath(name).parts
        for path in dict.fromkeys((name, "/".join(parts[-2:]), parts[-1] if parts else name)):
            try:
                return read_image(self._folder / self._options.images, path, self._limits.image_pixels)
            except MissingFileError:
                continue
        raise MissingFileError(f"there is no picture {name}")


def _only(corpus: CorpusParams, folder: Path) -> str:
    found = sorted(path.relative_to(folder).as_posix() for place in (folder, folder / "annotations") for path in place.glob("*.json"))
    if len(found) != 1:
        what = f"{len(found)} JSON files: {', '.join(found[:5])}" if found else "no JSON file"
        raise CorpusError(f"corpus {corpus.name}: {folder} has {what}; name that of Objects365 by options.annotations")
    return found[0]
