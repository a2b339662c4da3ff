"""PDF files as texts and pictures in reading order, by pypdf: the text as the file lays it, each picture after the text above it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pypdf import PageObject, PdfReader

from components.data.documents import DocumentError, Facts
from components.data.sources.file_groups import grouped
from components.data.sources.files import read_inside
from components.data.sources.reading_order import Part, Picture, assemble
from components.data.sources.source import Accepted, Limits, Rejected, Unit, read_options
from components.params import CorpusParams, Frozen


class Options(Frozen):
    """What only this format knows."""

    files_per_unit: int = Field(20, ge=1, description="files that are prepared, retried and quarantined together")
    max_pages: int = Field(2000, ge=1, description="a longer file is quarantined")
    max_bytes: int = Field(500_000_000, ge=1, description="a larger file is quarantined")


@dataclass
class _Run:
    """Text that the page shows in one piece, and where its baseline is."""

    text: str
    x: float
    y: float


class PdfSource:
    """Format `pdf`: each .pdf file below the folder is a document."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._options = read_options(Options, corpus)
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._units = grouped(folder, (".pdf",), self._options.files_per_unit, corpus.name)

    def units(self) -> Sequence[Unit]:
        """Files in the order of their names."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """Each file as a document."""
        for name in unit.files:
            try:
                data = read_inside(self._folder, name, self._options.max_bytes)
                parts, facts = self._read(data)
            except DocumentError as error:
                yield Rejected(name, str(error))
                continue
            yield from assemble(self._corpus, name, name, parts, self._limits, facts | {"path": name})

    def _read(self, data: bytes) -> tuple[list[Part], Facts]:
        try:
            reader = PdfReader(io.BytesIO(data), strict=False)
            if reader.is_encrypted and not reader.decrypt(""):
                raise DocumentError("encrypted with a password")
            if (pages := len(reader.pages)) > self._options.max_pages:
                raise DocumentError(f"{pages} pages, more than max_pages ({self._options.max_pages})")
            parts = [part for number, page in enumerate(reader.pages, 1) for part in _page_parts(page, number)]
            return parts, {"pages": pages}
        except DocumentError:
            raise
        except Exception as error:  # a broken file makes the library raise whatever its objects run into
            raise DocumentError(f"unreadable as PDF: {type(error).__name__}: {error}"[:500]) from None


def _page_parts(page: PageObject, number: int) -> Iterator[Part]:
    runs: list[_Run] = []
    drawn: list[tuple[str, float, float]] = []  # name, left edge, upper edge

    def on_text(text: str, matrix: Sequence[float], text_matrix: Sequence[float], font: Any, size: float) -> None:
        if text:
            runs.append(_Run(text, *_placed(matrix, text_matrix[4], text_matrix[5])))

    def on_operator(operator: bytes, arguments: Sequence[Any], matrix: Sequence[float], text_matrix: Sequence[float]) -> None:
        if operator == b"Do" and arguments:
            corners = [_placed(matrix, x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)]
            drawn.append((str(arguments[0]), min(x for x, _ in corners), max(y for _, y in corners)))

    page.extract_text(visitor_text=on_text, visitor_operand_before=on_operator)
    images = {name: page.images[name] for name in _image_names(page) if any(name == shown for shown, _, _ in drawn)}
    after: dict[int, list[Part]] = {}
    column_width = float(page.mediabox.width) / 4
    for name, left, top in drawn:
        if name in images:
            place = _last_above(runs, left, top, column_width)
            after.setdefault(place, []).append(Picture(f"page {number}{name}", images[name].data, {"page": number}))
    yield from after.get(-1, [])
    text = ""
    for place, run in enumerate(runs):
        text += run.text
        if place in after:
            yield from _paragraphs(text)
            text = ""
            yield from after[place]
    yield from _paragraphs(text)


def _last_above(runs: Sequence[_Run], left: float, top: float, column_width: float) -> int:
    """The run that is read last before a picture with these edges: in its own column where that has text, else on the page; -1 for none."""
    told = [place for place, run in enumerate(runs) if run.text.strip()]
    column = [place for place in told if abs(runs[place].x - left) < column_width] or told
    above = [place for place in column if runs[place].y >= top]
    return max(above) if above else min(column, default=0) - 1


def _image_names(page: PageObject) -> list[str]:
    return [name for name in page.images.keys() if isinstance(name, str)]  # noqa: SIM118 (a sequence with keys, not a mapping)


def _paragraphs(text: str) -> Iterator[str]:
    for block in text.split("\n\n"):
        if joined := " ".join(block.split()):
            yield joined


def _placed(matrix: Sequence[float], x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = (float(value) for value in matrix)
    return a * x + c * y + e, b * x + d * y + f
