"""Image-text pairs as img2dataset saves them: LAION-2B-en, LAION-COCO, CC-12M and any other list of addresses.

Form: https://github.com/rom1504/img2dataset (README; img2dataset/writer.py): SHARD.tar with KEY.jpg (or .png, .webp), KEY.txt and KEY.json
for each download that succeeded (`output_format=webdataset`), or a folder SHARD with the same as files (`files`); beside it SHARD.parquet
with the JSON's fields for every address, failed ones too: `url`, `caption`, `key`, `status`, `error_message`, `width`, `height`,
`original_width`, `original_height`, `exif`, `sha256` or `md5` of the bytes as they were fetched, and the columns that the user had saved:
`similarity`, `punsafe`, `pwatermark`, `aesthetic`, `NSFW`, `LICENSE` of LAION, `top_caption` and `all_captions` of LAION-COCO.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from components.data.documents import DocumentError, Facts, TextItem, document_from, parse_object
from components.data.pictures import PictureError
from components.data.sources.files import MissingFileError, max_image_bytes, path_inside, read_image, read_inside
from components.data.sources.listing import shard_names
from components.data.sources.parquet import parquet_records
from components.data.sources.records import Record, documents_of
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept, document_id, read_options
from components.data.sources.tar_samples import Sample, tar_samples
from components.data.sources.values import checked_text, facts_of, first_of, kind_of, optional_text
from components.params import CorpusParams, Frozen

_PICTURES = ("jpg", "jpeg", "png", "webp")
_WANTED = (*_PICTURES, "txt", "json")


class Options(Frozen):
    """What the columns are called. Of names separated by commas the first that is there and not null counts."""

    caption: str = Field("caption", description="column of the caption, KEY.txt where it is absent; empty: captions are still to be made")
    references: str = Field("", description="column with a list of all captions of the picture, as LAION-COCO's all_captions")
    caption_model: str = Field("", description="what wrote the captions; empty: people did, on the web")
    similarity: str = Field("similarity", description="column of the CLIP similarity")
    aesthetic: str = Field("aesthetic,AESTHETIC_SCORE", description="column of the aesthetic score")
    nsfw: str = Field("punsafe,NSFW", description="column of the probability or the word for what is not safe for work")
    watermark: str = Field("pwatermark", description="column of the probability of a watermark")
    language: str = Field("LANGUAGE", description="column of the caption's language")
    licence: str = Field("LICENSE", description="column of the picture's licence; `?` and empty are no answer")
    shards: str = Field("*.tar,*.parquet", description="which files are shards: patterns separated by commas, `*` stands for folders too")


class Img2datasetSource:
    """Format `img2dataset`: kind `caption`. A shard is read from its tar, or without one from its parquet file and its folder."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._options = read_options(Options, corpus)
        names = shard_names(corpus, folder, [self._options.shards])
        stems = dict.fromkeys(name.rpartition(".")[0] for name in names)
        there = set(names)
        self._units = [Unit(stem, tuple(file for file in (f"{stem}.tar", f"{stem}.parquet") if file in there)) for stem in stems]

    def units(self) -> Sequence[Unit]:
        """A shard each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """A document for each download; each that failed is rejected as missing."""
        tar = next((file for file in unit.files if file.endswith(".tar")), None)
        table = next((file for file in unit.files if file.endswith(".parquet")), None)
        keys: set[str] = set()
        if tar is not None:
            yield from self._from_tar(tar, unit.name, keys)
        if table is not None:
            rows = parquet_records(self._folder, table, _FEW if tar else self._columns(), ("key", "status"))
            read = partial(self._absent, table, keys) if tar else partial(self._from_row, table, unit.name, keys)
            yield from documents_of(rows, read)

    def _from_tar(self, tar: str, shard: str, keys: set[str]) -> Iterator[Accepted | Rejected]:
        """Its documents; `keys` becomes the keys of all samples that were met, also of those that cannot be used."""
        try:
            path = path_inside(self._folder, tar)
        except DocumentError as error:
            yield Rejected(tar, str(error))
            return
        for sample in tar_samples(path, tar, _WANTED, max_image_bytes(self._limits.image_pixels)):
            if isinstance(sample, Rejected):
                keys.add(sample.where[len(tar) + 1 :].rpartition("/")[2].partition(".")[0])
                yield sample
                continue
            keys.add(sample.key.rpartition("/")[2])
            try:
                yield self._from_sample(sample, shard)
            except (DocumentError, PictureError) as error:
                yield Rejected(f"{tar}:{sample.key}", str(error), isinstance(error, MissingFileError))

    def _from_sample(self, sample: Sample, shard: str) -> Accepted:
        pictures = [ending for ending in _PICTURES if ending in sample.parts]
        if sample.last and "json" not in sample.parts:
            raise DocumentError("the tar breaks off inside of this sample")
        if len(pictures) != 1:
            has = ", ".join([*sample.parts, *sample.others])
            raise DocumentError(f"{'two pictures' if pictures else 'no picture'} in the sample, which has {has}")
        values = parse_object(sample.parts["json"]) if "json" in sample.parts else {}
        if "txt" in sample.parts:
            values = values | {"txt": _decoded(sample.parts["txt"])}
        _check_status(values)
        return self._accept(f"{shard}-{sample.key}", f"{sample.key}.{pictures[0]}", values, sample.parts[pictures[0]])

    def _columns(self) -> list[str]:
        options = self._options
        named = ",".join(getattr(options, name) for name in ("caption", "references", *_FACT_OPTIONS, "nsfw", "language", "licence"))
        return list(dict.fromkeys([*_ALWAYS, *(name for name in named.split(",") if name)]))

    def _absent(self, table: str, keys: Set[str], row: Record) -> Iterator[Rejected]:
        """Why an address of the parquet file is not among the `keys` of the tar, nothing where it is."""
        if (key := _key(row[1])) in keys:
            return
        try:
            _check_status(row[1])
        except DocumentError as error:
            yield Rejected(f"{table}:{key}", str(error), isinstance(error, MissingFileError))
            return
        yield Rejected(f"{table}:{key}", "downloaded, as it says, but not in the tar", missing=True)

    def _from_row(self, table: str, shard: str, keys: set[str], row: Record) -> Iterator[Accepted | Rejected]:
        """The document of an address in the parquet file, its picture from the shard's folder; `keys` were met before."""
        key, values = _key(row[1]), row[1]
        try:
            if key in keys:
                raise DocumentError("this key was used before in the file")
            keys.add(key)
            _check_status(values)
            ending = next((ending for ending in _PICTURES if (self._folder / shard / f"{key}.{ending}").is_file()), "jpg")
            name = f"{shard}/{key}.{ending}"
            if first_of(values, self._options.caption) is None and self._options.caption == "caption":
                values = values | {"txt": _decoded(read_inside(self._folder, f"{shard}/{key}.txt", self._limits.text_bytes))}
            yield self._accept(f"{shard}-{key}", name, values, read_image(self._folder, name, self._limits.image_pixels))
        except (DocumentError, PictureError) as error:
            yield Rejected(f"{table}:{key}", str(error), isinstance(error, MissingFileError))

    def _accept(self, key: str, path: str, values: Mapping[str, Any], image: bytes) -> Accepted:
        options = self._options
        caption, references = self._captions(values)
        licence = str(facts_of([("licence", first_of(values, options.licence))]).get("licence", ""))
        document = document_from(
            {
                "id": document_id(self._corpus.name, key),
                "source": self._corpus.name,
                "kind": "caption",
                "split": self._corpus.split,
                "licence": licence if licence.strip("? ") else self._corpus.licence,
                "origin": "automated" if options.caption_model else "natural",
                "items": [
                    {"type": "image", "id": "0", "path": path, "facts": self._facts(values)},
                    *([TextItem(text=caption)] if caption else []),
                ],
                "prompt_items": 1,
                "fields": {"references": references},
                "facts": facts_of([("language", first_of(values, options.language))]),
            }
        )
        return accept(document, [image], self._limits)

    def _captions(self, values: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The caption and all references; none where they are still to be made."""
        options = self._options
        if not options.caption:
            return "", []
        stated = first_of(values, options.caption)
        if stated is None:
            stated = values.get("txt") if options.caption == "caption" else None
        captions = _texts(stated, options.caption)
        if not captions:
            raise DocumentError(f"no {options.caption}")
        others = _texts(first_of(values, options.references), options.references) if options.references else captions
        for text in others:
            if len(text.encode()) > self._limits.text_bytes:
                raise DocumentError(f"a text of {len(text.encode())} bytes is longer than max_text_bytes ({self._limits.text_bytes})")
        return captions[0], others or captions

    def _facts(self, values: Mapping[str, Any]) -> Facts:
        options = self._options
        nsfw = first_of(values, options.nsfw)
        stated = [(name, values.get(name)) for name in ("url", "width", "height", "original_width", "original_height")]
        stated += [(name, first_of(values, getattr(options, name))) for name in _FACT_OPTIONS]
        stated += [("nsfw", nsfw), ("original_sha256", values.get("sha256")), ("original_md5", values.get("md5"))]
        stated += [("caption_model", options.caption_model or None)]
        return facts_of(stated, _NUMBERS)


_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
_FEW = ("key", "status", "error_message")
_ALWAYS = (*_FEW, "url", "width", "height", "original_width", "original_height", "sha256", "md5")
_FACT_OPTIONS = ("similarity", "aesthetic", "watermark")
_NUMBERS = (*_FACT_OPTIONS, "width", "height", "original_width", "original_height")


def _key(values: Mapping[str, Any]) -> str:
    key = checked_text(values.get("key"), "key")
    if not _KEY.fullmatch(key):
        raise DocumentError(f"key {key[:100]!r} must be 1 to 100 letters, digits, `_` or `-`")
    return key


def _check_status(values: Mapping[str, Any]) -> None:
    status = values.get("status", "success")
    if status != "success":
        why = optional_text(values, "error_message")[:200]
        raise MissingFileError(f"not downloaded: {checked_text(status, 'status')[:100]}{f' ({why})' if why else ''}")


def _texts(value: Any, name: str) -> list[str]:
    """The texts that say something of a column with a text or a list of them."""
    if value is None:
        return []
    if not isinstance(value, str | list):
        raise DocumentError(f"{name} must be a text or a list of texts, not {kind_of(value)}")
    return [text for one in ([value] if isinstance(value, str) else value) if (text := checked_text(one, name)).strip()]


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"the caption is not UTF-8: {error}") from None
