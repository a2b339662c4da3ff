"""What a model answered: an append-only log a rank, read back whole whatever moment the writer was killed at."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from components.data.pictures import decode, encode_png
from components.run.filetree import write_whole

PICTURES = "generated"
SAMPLES_FILE = "samples.jsonl"


class TextAnswer(BaseModel):
    """A generated text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["text"] = "text"
    text: str


class PictureAnswer(BaseModel):
    """A generated picture: PNG file in the folder `generated/` beside the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["image"] = "image"
    file: str
    sha256: str


class Answer(BaseModel):
    """Everything generated for one request. `ended`: the model ended the document itself, no limit cut it off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str
    items: tuple[TextAnswer | PictureAnswer, ...]
    ended: bool

    @property
    def text(self) -> str:
        """All generated text."""
        return "".join(item.text for item in self.items if isinstance(item, TextAnswer))

    @property
    def pictures(self) -> tuple[PictureAnswer, ...]:
        return tuple(item for item in self.items if isinstance(item, PictureAnswer))


class AnswerLog:
    """Appends the answers of one rank; each batch is on disk before the next one is generated."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        path = folder / f"answers-{rank}.jsonl"
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()

    def append(self, answers: Sequence[Answer]) -> None:
        """Record a batch of answers whose pictures were kept by `keep`."""
        self._file.write("".join(answer.model_dump_json() + "\n" for answer in answers))
        self._file.flush()
        os.fsync(self._file.fileno())

    def keep(self, request: str, ordinal: int, picture: np.ndarray) -> PictureAnswer:
        """Write a generated picture (uint8 [h, w, 3]); its file appears whole or not at all."""
        data = encode_png(picture)
        name = f"{request.replace('/', '-')}-{ordinal}.png"
        write_whole(self._folder / PICTURES / name, data)
        return PictureAnswer(file=name, sha256=hashlib.sha256(data).hexdigest())


def read_answers(folder: Path) -> dict[str, Answer]:
    """Answers of all ranks by request id; a torn last line is left out and the last row of a request wins."""
    answers: dict[str, Answer] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                answer = Answer.model_validate_json(line)
            except ValidationError:
                continue
            if all(_intact(folder, picture) for picture in answer.pictures):
                answers[answer.request] = answer
    return answers


def read_picture(folder: Path, picture: PictureAnswer) -> np.ndarray:
    """The generated picture, uint8 [h, w, 3]."""
    return decode((folder / PICTURES / picture.file).read_bytes(), max_pixels=1 << 26)


def write_samples(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Scored samples, one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _intact(folder: Path, picture: PictureAnswer) -> bool:
    try:
        return hashlib.sha256((folder / PICTURES / picture.file).read_bytes()).hexdigest() == picture.sha256
    except FileNotFoundError:
        return False


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
