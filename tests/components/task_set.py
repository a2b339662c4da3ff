"""A tiny copy of a published set: its files, and what is read from them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.data.pictures import encode_png

WIDTH, HEIGHT = 40, 30


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
