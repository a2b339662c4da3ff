"""A small prepared corpus of the built-in kind, made without the stage around it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from components.data.documents import Document, ImageItem
from components.data.index import Row, write_index
from components.data.pictures import encode_png
from components.data.shards import ShardWriter
from components.data.sources.digits import compose, export_digits, load_scans
from components.data.tokenizer import Tokenizer, fit
from components.params import COMPOSED_KINDS, DataParams


def make_corpus(root: Path, documents: int = 30, shard_documents: int = 10) -> None:
    """`root`/index and `root`/shards of so many training documents of each kind."""
    for name in ("digits", "shards", "index"):
        (root / name).mkdir(parents=True)
    export_digits(root / "digits")
    data = DataParams(documents=dict.fromkeys(COMPOSED_KINDS, documents), evaluation_documents=dict.fromkeys(COMPOSED_KINDS, 2))
    scans = load_scans(root / "digits")
    placed, texts = [], []
    with ShardWriter(root / "shards", shard_documents) as writer:
        for split in ("train", "evaluation"):
            for document, pictures in compose(data, 0, *scans, split):
                placed.append((document, writer.add(document, [encode_png(picture) for picture in pictures])))
                texts += document.texts
        shards = writer.finish()
    json_text = fit(texts, 400)
    tokenizer = Tokenizer(json_text)
    write_index(root / "index", [row(document, vars(place), tokenizer, 32) for document, place in placed], shards, json_text)


def row(document: Document, place: dict[str, object], tokenizer: Tokenizer, px: int) -> Row:
    """The index row of a document with square pictures."""
    items = tuple(-1 if isinstance(item, ImageItem) else tokenizer.lengths([item.text])[0] for item in document.items)
    values = place | {
        "id": document.id,
        "source": document.source,
        "kind": document.kind,
        "split": document.split,
        "tokens": sum(tokenizer.lengths(document.texts)),
        "items": items,
        "images": ((px, px),) * len(document.images),
        "trained_images": sum(item.loss for item in document.images),
    }
    return Row(**{field.name: values[field.name] for field in fields(Row)})
