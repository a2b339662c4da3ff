"""What a person decided about documents: a log that is only ever appended to, and documents as they are after it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.data.documents import Document, DocumentError, ImageItem, TextItem

VERSION = 1
DECISIONS_FILE = "decisions.jsonl"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EditedText(_Frozen):
    """A text as the person left it. `was`: the number of the item that it was, by which it keeps what else is known; None for a new one."""

    text: str = Field(min_length=1, max_length=1_000_000)
    was: int | None = Field(None, ge=0)


class MovedImage(_Frozen):
    """The image item that stands here now, by the number of the item that it was."""

    was: int = Field(ge=0)


class Decision(_Frozen):
    """One person's word on one document; the last one about a document counts."""

    document: str
    action: Literal["accept", "reject", "edit", "undecided"]
    items: tuple[Annotated[EditedText | MovedImage, Field(union_mode="left_to_right")], ...] = ()
    by: str = Field(min_length=1, max_length=200)
    reason: str = Field("", max_length=2000)
    version: int = VERSION

    @model_validator(mode="after")
    def _edits_say_what(self) -> Self:
        if (self.action == "edit") != bool(self.items):
            raise ValueError("items are given exactly with the action `edit`")
        if self.version > VERSION:
            raise ValueError(f"a decision of version {self.version} is not understood; install a newer mmfs")
        return self


def decided(document: Document, decision: Decision) -> Document | None:
    """The document after a decision; None for one that was rejected.

    An edited one is of origin `human`. Raises DocumentError for an edit that names an item which is not there, shows a picture twice,
    or moves what is given (`prompt_items`) behind what is asked.
    """
    if decision.action == "reject":
        return None
    if decision.action == "undecided":
        return document
    facts = document.facts | {"reviewed": decision.action, "reviewed_by": decision.by}
    if decision.action == "accept":
        return document.model_copy(update={"facts": facts})
    items = [_edited(document, one) for one in decision.items]
    shown = [item.id for item in items if isinstance(item, ImageItem)]
    if len(set(shown)) < len(shown):
        raise DocumentError("an edit shows one picture twice")
    if document.prompt_items:
        given = {number for number, one in enumerate(decision.items) if one.was is not None and one.was < document.prompt_items}
        if given != set(range(len(given))):
            raise DocumentError("what is given to the model must stay before what it is asked for")
        return _checked(document, items, facts, len(given))
    return _checked(document, items, facts, 0)


class DecisionLog:
    """decisions.jsonl of one review. A decision is on disk when `add` returns; a line that was cut off by a kill is ignored."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / DECISIONS_FILE
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, decision: Decision) -> None:
        """Append one and sync it."""
        with self.path.open("ab") as file:
            if file.tell() and not self._ends_whole():
                file.write(b"\n")
            file.write(decision.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def latest(self) -> dict[str, Decision]:
        """What counts for each document that somebody decided about."""
        if not self.path.is_file():
            return {}
        return {one.document: one for one in self._read(self.path.read_bytes().splitlines())}

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _read(self, lines: Iterable[bytes]) -> Iterable[Decision]:
        for line in lines:
            try:
                yield Decision.model_validate(json.loads(line))
            except (ValueError, ValidationError):
                continue


def _edited(document: Document, one: EditedText | MovedImage) -> TextItem | ImageItem:
    was = None if one.was is None else document.items[one.was] if one.was < len(document.items) else None
    if isinstance(one, EditedText):
        if one.was is None:
            return TextItem(text=one.text)
        if isinstance(was, TextItem):
            return was.model_copy(update={"text": one.text})
        raise DocumentError(f"item {one.was} is no text of this document")
    if isinstance(was, ImageItem):
        return was
    raise DocumentError(f"item {one.was} is no picture of this document")


def _checked(document: Document, items: list[TextItem | ImageItem], facts: dict[str, Any], prompt_items: int) -> Document:
    values = document.model_dump() | {
        "items": [item.model_dump() for item in items],
        "facts": facts,
        "origin": "human",
        "prompt_items": prompt_items,
    }
    try:
        return Document.model_validate(values)
    except ValidationError as error:
        raise DocumentError(str(error.errors()[0]["msg"])) from None
