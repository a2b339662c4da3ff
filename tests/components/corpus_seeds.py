"""A small sound corpus of every format, byte for byte as it is published: what the fuzz tests wound."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from captioned_corpus import Echo, waiting, write_corpus
from pair_corpora import captions, digest, draw, entry, members, obelics_row, omnicorpus_row, page, rows, sample, shard, table
from pdf_files import a_pdf, line, shown
from PIL import Image
from task_set import TaskSet
from task_set import corpus as task_corpus
from task_sets import SETS

from components.curation_params import CaptioningParams
from components.data.captioning.corpus import CorpusCaptioner
from components.data.sources.formats import open_source
from components.data.sources.source import Limits
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


def captioned(folder: Path) -> CorpusParams:
    """Format `captioned`."""
    write_corpus(folder / "corpus", [waiting("a", 0), waiting("b", 1)])
    source = open_source(corpus("documents"), folder / "corpus", Limits(10_000, 10_000, 10))
    CorpusCaptioner(source, folder, Echo(), CaptioningParams()).run(lambda told, done, total: None)
    return corpus("captioned", of="documents")


def caption_lines(folder: Path) -> CorpusParams:
    """Format `captions`."""
    captions(folder, [b'{"image": "a/0.jpg", "caption": "A Dog"}', b'{"image": "a/0.jpg", "caption": ["A", "Cat"], "similarity": 0.5}'])
    (folder / "images/text.jpg").unlink()  # no record names it
    return corpus("captions")


def downloads(folder: Path) -> CorpusParams:
    """Format `img2dataset`."""
    members(folder / "00000.tar", *sample("000000000"), *sample("000000001"))
    table(folder / "00000.parquet", key=["000000000", "000000001"], status=["success"] * 2)
    return corpus("img2dataset")


def matched(folder: Path) -> CorpusParams:
    """Format `mmc4`: a shard as a zip and one that was unpacked."""
    draw(folder / "images", a=20, b=30)
    told = page(entry("b", 2, 0.1), entry("a", 0))
    shard(folder, "docs_shard_7_v2.jsonl", told, page())
    shard(folder, "docs_shard_8_v2.jsonl", told, page(), zipped=False)
    return corpus("mmc4")


def obelics(folder: Path) -> CorpusParams:
    """Format `obelics`."""
    draw(folder / "images", **{digest("a"): 20, digest("b"): 30})
    rows(folder / "data/train-00000.parquet", obelics_row(), obelics_row(texts=[None, "", None, "Last."]))
    return corpus("obelics", image_suffix=".jpg")


def omnicorpus(folder: Path) -> CorpusParams:
    """Format `omnicorpus`."""
    draw(folder / "images", **{digest("a"): 20, digest("b"): 30})
    rows(folder / "CC-MAIN-2013-20/train-0.parquet", omnicorpus_row(), omnicorpus_row())
    return corpus("omnicorpus", image_suffix=".jpg")


def boxes(folder: Path) -> CorpusParams:
    """Format `objects365`."""
    image = {"width": 16, "height": 12, "license": 5, "url": ""}
    told = {
        "images": [{"id": number, "file_name": f"images/v1/patch0/{number}.jpg", **image} for number in (1, 2)],
        "annotations": [{"id": 0, "iscrowd": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10.25, 5]}],
        "categories": [{"id": 7, "name": "Person"}],
    }
    write(folder, **{"objects365_train.json": json.dumps(told)}, **{f"patch0/{number}.jpg": picture(format="JPEG") for number in (1, 2)})
    return corpus("objects365", units=2)


def texts(folder: Path) -> CorpusParams:
    """Format `texts`."""
    lines = [{"text": "A first text.", "url": "http://x", "language": "de"}, {"text": "A second one."}]
    write(folder, **{"c4/part-0.jsonl": "".join(json.dumps(line) + "\n" for line in lines)})
    return corpus("texts")


def task(one: TaskSet) -> Seed:
    """Any fine-tuning or evaluation set."""

    def written(folder: Path) -> CorpusParams:
        one.write(folder)
        return task_corpus(one)

    return written


SEEDS: dict[str, Seed] = {name: task(one) for name, one in SETS.items()} | {
    "captioned": captioned,
    "captions": caption_lines,
    "documents": documents,
    "git": repository,
    "html": saved_pages,
    "img2dataset": downloads,
    "mmc4": matched,
    "obelics": obelics,
    "objects365": boxes,
    "omnicorpus": omnicorpus,
    "pdf": pdf,
    "texts": texts,
    "warc": archive,
}
"""One per name in components.data.sources.formats.FORMATS."""

UNSTATED = {"flickr30k", "flintstonessv", "ocrvqa", "warc"}
"""Formats in which a record that says it is something else is as good as none: of another split, in no story, or, as crawls hold style
sheets and scripts too, of another type (`text/hxml`)."""
