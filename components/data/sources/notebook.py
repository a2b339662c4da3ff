"""Jupyter notebooks (nbformat 4) as texts and pictures in reading order: prose, code, what it printed and drew."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from components.data.documents import DocumentError
from components.data.sources.markdown import Fetch, markdown_parts
from components.data.sources.reading_order import Part, Picture

_DRAWN = ("image/png", "image/jpeg")


def notebook_parts(notebook: dict[str, Any], fetch: Fetch) -> Iterator[Part]:
    """Its cells in order. Raises DocumentError for another version of the format or cells that are none."""
    version, cells = notebook.get("nbformat"), notebook.get("cells")
    if version != 4 or not isinstance(cells, list):
        raise DocumentError(f"a notebook of nbformat 4 with a list of cells is expected, this has nbformat {version!r}")
    for number, cell in enumerate(cells):
        if not isinstance(cell, dict):
            raise DocumentError(f"cell {number} is {type(cell).__name__}")
        source = _text(cell.get("source"), number)
        if cell.get("cell_type") == "code":
            if source.strip():
                yield f"```\n{source.rstrip()}\n```"
            yield from _outputs(cell.get("outputs"), number)
        elif cell.get("cell_type") == "markdown":
            yield from markdown_parts(source, _with_attachments(cell.get("attachments"), fetch))
        else:
            yield source


def _outputs(outputs: Any, number: int) -> Iterator[Part]:
    for output in outputs if isinstance(outputs, list) else []:
        if not isinstance(output, dict):
            raise DocumentError(f"an output of cell {number} is {type(output).__name__}")
        data = output.get("data")
        if output.get("output_type") == "stream":
            yield _text(output.get("text"), number)
        elif isinstance(data, dict):
            drawn = next((data[kind] for kind in _DRAWN if kind in data), None)
            if drawn is not None:
                yield Picture(f"cell {number}", _decoded(_text(drawn, number)), {})
            else:
                yield _text(data.get("text/plain", ""), number)


def _with_attachments(attachments: Any, fetch: Fetch) -> Fetch:
    known = attachments if isinstance(attachments, dict) else {}

    def find(address: str) -> bytes | None:
        name = address.removeprefix("attachment:")
        if name == address:
            return fetch(address)
        bundle = known.get(name)
        encoded = next((bundle[kind] for kind in _DRAWN if kind in bundle), None) if isinstance(bundle, dict) else None
        return _decoded(encoded) if isinstance(encoded, str) else None

    return find


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""  # there, and no picture: it is rejected by name


def _text(value: Any, number: int) -> str:
    """A multi-line string of the format: one string or a list of lines."""
    if value is None:
        return ""
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str) for line in lines):
        raise DocumentError(f"cell {number} has a text that is no string")
    return "".join(lines)
