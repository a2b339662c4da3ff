"""The plan of an evaluation: which held-out documents are continued, from where and how. Its hash names what was asked.

Models are no part of it, so that two models answer the same manifest and can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.data.documents import Document, ImageItem
from components.data.keyed import generator
from components.params import SamplingParams, Task

VERSION = 1
MANIFEST_FILE = "manifest.json"
Mode = Literal["text", "picture", "document"]
"""What the model is asked for: one text, one picture (after a given BoI), or the rest of the document as it decides itself."""
Answering = Literal["task", "pretrain"]
"""Whose answer: the fine-tuned model's, or the pretrained one's, zero-shot."""


@dataclass(frozen=True)
class Request:
    """One thing to generate: what follows the first `items` items of a document. `draw` names its random numbers: they belong to the
    sample, not to a rank, a batch or a model, so that both models start a picture from the same noise."""

    id: str
    document: str
    kind: str
    mode: Mode
    answering: Answering
    items: int
    input_sha256: str
    draw: str


@dataclass(frozen=True)
class Manifest:
    """Everything that decides what is generated and scored, except the models."""

    task: Task
    seed: int
    sampling: Mapping[str, Any]
    data: Mapping[str, str]
    requests: tuple[Request, ...]

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON form."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """JSON values with the format's version."""
        return {"version": VERSION, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write it with its own digest for readers."""
        path.write_text(json.dumps({**self.as_dict(), "sha256": self.sha256}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what `write` wrote. Raises ValueError for a newer version or when the digest does not fit."""
        values = json.loads(path.read_text(encoding="utf-8"))
        if (version := values.pop("version")) > VERSION:
            raise ValueError(f"{path} has version {version}, this mmfs reads up to {VERSION}; update mmfs")
        digest = values.pop("sha256")
        manifest = cls(**values | {"requests": tuple(Request(**request) for request in values["requests"])})
        if manifest.sha256 != digest:
            raise ValueError(f"{path} was changed after it was written; run `dvc repro` to write it again")
        return manifest


@dataclass(frozen=True)
class Stories:
    """How much of the stories is asked: pictures per story drawn after its true beginning, and stories told whole; None is all."""

    frames: int | None = None
    told: int | None = None


def plan(
    task: Task, documents: Sequence[Document], *, seed: int, sampling: SamplingParams, data: Mapping[str, str], stories: Stories = Stories()
) -> Manifest:
    """The manifest of a task on held-out documents, in their order. `data` holds digests of what the documents were read from."""
    if task == "story":
        told = [_request(document, "document", "task", document.prompt_items) for document in documents[: stories.told]]
        requests = [frame for document in documents for frame in _frames(document, seed, stories.frames)] + told
    else:
        mode: Mode = "picture" if task == "segmentation" else "text"
        requests = [_request(document, mode, "task", document.prompt_items) for document in documents]
    return Manifest(task, seed, sampling.model_dump(mode="json"), dict(data), tuple(requests))


def _frames(document: Document, seed: int, count: int | None) -> list[Request]:
    """Pictures of a story that both models are asked for, `count` of them drawn by its id: few frames of many stories tell more than the
    reverse, because a story's frames show the same digit."""
    pictures = [number for number, item in enumerate(document.items) if isinstance(item, ImageItem) and number >= document.prompt_items]
    chosen = sorted(generator(seed, "frames", document.id).permutation(pictures)[:count].tolist())
    return [_request(document, "picture", who, number) for who in ("task", "pretrain") for number in chosen]


def _request(document: Document, mode: Mode, answering: Answering, items: int) -> Request:
    draw = f"{document.id}/{mode}/{items}"
    return Request(f"{draw}/{answering}", document.id, document.kind, mode, answering, items, _input_sha256(document, items), draw)


def _input_sha256(document: Document, items: int) -> str:
    """Digest of the prompt's texts and pictures in order."""
    whole = hashlib.sha256()
    for item in document.items[:items]:
        part = f"image:{item.sha256}" if isinstance(item, ImageItem) else f"text:{item.text}"
        whole.update(f"{len(part)}:{part}".encode())
    return whole.hexdigest()
