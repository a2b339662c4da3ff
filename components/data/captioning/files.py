"""The caption file of an input shard: a head that says what it follows from, then a line a document. Deterministic; costs lie beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.data.documents import CorpusError
from components.run.filetree import write_whole
from components.tracking.weights import file_sha256

VERSION = 1
CORPUS_FOLDER, CAPTIONS_FOLDER, COSTS_FOLDER = "corpus", "captions", "costs"


class Head(BaseModel):
    """First line of a caption file. `key` is the digest of all that its lines follow from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int
    key: str
    unit: str
    shard: str
    captioner: str
    captioner_digest: str
    prompt: str
    replace: bool
    alignment_digest: str | None
    captioned: int
    failed: int


class Line(BaseModel):
    """The caption of a document, or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    id: str
    text: str | None = None
    problem: str = ""
    alignment: float | None = None


class Cost(BaseModel):
    """What the caption of a document took."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    id: str
    seconds: float
    usd: float | None = None


def unit_file(unit: str) -> str:
    """The name of a shard's caption file: readable, and one of its own whatever the shard is called."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', unit)[-60:].lstrip('.')}-{hashlib.blake2b(unit.encode(), digest_size=6).hexdigest()}.jsonl"


def shard_digest(folder: Path, files: Iterable[str]) -> str:
    """sha256 over the names and contents of a shard's files."""
    return hashlib.sha256(json.dumps([[name, file_sha256(folder / name)] for name in files]).encode()).hexdigest()


def write(folder: Path, head: Head, lines: Iterable[Line], costs: Iterable[Cost]) -> None:
    """Write a shard's captions below `folder`, its costs first: the caption file stands for both being there."""
    name = unit_file(head.unit)
    write_whole(folder / COSTS_FOLDER / name, "".join(cost.model_dump_json() + "\n" for cost in costs))
    rows = [head.model_dump_json(), *(line.model_dump_json() for line in lines)]
    write_whole(folder / CAPTIONS_FOLDER / name, "\n".join(rows) + "\n")


def read_head(folder: Path, unit: str) -> Head | None:
    """The head of a shard's captions, None where there are none. Raises CorpusError for a broken or newer file."""
    path = folder / CAPTIONS_FOLDER / unit_file(unit)
    try:
        with path.open(encoding="utf-8") as file:
            return _head(file.readline(), path)
    except FileNotFoundError:
        return None


def read(folder: Path, unit: str) -> tuple[Head, dict[str, Line]] | None:
    """A shard's captions by document, None where there are none. Raises CorpusError for a broken or newer file."""
    path = folder / CAPTIONS_FOLDER / unit_file(unit)
    try:
        first, *rest = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, ValueError):
        raise _broken(path) from None
    head = _head(first, path)
    try:
        lines = [Line.model_validate_json(line) for line in rest]
    except ValidationError:
        raise _broken(path) from None
    if len(lines) != head.captioned + head.failed:
        raise _broken(path)
    return head, {line.id: line for line in lines}


def read_costs(folder: Path, unit: str) -> dict[str, Cost]:
    """What a shard's captions took, by document; nothing where the file is missing, for costs may be left out of a corpus."""
    path = folder / COSTS_FOLDER / unit_file(unit)
    try:
        costs = [Cost.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, ValidationError):
        raise _broken(path) from None
    return {cost.id: cost for cost in costs}


def _head(line: str, path: Path) -> Head:
    try:
        head = Head.model_validate_json(line)
    except ValidationError:
        raise _broken(path) from None
    if head.version > VERSION:
        raise CorpusError(f"{path} has version {head.version}, this mmfs reads up to {VERSION}; update mmfs")
    return head


def _broken(path: Path) -> CorpusError:
    return CorpusError(f"{path} is no caption file; remove it and run `mmfs data caption` again")
