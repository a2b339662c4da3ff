"""Interleaved texts and pictures for people: rows of cells, drawn as one PNG or laid out in a page."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

ILLUSTRATIONS_FILE = "illustrations.json"
Verdict = Literal["right", "wrong"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")


class Cell(_Frozen):
    """One step of a document: a picture (PNG bytes), a text, or both; `verdict` is what a judge said of it."""

    text: str = ""
    png: Base64Bytes | None = None
    verdict: Verdict | None = None


class Row(_Frozen):
    """The cells of one document in reading order."""

    label: str
    cells: tuple[Cell, ...] = Field(min_length=1)


class Illustration(_Frozen):
    """Documents to be looked at one above the other, such as the truth and what a model made of it."""

    title: str
    rows: tuple[Row, ...] = Field(min_length=1)
    note: str = ""


def cell(text: str = "", png: bytes | None = None, verdict: Verdict | None = None) -> Cell:
    """A cell of raw PNG bytes."""
    return Cell.model_construct(text=text, png=png, verdict=verdict)


def write_illustrations(path: Path, illustrations: Sequence[Illustration]) -> None:
    """Write them as JSON with their pictures inside."""
    path.write_text(json.dumps([one.model_dump(mode="json") for one in illustrations]) + "\n", encoding="utf-8")


def read_illustrations(path: Path) -> list[Illustration]:
    """Read what `write_illustrations` wrote. Raises ValueError for anything else."""
    return [Illustration.model_validate(value) for value in json.loads(path.read_text(encoding="utf-8"))]


_SIDE = 128
_GAP = 10
_LINE = 15
_LABEL = 100
_INK, _FADED, _PAPER = "#1c2733", "#6b7886", "#ffffff"
_FRAME = {None: "#d6dde4", "right": "#1a8f5a", "wrong": "#c8443c"}


def sheet(illustration: Illustration) -> bytes:
    """PNG of an illustration: pictures enlarged without smoothing, texts below them, a frame in the colour of the verdict."""
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    columns = max(len(row.cells) for row in illustration.rows)
    wrapped = [[textwrap.wrap(one.text, 20) for one in row.cells] for row in illustration.rows]
    labels = [textwrap.wrap(row.label, 13) for row in illustration.rows]
    heights = [_text_or_picture(row, texts) for row, texts in zip(illustration.rows, wrapped, strict=True)]
    canvas = Image.new("RGB", (_LABEL + columns * (_SIDE + _GAP) + _GAP, 34 + sum(heights) + _GAP), _PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, 8), illustration.title, fill=_INK, font=font)
    top = 34
    for row, label, texts, height in zip(illustration.rows, labels, wrapped, heights, strict=True):
        pen.text((_GAP, top), "\n".join(label), fill=_FADED, font=small)
        for column, (one, lines) in enumerate(zip(row.cells, texts, strict=True)):
            left, below = _LABEL + column * (_SIDE + _GAP), top
            if one.png is not None:
                with Image.open(io.BytesIO(one.png)) as picture:
                    canvas.paste(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (left, top))
                pen.rectangle((left - 2, top - 2, left + _SIDE + 1, top + _SIDE + 1), outline=_FRAME[one.verdict], width=2)
                below += _SIDE + 6
            for number, line in enumerate(lines):
                pen.text((left, below + number * _LINE), line, fill=_INK, font=small)
        top += height
    written = io.BytesIO()
    canvas.save(written, "PNG", optimize=True)
    return written.getvalue()


def _text_or_picture(row: Row, texts: list[list[str]]) -> int:
    tallest = max((_SIDE + 6 if one.png is not None else 0) + _LINE * len(lines) for one, lines in zip(row.cells, texts, strict=True))
    return tallest + 14
