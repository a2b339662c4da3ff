"""Files and folders placed whole: linked where the file system allows it, renamed into place."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEEP_S = 24 * 3600.0


def link_tree(source: Path, target: Path) -> None:
    """Give a file or folder a second name without its bytes being copied, where that is possible. Its files must not change any more."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(source, target)


def place(source: Path, target: Path) -> None:
    """Make `target` equal `source` in one step: it appears whole or not at all."""
    staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
    remove(staging)
    target.parent.mkdir(parents=True, exist_ok=True)
    link_tree(source, staging)
    remove(target)
    os.replace(staging, target)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file in one step, text as UTF-8: a process that dies meanwhile leaves the old file, or none. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        staging.write_bytes(data.encode() if isinstance(data, str) else data)
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `target`, replacing what is there, when the block ends, and vanishes when it fails.

    Several processes may write the same target: the last one's stays. What a killed one left goes when somebody writes it a day later.
    """
    staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
    for left in (one for one in target.parent.glob(f".{glob.escape(target.name)}.*.partial") if time.time() - one.stat().st_mtime > KEEP_S):
        remove(left)
    remove(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        remove(target)
        staging.rename(target)
    except BaseException:
        remove(staging)
        raise


def remove(path: Path) -> None:
    """Remove a file, link or folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: str | Path, target: str | Path) -> str | Path:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
