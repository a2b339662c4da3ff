"""The document: an ordered list of text and image items, as stored, trained on and evaluated."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.params import Kind
from components.run.failures import FailureClass, StageError

Split = Literal["train", "evaluation"]
SPLITS: tuple[Split, ...] = ("train", "evaluation")
MAX_LINE_BYTES = 10_000_000
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_REQUIRED_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "caption": {"references": list},
    "multi": {"question": str, "answer": str},
    "question": {"question": str, "answer": str},
    "referring": {"phrase": str, "box": list},
}


class CorpusError(StageError):
    """The corpus as a whole cannot be used; the message names the file and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureClass.BAD_DATA, message)


class DocumentError(ValueError):
    """A line or object that is no usable document; the message says what is wrong with it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Fact = str | int | float | bool
Facts = dict[str, Fact]
"""Values by name, as the corpus states them; docs/corpora.md lists the names that filters know."""


class TextItem(_Frozen):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str = Field(min_length=1)
    loss: bool = Field(True, description="whether its tokens are trained on")
    facts: Facts = Field({}, description="what is known of the text")


class ImageItem(_Frozen):
    """A picture, by its path relative to the document's folder or shard."""

    type: Literal["image"] = "image"
    id: str = Field(pattern=_ID.pattern)
    path: str
    loss: bool = Field(True, description="whether the picture is trained on as something to generate")
    sha256: str | None = Field(None, description="digest of the encoded file, hexadecimal")
    facts: Facts = Field({}, description="what is known of the picture: `similarity`, `aesthetic`, `nsfw`, `url`, ...")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if not path or path[0] == "/" or "\\" in path or "\0" in path or ".." in path.split("/"):
            raise ValueError(f"image path {path!r} must be relative and stay inside the folder")
        return path


Item = Annotated[TextItem | ImageItem, Field(discriminator="type")]


class Document(_Frozen):
    """One interleaved document. `items[:prompt_items]` are given at evaluation; the rest is the reference."""

    id: str = Field(description="letters, digits, `_` and `-`; unique in the corpus")
    source: str
    kind: Kind
    split: Split
    licence: str
    origin: Literal["natural", "automated", "human"]
    items: tuple[Item, ...] = Field(min_length=1)
    prompt_items: int = Field(0, ge=0, description="leading items given at evaluation")
    fields: dict[str, Any] = Field(default_factory=dict, description="what scoring needs, by kind; see docs/data.md")
    facts: Facts = Field({}, description="what is known of the whole: `language`, `nsfw`, `alignment`, ...")

    @field_validator("id")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError(f"id {value!r} must be 1 to 80 letters, digits, `_` or `-`")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.prompt_items > len(self.items):
            raise ValueError(f"prompt_items is {self.prompt_items}, but there are {len(self.items)} items")
        ids = [item.id for item in self.images]
        if len(set(ids)) != len(ids):
            raise ValueError("two images of the document have the same id")
        for name, kind in _REQUIRED_FIELDS.get(self.kind, {}).items():
            if not isinstance(self.fields.get(name), kind):
                raise ValueError(f"fields.{name} is required for kind {self.kind!r}")
        if self.kind == "referring":
            _check_box(self.fields["box"])
        return self

    @property
    def images(self) -> tuple[ImageItem, ...]:
        """The image items in order."""
        return tuple(item for item in self.items if isinstance(item, ImageItem))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in order."""
        return tuple(item.text for item in self.items if isinstance(item, TextItem))


@dataclass(frozen=True)
class LoadedDocument:
    """A document and its decoded pictures, uint8 [height, width, 3] RGB, in item order.

    `sizes` are the [width, height] of the stored pictures, which those at hand may be reductions of; theirs where empty.
    """

    document: Document
    pictures: tuple[np.ndarray, ...]
    sizes: tuple[tuple[int, int], ...] = ()


def parse_document(line: str) -> Document:
    """Read one JSON line. Raises DocumentError for broken JSON, NaN, unknown, missing or unusable fields."""
    return document_from(parse_object(line.encode("utf-8", "surrogatepass")))


def document_from(values: Mapping[str, Any]) -> Document:
    """The document of these values. Raises DocumentError naming the first unknown, missing or unusable field."""
    try:
        return Document.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise DocumentError(f"{place}: {problem['msg']}".removeprefix(": ")) from None


def parse_object(data: bytes, max_bytes: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """One JSON object in UTF-8. Raises DocumentError for anything else: NaN, infinities, Python's single quotes, a key that
    stands twice (which value counts is the reader's guess), endless nesting."""
    if len(data) > max_bytes:
        raise DocumentError(f"longer than {max_bytes} bytes")
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_reject_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        hint = "; JSON has double quotes, this looks like a Python dictionary" if data.lstrip().startswith(b"{'") else ""
        raise DocumentError(f"not JSON: {error}{hint}") from None
    if not isinstance(values, dict):
        raise DocumentError(f"not a JSON object but {type(values).__name__}")
    return values


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(repeated_key(pairs))
    return values


def repeated_key(pairs: Sequence[tuple[str, Any]]) -> str:
    """What is wrong with an object that has a key twice."""
    ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
    return f"the key {key[:80]!r} stands twice in an object"


def _check_box(box: list[Any]) -> None:
    numbers = [value for value in box if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)]
    if len(box) != 4 or len(numbers) != 4 or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        raise ValueError(f"fields.box {box!r} must be [x0, y0, x1, y1] in pixels with 0 <= x0 < x1 and 0 <= y0 < y1")
