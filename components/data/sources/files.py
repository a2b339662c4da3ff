"""Files of a corpus folder, read without leaving it: regular files only, of bounded size; JSON lines one by one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from components.data.documents import MAX_LINE_BYTES, DocumentError, parse_object
from components.data.sources.source import Rejected

_MAX_BYTES_PER_PIXEL = 8


def path_inside(folder: Path, name: str) -> Path:
    """The regular file `name` below `folder`. Raises DocumentError for a path or a link that leads out, and for what is no file."""
    root = folder.resolve()
    try:
        path = (root / name).resolve(strict=True)
        mode = path.stat().st_mode
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
    return read_inside(folder, name, _MAX_BYTES_PER_PIXEL * max_image_pixels)


def json_lines(file: BinaryIO, name: str) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """(`NAME:LINE`, object) of each line that holds a JSON object, a rejection for each other; blank lines are nothing."""
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            yield where, parse_object(line)
        except DocumentError as error:
            yield Rejected(where, str(error))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long only its beginning, so that it cannot fill the memory."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)
