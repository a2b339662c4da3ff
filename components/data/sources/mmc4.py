"""MMC4: sentences of web pages and the pictures matched to them by CLIP.

Form: https://github.com/allenai/mmc4 (README): `docs_shard_{N}_v2.jsonl.zip`, also `docs_no_face_shard_{N}_v3.jsonl.zip`, each with one
file of JSON lines: `text_list`, `image_info` (`image_name`, `raw_url`, `matched_text_index`, `matched_sim`, `face_detections`),
`similarity_matrix` [images, sentences], `url`, `could_have_url_duplicate`. The pictures are not part of it; the user fetches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from components.data.documents import CorpusError, DocumentError, Facts, ImageItem, TextItem, document_from
from components.data.sources.archives import zip_streams
from components.data.sources.files import json_lines, json_records, path_inside
from components.data.sources.image_store import ImageOptions, ImageStore
from components.data.sources.listing import shard_units
from components.data.sources.records import Record, accept_partly, documents_of
from components.data.sources.source import Accepted, Limits, Rejected, Unit, document_id, read_options
from components.data.sources.values import checked_text, facts_of, kind_of, list_of, number_of, optional_text
from components.params import CorpusParams

MAX_SHARD_BYTES = 4_000_000_000
"""Of the JSON lines in a zip; a published shard has some hundred megabytes. They are never in memory as a whole."""


class Options(ImageOptions):
    """Where shards and pictures lie."""

    shards: str = Field(
        "*.jsonl.zip,*.jsonl", description="which files are shards: patterns separated by commas, `*` stands for folders too"
    )


class Mmc4Source:
    """Format `mmc4`: kind `matched`, every picture right before its sentence, whatever its similarity."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        options = read_options(Options, corpus)
        self._units = shard_units(corpus, folder, [options.shards], {options.images})
        names = {unit.name for unit in self._units}
        if twice := sorted(name for name in names if f"{name}.zip" in names):
            raise CorpusError(f"corpus {corpus.name}: {twice[0]} lies there unzipped too; remove it or {twice[0]}.zip")
        self._store = ImageStore(folder, options, limits)

    def units(self) -> Sequence[Unit]:
        """A shard each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each line."""
        return documents_of(self._lines(unit.name), self._read)

    def _lines(self, name: str) -> Iterator[Record | Rejected]:
        if not name.endswith(".zip"):
            yield from json_records(self._folder, name)
            return
        try:
            path = path_inside(self._folder, name)
        except DocumentError as error:
            yield Rejected(name, str(error))
            return
        first = None
        for member in zip_streams(path, name, MAX_SHARD_BYTES):
            if isinstance(member, Rejected):
                yield member
            elif first is not None:
                yield Rejected(f"{name}:{member[0]}", f"a second file in a shard, which is {first} alone")
            else:
                first, file = member
                yield from json_lines(file, name)

    def _read(self, record: Record) -> Iterator[Accepted | Rejected]:
        where, values = record
        sentences = [checked_text(text, f"text_list[{number}]") for number, text in enumerate(list_of(values, "text_list"))]
        infos, matrix = list_of(values, "image_info"), values.get("similarity_matrix")
        if len(infos) > self._limits.images:
            raise DocumentError(f"{len(infos)} images are more than max_document_images ({self._limits.images})")
        at: dict[int, list[tuple[ImageItem, str, str]]] = {}
        for number, info in enumerate(infos):
            try:
                item, address, name = _image(number, info, len(sentences), matrix)
            except DocumentError as error:
                yield Rejected(f"{where}#{number}", str(error))
                continue
            at.setdefault(int(item.facts["sentence"]), []).append((item, address, name))
        items: list[ImageItem | TextItem] = []
        for number, text in enumerate(sentences):
            items += [item for item, _, _ in at.get(number, [])]
            items += [TextItem(text=text)] if text else []
        if not items:
            raise DocumentError("neither a sentence nor a usable picture")
        document = document_from(
            {
                "id": document_id(self._corpus.name, _key(where)),
                "source": self._corpus.name,
                "kind": "matched",
                "split": self._corpus.split,
                "licence": self._corpus.licence,
                "origin": "natural",
                "items": items,
                "facts": facts_of(
                    [("url", values.get("url")), ("url_duplicate", values.get("could_have_url_duplicate"))], ("url_duplicate",)
                ),
            }
        )
        files = (self._store.fetch(address, name) for number in sorted(at) for _, address, name in at[number])
        yield from accept_partly(document, files, self._limits, where)


def _image(number: int, info: Any, sentences: int, matrix: Any) -> tuple[ImageItem, str, str]:
    """The picture's item, the address it comes from and the name of its file."""
    if not isinstance(info, dict):
        raise DocumentError(f"image_info[{number}] must be an object, not {kind_of(info)}")
    sentence = info.get("matched_text_index")
    if isinstance(sentence, bool) or not isinstance(sentence, int):
        raise DocumentError(f"matched_text_index must be a whole number, not {kind_of(sentence)}")
    if not 0 <= sentence < sentences:
        raise DocumentError(f"matched_text_index is {str(sentence)[:20]}, but there are {sentences} sentences")
    similarity = number_of(info["matched_sim"], "matched_sim") if "matched_sim" in info else _entry(matrix, number, sentence)
    address, name = optional_text(info, "raw_url"), optional_text(info, "image_name")
    facts: Facts = facts_of([("similarity", similarity), ("sentence", sentence), ("url", address or None)])
    if isinstance(faces := info.get("face_detections"), list):
        facts["faces"] = len(faces)
    return ImageItem(id=str(number), path=str(number), facts=facts), address, name


def _entry(matrix: Any, image: int, sentence: int) -> float:
    try:
        return number_of(matrix[image][sentence], "similarity")
    except (TypeError, LookupError):
        raise DocumentError("neither matched_sim nor an entry of similarity_matrix says how similar it is to its sentence") from None


def _key(where: str) -> str:
    """`docs_shard_0_v2-12` of line 12, zipped or not."""
    name, _, line = where.rpartition(":")
    return f"{name.removesuffix('.zip').removesuffix('.jsonl')}-{line}"
