"""Natural documents: web pages, web archives, git repositories and PDF, in the order in which a reader meets their parts."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pdf_files import a_pdf, line, shown
from PIL import Image
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from components.data.documents import CorpusError, TextItem
from components.data.sources.formats import open_source
from components.data.sources.source import Accepted, Limits, Rejected
from components.params import CorpusParams

LIMITS = Limits(image_pixels=1_000_000, text_bytes=100_000, images=50)
PAGE = """<html lang="en"><head><title>Bridges</title><script>spy()</script></head><body><nav><a href="/">Home</a></nav>
<article><h1>Building a bridge</h1>
<p>First the pillars are set into the river bed, which takes most of a summer and a great many workers.</p>
<img src="pillars.png" alt="the pillars">
<p>Then the deck is laid from both sides until the two halves meet.<img src="../deck.jpg"> People come to watch the last stone.</p>
<p>At last it is opened, and the first carts roll over it in the morning.</p></article><footer>Cookies</footer></body></html>"""


def picture(colour: str, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, format)
    return stream.getvalue()


def read(folder: Path, format: str, **options: int) -> tuple[list[Accepted], list[Rejected]]:
    source = open_source(CorpusParams(name="wild", format=format, licence="CC0-1.0", options=dict(options)), folder, LIMITS)
    found = [one for unit in source.units() for one in source.documents(unit)]
    return [one for one in found if isinstance(one, Accepted)], [one for one in found if isinstance(one, Rejected)]


def told(accepted: Accepted) -> list[str]:
    """Its texts, and the colour of a picture's first point, in order."""
    images = iter(accepted.images)
    return [item.text if isinstance(item, TextItem) else colour(next(images)) for item in accepted.document.items]


