"""What the rules over a whole corpus need of a document: a few hashes, written as arrays beside each prepared part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from components.data.documents import CorpusError, Document, ImageItem
from components.data.filters.grams import grams, text_digest
from components.data.filters.perceptual import perceptual_hash
from components.data.sources.source import Accepted
from components.params import DataParams

VERSION = 1


@dataclass(frozen=True)
class Signature:
    """One document. `content`: 128 bits of its texts and encoded pictures; `words`: 64 bits of its words; `images`: their hashes."""

    id: str
    evaluation: bool
    content: tuple[int, int]
    words: int
    images: tuple[int, ...]
    grams: np.ndarray


@dataclass(frozen=True)
class Signer:
    """Makes signatures; two can be compared where both were made with the same values."""

    gram_words: int
    min_words: int
    max_image_pixels: int
    with_grams: bool = True

    @classmethod
    def of(cls, data: DataParams) -> Self:
        """As the parameters want them. Only where something is protected do the words of documents matter."""
        rules = data.decontamination
        return cls(rules.words, rules.min_words, data.max_image_pixels, rules.wanted)

    def signature(self, accepted: Accepted) -> Signature:
        """The signature of a document; the same for the same document anywhere. Raises PictureError for a picture that is none."""
        document = accepted.document
        return Signature(
            document.id,
            document.split == "evaluation",
            _content(accepted),
            text_digest(document.texts),
            tuple(perceptual_hash(data, self.max_image_pixels) for data in accepted.images),
            grams(_all_texts(document) if self.with_grams else (), self.gram_words, self.min_words),
        )

    def save(self, path: Path, signatures: Iterable[Signature]) -> None:
        """Write them as one safetensors file, the same bytes for the same documents in the same order."""
        every = list(signatures)
        ids = [one.id.encode("ascii") for one in every]
        arrays = {
            "ids": np.frombuffer(b"".join(ids), np.uint8),
            "id_starts": _starts(map(len, ids)),
            "evaluation": np.array([one.evaluation for one in every], np.uint8),
            "content": np.array([one.content for one in every], np.uint64).reshape(-1, 2),
            "words": np.array([one.words for one in every], np.uint64),
            "images": np.array([value for one in every for value in one.images], np.uint64),
            "image_starts": _starts(len(one.images) for one in every),
            "grams": np.concatenate([np.zeros(0, np.uint64), *(one.grams for one in every)]),
            "gram_starts": _starts(len(one.grams) for one in every),
        }
        save_file(arrays, path, {"mmfs": json.dumps({"version": VERSION, **self._made_with()})})

    def load(self, path: Path, *, with_grams: bool = False) -> Signatures:
        """Read a file that was made with the same values; grams, by far the most of it, only where asked for.

        Raises CorpusError for any other file.
        """
        try:
            with safe_open(path, "numpy") as file:
                made_with = json.loads((file.metadata() or {}).get("mmfs", "null"))
                names = [name for name in _SHAPES if with_grams or name not in ("grams", "gram_starts")]
                arrays = {name: file.get_tensor(name) for name in names}
        except (OSError, ValueError, SafetensorError) as error:
            raise CorpusError(f"{path} is no file of signatures ({error})") from None
        wanted = {"version": VERSION, **self._made_with()}
        if made_with != wanted:
            raise CorpusError(f"{path} was made with {made_with}, not with {wanted}; make it again")
        _check(path, arrays)
        empty = {"grams": np.zeros(0, np.uint64), "gram_starts": np.zeros(len(arrays["words"]) + 1, np.int64)}
        return Signatures(**(empty | arrays))

    def _made_with(self) -> dict[str, Any]:
        return {"gram_words": self.gram_words, "min_words": self.min_words}


@dataclass(frozen=True)
class Signatures:
    """Signatures of n documents as arrays; `X_starts` [n + 1] says where a document's part of X begins."""

    ids: np.ndarray
    id_starts: np.ndarray
    evaluation: np.ndarray
    content: np.ndarray
    words: np.ndarray
    images: np.ndarray
    image_starts: np.ndarray
    grams: np.ndarray
    gram_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.words)

    def id(self, row: int) -> str:
        """A document's id."""
        return self.ids[self.id_starts[row] : self.id_starts[row + 1]].tobytes().decode("ascii", "replace")

    def images_of(self, row: int) -> np.ndarray:
        """Hashes of a document's pictures."""
        return self.images[self.image_starts[row] : self.image_starts[row + 1]]

    def grams_of(self, row: int) -> np.ndarray:
        """Hashes of a document's consecutive words."""
        return self.grams[self.gram_starts[row] : self.gram_starts[row + 1]]

    def image_counts(self) -> np.ndarray:
        """Pictures of each document."""
        return np.diff(self.image_starts)

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """All documents of several files."""
        together = {}
        for name, (kind, _) in _SHAPES.items():
            values = [getattr(part, name) for part in parts]
            if name.endswith("_starts"):
                together[name] = _starts(int(length) for value in values for length in np.diff(value))
            else:
                together[name] = np.concatenate(values) if values else np.zeros((0, 2) if name == "content" else 0, kind)
        return cls(**together)


_SHAPES: dict[str, tuple[type, str | None]] = {
    "ids": (np.uint8, "id_starts"),
    "id_starts": (np.int64, None),
    "evaluation": (np.uint8, None),
    "content": (np.uint64, None),
    "words": (np.uint64, None),
    "images": (np.uint64, "image_starts"),
    "image_starts": (np.int64, None),
    "grams": (np.uint64, "gram_starts"),
    "gram_starts": (np.int64, None),
}
"""Arrays of a file: type, and which other says where each document's part begins."""


def _content(accepted: Accepted) -> tuple[int, int]:
    """128 bits of sha256 over kind, texts, loss flags and the sha256 of each picture, in item order."""
    digest = hashlib.sha256(accepted.document.kind.encode())
    pictures = iter(accepted.images)
    for item in accepted.document.items:
        own = hashlib.sha256(next(pictures) if isinstance(item, ImageItem) else item.text.encode("utf-8", "surrogatepass"))
        digest.update(f"{item.type}{int(item.loss)}".encode() + own.digest())
    value = digest.digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:16], "little")


def _all_texts(document: Document) -> list[str]:
    """Those that are trained on or asked, and the references of a caption."""
    references = document.fields.get("references")
    return [*document.texts, *(text for text in (references if isinstance(references, list) else ()) if isinstance(text, str))]


def _starts(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    count = len(arrays["words"])
    for name, value in arrays.items():
        kind, starts = _SHAPES[name]
        expected = (count, 2) if name == "content" else (count + 1,) if name.endswith("_starts") else None if starts else (count,)
        if value.dtype != kind or (value.ndim != 1 if expected is None else value.shape != expected):
            raise CorpusError(f"{path}: {name} is {value.dtype} {list(value.shape)}, which is not what a file of signatures holds")
    for name, (_, starts) in _SHAPES.items():
        if starts and starts in arrays:
            edges = arrays[starts]
            if edges[0] != 0 or edges[-1] != len(arrays[name]) or (np.diff(edges) < 0).any():
                raise CorpusError(f"{path}: {starts} does not divide {name}")
