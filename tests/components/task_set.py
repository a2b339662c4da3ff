"""A tiny copy of a published set: its files, and what is read from them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.data.documents import Split
from components.data.pictures import encode_png
from components.data.sources.annotated import AnnotatedSource
from components.data.sources.formats import open_source
from components.data.sources.source import Accepted, Limits, Rejected
from components.params import CorpusParams

WIDTH, HEIGHT = 40, 30
LIMITS = Limits(image_pixels=1_000_000, text_bytes=10_000, images=20)


def png(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A picture of noise."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(labels: np.ndarray) -> bytes:
    """A PNG with 8 bits a pixel."""
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8), "L").save(file, "PNG")
    return file.getvalue()


@dataclass
class TaskSet:
    """A set: its files by name (bytes, or values to be written as JSON, or lists of them as lines) and what is read from it."""

    format: str
    files: dict[str, Any]
    kind: str
    documents: int
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """The texts of the first document."""
    prompt_items: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    """Some of the fields of the first document."""
    expected_count: int | None = None

    def write(self, folder: Path, **changes: Any) -> Path:
        """Write the files, some of them changed; None leaves one out."""
        for name, content in (self.files | changes).items():
            if content is None:
                continue
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.encoded(name, content))
        return folder

    def encoded(self, name: str, content: Any) -> bytes:
        """The bytes of a file."""
        if isinstance(content, bytes):
            return content
        if name in self.lines:
            return "".join(json.dumps(line) + "\n" for line in content).encode()
        return json.dumps(content).encode()


def corpus(one: TaskSet, *, split: Split | None = None, **options: Any) -> CorpusParams:
    """The parameters of a corpus of the set."""
    return CorpusParams.model_validate(
        {"name": "mine", "format": one.format, "split": split or one.split, "licence": "L", "options": one.options | options}
    )


def source(one: TaskSet, folder: Path, *, split: Split | None = None, **options: Any) -> AnnotatedSource:
    """The set in a folder, opened."""
    opened = open_source(corpus(one, split=split, **options), folder, LIMITS)
    assert isinstance(opened, AnnotatedSource)
    return opened


def read(one: TaskSet, folder: Path, *, split: Split | None = None, **options: Any) -> tuple[list[Accepted], list[Rejected]]:
    """All that is read of the set, and all that is refused."""
    opened = source(one, folder, split=split, **options)
    found = [result for unit in opened.units() for result in opened.documents(unit)]
    return [one for one in found if isinstance(one, Accepted)], [one for one in found if isinstance(one, Rejected)]
