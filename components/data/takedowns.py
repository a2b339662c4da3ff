"""What was taken down: a file of the repository that only grows, which `prepare` depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.data.documents import CorpusError

VERSION = 1


class Takedown(BaseModel):
    """One document that must not be in any further data version. `time` is UTC, ISO 8601; `models` are the versions that saw it then."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = VERSION
    document: str = Field(min_length=1, max_length=80)
    reason: str = Field(min_length=1, max_length=2000)
    by: str = Field(min_length=1, max_length=200)
    time: str
    models: tuple[str, ...] = ()

    @classmethod
    def parse(cls, line: str, where: str) -> Self:
        """Read one line. Raises CorpusError naming where it stands."""
        try:
            found = cls.model_validate(json.loads(line))
        except (ValueError, ValidationError) as error:
            raise CorpusError(f"{where} is no takedown ({error}); restore the file: git checkout".replace("\n", "; ")) from None
        if found.version > VERSION:
            raise CorpusError(f"{where} has version {found.version}, this mmfs reads up to {VERSION}; update mmfs")
        return found


def read(path: Path) -> list[Takedown]:
    """All takedowns, the oldest first; none without a file. Raises CorpusError for a damaged line: what it names would come back."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Takedown.parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def taken_down(path: Path) -> frozenset[str]:
    """Ids of all documents that were taken down."""
    return frozenset(one.document for one in read(path))


def add(path: Path, takedowns: Sequence[Takedown]) -> None:
    """Append them and sync. Raises CorpusError where the file is damaged."""
    read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(one.model_dump_json() + "\n" for one in takedowns)
        file.flush()
        os.fsync(file.fileno())
