"""The document: an ordered list of text and image items, as stored, trained on and evaluated."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.params import Kind
from components.run.failures import FailureClass, StageError

Split = Literal["train", "evaluation"]
SPLITS: tuple[Split, ...] = ("train", "evaluation")
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


class TextItem(_Frozen):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str = Field(min_length=1)
    loss: bool = Field(True, description="whether its tokens are trained on")


class ImageItem(_Frozen):
    """A picture, by its path relative to the document's folder or shard."""

    type: Literal["image"] = "image"
    id: str = Field(pattern=_ID.pattern)
    path: str
    loss: bool = Field(True, description="whether the picture is trained on as something to generate")
    sha256: str | None = Field(None, description="digest of the encoded file, hexadecimal")

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
    """A document and its decoded pictures, uint8 [height, width, 3] RGB, in item order."""

    document: Document
    pictures: tuple[np.ndarray, ...]


def parse_document(line: str) -> Document:
    """Read one JSON line. Raises DocumentError for broken JSON, NaN, unknown, missing or unusable fields."""
    try:
        return Document.model_validate(json.loads(line, parse_constant=_reject_constant))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise DocumentError(f"{place}: {problem['msg']}".removeprefix(": ")) from None
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not JSON: {error}") from None


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _check_box(box: list[Any]) -> None:
    numbers = [value for value in box if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)]
    if len(box) != 4 or len(numbers) != 4 or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        raise ValueError(f"fields.box {box!r} must be [x0, y0, x1, y1] in pixels with 0 <= x0 < x1 and 0 <= y0 < y1")
