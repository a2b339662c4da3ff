"""A small sound corpus of every format, byte for byte as it is published: what the fuzz tests wound."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from pdf_files import a_pdf, line, shown
from PIL import Image

from components.params import CorpusParams

Seed = Callable[[Path], CorpusParams]
EXAMPLE = Path(__file__).parents[2] / "examples" / "folder"


def picture(colour: str = "red", format: str = "PNG", size: tuple[int, int] = (16, 12)) -> bytes:
    """An encoded picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format)
    return stream.getvalue()


def write(folder: Path, **contents: bytes | str) -> None:
    """Files by name below a folder."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def corpus(format: str, **options: str | int | float | bool) -> CorpusParams:
    """Its parameters."""
    return CorpusParams(name="seed", format=format, licence="CC0-1.0", options=options)


def documents(folder: Path) -> CorpusParams:
    """Format `documents`."""
    told = (EXAMPLE / "documents.jsonl").read_text().splitlines()[:3]
    for item in (item for one in told for item in json.loads(one)["items"] if item["type"] == "image"):
        write(folder, **{item["path"]: (EXAMPLE / item["path"]).read_bytes()})
    write(folder, **{"documents.jsonl": "\n".join(told) + "\n"})
    return corpus("documents")


def saved_pages(folder: Path) -> CorpusParams:
    """Format `html`."""
    text = "<p>The first carts roll over the new bridge in the morning, and everybody has come to look at them.</p>"
    parts = f'<h1>Bridges</h1>{text}<img src="a.png" alt="a">{text}<table><tr><td>1</td></tr></table>'
    page = f'<html lang="en"><body><article>{parts}</article></body></html>'
    write(folder, **{"one.html": page, "a.png": picture()})
    return corpus("html")


def repository(folder: Path) -> CorpusParams:
    """Format `git`."""
    notebook = {
        "nbformat": 4,
        "cells": [{"cell_type": "markdown", "source": ["# A\n", "![x](a.png)"]}, {"cell_type": "code", "source": "1", "outputs": []}],
    }
    write(
        folder,
        **{"a.md": "# A\n\ntext ![x](a.png) more\n\n| a | b |\n|-|-|\n| 1 | 2 |\n", "b.ipynb": json.dumps(notebook), "a.png": picture()},
    )
    return corpus("git")


def archive(folder: Path) -> CorpusParams:
    """Format `warc`."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    text = "<p>The first carts roll over the new bridge in the morning, and everybody has come to look at them.</p>"
    page = f'<html><body><article><h1>Bridges</h1>{text}<img src="a.png">{text}</article></body></html>'.encode()
    for name, gzip in (("a.warc.gz", True), ("b.warc", False)):
        with (folder / name).open("wb") as file:
            writer = WARCWriter(file, gzip=gzip)
            for address, kind, body in (("https://x.example/p", "text/html", page), ("https://x.example/a.png", "image/png", picture())):
                head = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.1")
                record = writer.create_warc_record(address, "response", payload=io.BytesIO(body), http_headers=head)
                writer.write_record(record)
                record.raw_stream.close()
    return corpus("warc")


def pdf(folder: Path) -> CorpusParams:
    """Format `pdf`."""
    write(folder, **{"a.pdf": a_pdf(line("Before.", 40, 700) + shown(40, 500, 100, 100) + line("After.", 40, 400))})
    return corpus("pdf")


SEEDS: dict[str, Seed] = {
    "documents": documents,
    "git": repository,
    "html": saved_pages,
    "pdf": pdf,
    "warc": archive,
}
"""One per name in components.data.sources.formats.FORMATS."""
