"""A corpus of many small files: units of files that follow each other, found without following links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.data.documents import CorpusError
from components.data.sources.source import Unit


def grouped(folder: Path, endings: Sequence[str], files_per_unit: int, corpus: str) -> list[Unit]:
    """Files below `folder` with one of the endings (lower case, with the dot), in the order of their names, so many a unit.

    Hidden folders (`.git`) are left out. Raises CorpusError where there is none.
    """
    names = sorted(name for name in _files(folder) if name.lower().endswith(tuple(endings)))
    if not names:
        raise CorpusError(f"corpus {corpus}: {folder} has no file that ends in {' or '.join(endings)}")
    return [
        Unit(f"{number // files_per_unit:06d}", tuple(names[number : number + files_per_unit]))
        for number in range(0, len(names), files_per_unit)
    ]


def _files(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            yield str((Path(place) / name).relative_to(folder))