def colour(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        red, green, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return f"<{'red' if red > 128 else 'green' if green > 100 else 'blue' if blue > 128 else 'black'}>"


def files(folder: Path, **contents: bytes | str) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_saved_page_is_its_main_text_with_pictures_where_they_stand(tmp_path: Path) -> None:
    files(tmp_path, **{"site/page.html": PAGE, "site/pillars.png": picture("red"), "deck.jpg": picture("lime", "JPEG")})
    (one,), rejected = read(tmp_path, "html")
    assert not rejected
    first, red, second, green, third = told(one)
    assert first.startswith("Building a bridge\n\nFirst the pillars") and first.endswith("workers.")
    assert (red, green) == ("<red>", "<green>")
    assert second == "Then the deck is laid from both sides until the two halves meet."
    assert third.startswith("People come") and third.endswith("in the morning.")
    assert not any(word in text for text in one.document.texts for word in ("spy", "Home", "Cookies"))
    assert one.document.kind == "interleaved" and one.document.origin == "natural"
    assert one.document.images[0].facts["alt"] == "the pillars"


def test_a_picture_that_is_not_in_the_corpus_is_counted_and_a_broken_one_rejected(tmp_path: Path) -> None:
    inline = base64.b64encode(picture("blue")).decode()
    page = PAGE.replace("../deck.jpg", "https://elsewhere.example/deck.jpg").replace(
        "</article>", f'<p>x y z</p><img src="data:image/png;base64,{inline}"></article>'
    )
    files(tmp_path, **{"site/page.html": page, "site/pillars.png": picture("red")[:40]})
    (one,), (broken,) = read(tmp_path, "html")
    assert one.document.facts["images_missing"] == 1
    assert [colour(data) for data in one.images] == ["<blue>"]
    assert any("People come" in text for text in one.document.texts)
    assert broken.where == "site/page.html#file:///site/pillars.png" and "picture" in broken.reason


def test_a_page_cannot_reach_out_of_its_corpus(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture("red"))
    folder = files(tmp_path / "corpus", **{"page.html": PAGE.replace("pillars.png", "../secret.png").replace("../deck.jpg", "/etc/passwd")})
    (folder / "link.html").symlink_to(tmp_path / "secret.png")
    (one,), (link,) = read(folder, "html")
    assert one.images == [] and one.document.kind == "text" and one.document.facts["images_missing"] == 2
    assert "leads out" in link.reason


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    def write(*records: tuple[str, str, bytes, str], gzip: bool = True) -> Path:
        with (tmp_path / ("crawl.warc.gz" if gzip else "crawl.warc")).open("wb") as file:
            writer = WARCWriter(file, gzip=gzip)
            writer.write_record(writer.create_warcinfo_record("crawl.warc", {"software": "a crawler"}))
            for address, kind, body, status in records:
                head = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
                writer.write_record(writer.create_warc_record(address, "response", payload=io.BytesIO(body), http_headers=head))
        return tmp_path

    return write


@pytest.mark.parametrize("gzip", [True, False])
def test_a_crawl_gives_its_pages_with_the_pictures_it_crawled(archive: Callable[..., Path], gzip: bool) -> None:
    folder = archive(
        ("https://a.example/b/page", "text/html; charset=utf-8", PAGE.encode(), "200 OK"),
        ("https://a.example/b/pillars.png", "image/png", picture("red"), "200 OK"),
        ("https://a.example/deck.jpg", "image/jpeg", picture("lime", "JPEG"), "404 Not Found"),
        ("https://a.example/style.css", "text/css", b"p {}", "200 OK"),
        ("https://a.example/gone", "text/html", b"<p>gone</p>", "404 Not Found"),
        gzip=gzip,
    )
    (one,), (gone,) = read(folder, "warc")
    assert [colour(data) for data in one.images] == ["<red>"]
    assert one.document.facts["url"] == "https://a.example/b/page" and one.document.facts["images_missing"] == 1
    assert "HTTP status 404" in gone.reason


def test_an_archive_that_breaks_off_gives_what_came_before(archive: Callable[..., Path]) -> None:
    folder = archive(*((f"https://a.example/{number}", "text/html", PAGE.encode(), "200 OK") for number in range(3)))
    path = folder / "crawl.warc.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 200])
    accepted, rejected = read(folder, "warc")
    assert len(accepted) == 2 and len(rejected) == 1 and rejected[0].where.startswith("crawl.warc.gz")
    path.write_bytes(b"PK\x03\x04 no archive at all")
    accepted, rejected = read(folder, "warc")
    assert not accepted and len(rejected) == 1


README = """# A tool

It draws *maps*.

![a map](art/map.png)

1. install it
2. run `map --all` ![inline](art/dot.png) and look

| step | picture |
| --- | --- |
| one | ![in a table](/art/map.png) |

<p align="center"><img src="art/dot.png" alt="dot"> centred</p>

```sh
map > out
```

![on the web](https://elsewhere.example/x.png)
"""


def test_markdown_keeps_structure_and_order(tmp_path: Path) -> None:
    files(
        tmp_path,
        **{
            "docs/README.md": README,
            "docs/art/map.png": picture("red"),
            "docs/art/dot.png": picture("blue"),
            "art/map.png": picture("lime"),
        },
    )
    (one,), rejected = read(tmp_path, "git")
    assert not rejected
    assert told(one) == [
        "# A tool\n\nIt draws maps.", "<red>", "1. install it\n\n2. run `map --all`", "<blue>", "and look\n\nstep | picture", "<green>",
        "one |", "<blue>", "centred\n\n```sh\nmap > out\n```",
    ]  # fmt: skip
    assert one.document.facts["images_missing"] == 1


def test_a_notebook_is_prose_code_and_what_it_drew(tmp_path: Path) -> None:
    drawn, pasted = (base64.b64encode(picture(name)).decode() for name in ("red", "blue"))
    notebook = {
        "nbformat": 4, "nbformat_minor": 5, "metadata": {},
        "cells": [
            {"cell_type": "markdown", "source": ["# Plot\n", "See ![p](attachment:p.png)"],
             "attachments": {"p.png": {"image/png": pasted}}},
            {"cell_type": "code", "source": "plot(x)", "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["two\n", "lines\n"]},
                {"output_type": "display_data", "data": {"image/png": drawn, "text/plain": "<Figure>"}},
                {"output_type": "execute_result", "data": {"text/plain": "42"}}]},
        ],
    }  # fmt: skip
    files(
        tmp_path, **{"a.ipynb": json.dumps(notebook), "b.ipynb": json.dumps({"nbformat": 3, "worksheets": []}), "c.ipynb": "{'cells': []}"}
    )
    (one,), rejected = read(tmp_path, "git")
    assert told(one) == ["# Plot\n\nSee", "<blue>", "```\nplot(x)\n```\n\ntwo\nlines", "<red>", "42"]
    assert [entry.where for entry in rejected] == ["b.ipynb", "c.ipynb"] and "nbformat 4" in rejected[0].reason
    assert "Python dictionary" in rejected[1].reason


