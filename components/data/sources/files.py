"""Files of a corpus folder, read without leaving it: regular files only, of bounded size; JSON lines one by one."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

from components.data.documents import MAX_LINE_BYTES, DocumentError, parse_object
from components.data.sources.source import Rejected

_MAX_BYTES_PER_PIXEL = 8
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, BadZipFile)


class MissingFileError(DocumentError):
    """There is no such file: nothing faulty, it was never fetched."""


def path_inside(folder: Path, name: str) -> Path:
    """The regular file `name` below `folder`. Raises DocumentError for a path or a link that leads out, and for what is no file.

    Of these MissingFileError where nothing is there.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not (root / name).resolve().is_relative_to(root):
            raise DocumentError(f"{name} leads out of the folder") from None
        raise MissingFileError(f"{name} cannot be opened: there is no such file") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise DocumentError(f"{name} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_relative_to(root):
        raise DocumentError(f"{name} leads out of the folder")
    if not stat.S_ISREG(mode):
        raise DocumentError(f"{name} is no regular file")
    return path


def read_inside(folder: Path, name: str, max_bytes: int) -> bytes:
    """Bytes of the file that `path_inside` finds. Raises DocumentError, also for a larger file."""
    path = path_inside(folder, name)
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise DocumentError(f"{name} has {size} bytes, more than {max_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{name} cannot be read: {error.strerror}") from None


def read_image(folder: Path, name: str, max_image_pixels: int) -> bytes:
    """`read_inside` for an encoded picture of at most `max_image_pixels`; larger files cannot be one."""
    return read_inside(folder, name, max_image_bytes(max_image_pixels))


def max_image_bytes(max_image_pixels: int) -> int:
    """Bytes beyond which an encoded file can be no picture of so many pixels."""
    return _MAX_BYTES_PER_PIXEL * max_image_pixels


def json_records(folder: Path, name: str) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """`json_lines` of the file `name` below `folder`; one rejection for a path that leads out or cannot be opened."""
    try:
        file = path_inside(folder, name).open("rb")
    except (DocumentError, OSError) as error:
        yield Rejected(name, str(error))
        return
    with file:
        yield from json_lines(file, name)


def json_lines(file: IO[bytes], name: str) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """(`NAME:LINE`, object) of each line that holds a JSON object, a rejection for each other; blank lines are nothing.

    A file of nothing else is a rejection: a copy that failed looks like that. Where the file cannot be read on, as a zip whose bytes are
    broken, one rejection stands for the rest.
    """
    lines, number, blank = _lines(file), 0, True
    while True:
        number += 1
        where = f"{name}:{number}"
        try:
            line = next(lines, b"")
        except _UNREADABLE as error:
            yield Rejected(where, f"unreadable from here: {error}")
            return
        if not line:
            if blank:
                yield Rejected(name, "there is no record in it")
            return
        if not line.strip():
            continue
        blank = False
        try:
            yield where, parse_object(line)
        except DocumentError as error:
            yield Rejected(where, str(error))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines; of one that is too long only its beginning, so that it cannot fill the memory."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)
