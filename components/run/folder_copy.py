"""A folder of a user, copied as what it is: regular files, nothing from outside of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from components.run.failures import FailureClass, StageError


def checked_files(source: Path) -> Iterator[Path]:
    """The files of a folder. Raises StageError (bad_data) for what is no regular file, lies outside of it or cannot be listed."""
    inside = source.resolve()
    for folder, folders, names in os.walk(source, onerror=_unreadable):
        for linked in (Path(folder) / name for name in folders):
            if linked.is_symlink():
                raise StageError(FailureClass.BAD_DATA, f"{linked} is a link to a folder", "replace the link by the folder")
        for name in names:
            file = Path(folder) / name
            if not file.is_file():
                raise StageError(FailureClass.BAD_DATA, f"{file} is no regular file", "remove it, or replace the link by the file")
            if not file.resolve().is_relative_to(inside):
                raise StageError(FailureClass.BAD_DATA, f"{file} is a link out of the folder", "replace the link by the file")
            yield file


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder. Raises StageError as `checked_files` does."""
    target.mkdir(parents=True, exist_ok=True)
    for file in checked_files(source):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _unreadable(error: OSError) -> None:
    raise StageError(FailureClass.BAD_DATA, f"{error.filename} cannot be read: {error.strerror}", "change its permissions") from None