def test_a_pdf_puts_each_picture_after_the_text_above_it_in_its_column(tmp_path: Path) -> None:
    columns = shown(320, 500, 200, 100) + line("Left above.", 40, 700) + line("Left below.", 40, 400)
    columns += line("Right above.", 320, 650) + line("Right below.", 320, 300)
    single = line("Before.", 40, 700) + shown(40, 500, 100, 100) + line("After.", 40, 400)
    (tmp_path / "paper.pdf").write_bytes(a_pdf(columns, single, shown(40, 500, 100, 100)))
    (one,), rejected = read(tmp_path, "pdf")
    assert not rejected
    flat = [" ".join(text.split()) for text in told(one)]
    assert flat == ["Left above. Left below. Right above.", "<red>", "Right below. Before.", "<red>", "After.", "<red>"]
    assert one.document.facts["pages"] == 3
    assert [image.facts["page"] for image in one.document.images] == [1, 2, 3]


def test_broken_files_of_every_kind_are_rejected_by_name(tmp_path: Path) -> None:
    whole = a_pdf(line("text", 40, 700))
    files(tmp_path, **{"a.pdf": whole, "b.pdf": b"", "c.pdf": b"no pdf", "d.pdf": whole[: len(whole) // 2], "e.pdf": os.urandom(5000)})
    accepted, rejected = read(tmp_path, "pdf")
    assert len(accepted) + len(rejected) == 5 and {one.where for one in rejected} >= {"b.pdf", "c.pdf", "e.pdf"}
    _, rejected = read(files(tmp_path / "md", **{"a.md": b"\xff\xfe\x00", "b.md": "\n\n", "c.ipynb": "[" * 100_000}), "git")
    assert [one.where for one in rejected] == ["a.md", "b.md", "c.ipynb"]
    _, rejected = read(files(tmp_path / "html", **{"a.html": b"", "b.html": b"\x00" * 100, "c.html": "<div>" * 5000}), "html")
    assert [one.where for one in rejected] == ["a.html", "b.html", "c.html"]


def test_wrong_options_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"wild: options.pages: Extra inputs.*files_per_unit"):
        read(tmp_path, "html", pages=3)
    with pytest.raises(CorpusError, match=r"has no file that ends in \.pdf"):
        read(tmp_path, "pdf")
    with pytest.raises(CorpusError, match="there is no format 'htm'"):
        read(tmp_path, "htm")


def test_units_share_the_files_out(tmp_path: Path) -> None:
    files(tmp_path, **{f"{number:02d}.md": f"text {number}" for number in range(5)}, **{".git/x.md": "hidden"})
    source = open_source(CorpusParams(name="wild", format="git", options={"files_per_unit": 2}), tmp_path, LIMITS)
    assert [unit.files for unit in source.units()] == [("00.md", "01.md"), ("02.md", "03.md"), ("04.md",)]
