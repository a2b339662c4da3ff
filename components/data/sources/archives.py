"""Members of tars and zips from outside: no path that leaves, no link, no bomb, nothing cut short without a word; none is unpacked."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from components.data.sources.source import Rejected

MAX_MEMBERS = 1_000_000
MAX_RATIO = 200
"""Bytes that one byte of a zip may unfold to; text reaches 20, a bomb 1000 and more."""


def tar_members(path: Path, name: str, max_bytes: int) -> Iterator[tuple[str, bytes] | Rejected]:
    """(member, bytes) of each regular member of a plain tar in order; a rejection for each other and for where it breaks off."""
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                where = f"{name}:{member.name}"
                if number >= MAX_MEMBERS:
                    yield Rejected(name, f"more than {MAX_MEMBERS} members; the rest is not read")
                    return
                if member.isdir():
                    continue
                if (
                    problem := _unsafe(member.name)
                    or (None if member.isreg() else "a link or a special file")
                    or _large(member.size, max_bytes)
                ):
                    yield Rejected(where, problem)
                    continue
                file = archive.extractfile(member)
                data = b"" if file is None else file.read()
                if len(data) < member.size:
                    yield Rejected(where, "cut short: the tar ends inside of this member")
                    return
                yield member.name, data
            if not _ends(path, archive.offset):
                yield Rejected(name, "the tar has no end mark: it is cut short, or its last members are unreadable")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        yield Rejected(name, f"unreadable as a tar: {error}")


def zip_members(path: Path, name: str, max_bytes: int) -> Iterator[tuple[str, bytes] | Rejected]:
    """(member, bytes) of each file in a zip in order; a rejection for encrypted, bomb-like, oversized, outward and unreadable ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                yield Rejected(name, f"more than {MAX_MEMBERS} members; none is read")
                return
            for member in members:
                where = f"{name}:{member.filename}"
                if member.is_dir():
                    continue
                ratio = member.file_size / max(1, member.compress_size)
                bomb = f"unfolds {ratio:.0f} times: a bomb" if ratio > MAX_RATIO and member.file_size > 1_000_000 else None
                if problem := _unsafe(member.filename) or _large(member.file_size, max_bytes) or bomb:
                    yield Rejected(where, problem)
                    continue
                try:
                    with archive.open(member) as file:
                        data = file.read(max_bytes + 1)
                    if len(data) != member.file_size:
                        raise zipfile.BadZipFile("its size is not what the directory states")
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, zlib.error) as error:
                    yield Rejected(where, f"unreadable: {error}")
                    continue
                yield member.filename, data
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        yield Rejected(name, f"unreadable as a zip: {error}")


def _unsafe(member: str) -> str | None:
    outward = member.startswith("/") or "\\" in member or "\0" in member or ".." in member.split("/")
    return "its path leads out of the archive" if outward else None


def _large(size: int, max_bytes: int) -> str | None:
    return f"{size} bytes, more than {max_bytes}" if size > max_bytes else None


def _ends(path: Path, offset: int) -> bool:
    """Whether a block of zeros stands where the last member ends."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)
