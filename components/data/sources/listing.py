"""The shards of a corpus: files below its folder whose path matches a pattern, found without following links and without reading."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from components.data.documents import CorpusError
from components.data.sources.source import Unit
from components.params import CorpusParams


def shard_names(corpus: CorpusParams, folder: Path, patterns: Iterable[str], besides: Container[str] = ()) -> list[str]:
    """Paths relative to `folder`, in the order of their names. `*` in a pattern stands for folders too.

    Hidden folders, those named in `besides` (relative to `folder`: its pictures) and those that bear the name of a shard, as img2dataset
    lays pictures beside `00000.parquet`, are not entered. Raises CorpusError where there is no shard.
    """
    wanted = [pattern for given in patterns for pattern in given.split(",") if pattern]
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        stems = {Path(name).stem for name in files}
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in stems and (here / name).as_posix() not in besides
        )
        paths = ((here / name).as_posix() for name in files)
        found += [path for path in paths if any(fnmatchcase(path, pattern) for pattern in wanted)]
    if not found:
        raise CorpusError(f"corpus {corpus.name}: below {folder} there is no {' or '.join(wanted)}; format {corpus.format} reads those")
    return sorted(found)


def shard_units(corpus: CorpusParams, folder: Path, patterns: Iterable[str], besides: Container[str] = ()) -> list[Unit]:
    """A unit for each shard, named after it."""
    return [Unit(name, (name,)) for name in shard_names(corpus, folder, patterns, besides)]
