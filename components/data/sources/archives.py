"""Members of tars and zips from outside: no path that leaves, no link, no bomb, nothing cut short without a word; none is unpacked."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from components.data.sources.source import Rejected

UNREADABLE = (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, zlib.error)
"""What reading a broken, encrypted or unknown zip raises."""
MAX_MEMBERS = 1_000_000
_MAX_NAME_BYTES = 1_000_000
_NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
MAX_RATIO = 200
"""Bytes that one byte of a zip may unfold to; text reaches 20, a bomb 1000 and more."""


def tar_members(path: Path, name: str, max_bytes: int) -> Iterator[tuple[str, bytes] | Rejected]:
    """(member, bytes) of each regular member of a plain tar in order; a rejection for each other and for where it breaks off."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
            number, end = 0, 0
            while (member := archive.next()) is not None:
                # The list of all members, which is not needed, would fill the memory.
                archive.members = []  # type: ignore[attr-defined]  # not in the stubs
                where = f"{name}:{member.name}"
                if archive.offset <= end:
                    raise tarfile.ReadError(f"member {member.name!r} does not lie behind the one before it")
                end = archive.offset
                if (number := number + 1) > MAX_MEMBERS:
                    yield Rejected(name, f"more than {MAX_MEMBERS} members; the rest is not read")
                    return
                if member.isdir():
                    continue
                plain = member.isreg() and not member.issparse()
                if problem := _unsafe(member.name) or (None if plain else "a link or a special file") or _large(member.size, max_bytes):
                    yield Rejected(where, problem)
                    continue
                # Not by extractfile, which takes as long as the rest together.
                file.seek(member.offset_data)
                data = file.read(member.size)
                if len(data) < member.size:
                    yield Rejected(where, "cut short: the tar ends inside of this member")
                    return
                yield member.name, data
            if not _ends(path, archive.offset):
                yield Rejected(name, "the tar has no end mark: it is cut short, or its last members are unreadable")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        yield Rejected(name, f"unreadable as a tar: {error}")


class _Header(tarfile.TarInfo):
    """A header whose size can be believed: tarfile of Python 3.11 goes backwards by a negative one and reads long names of any length."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.size < 0 or (self.type in _NAMING and self.size > _MAX_NAME_BYTES):
            raise tarfile.ReadError(f"a header of type {self.type.decode('latin-1')!r} states {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]  # made to be overridden, see tarfile.py


def zip_streams(path: Path, name: str, max_bytes: int) -> Iterator[tuple[str, IO[bytes]] | Rejected]:
    """(member, open file) of each file in a zip in order, to be read before the next is taken; reading may raise one of UNREADABLE.

    A rejection for encrypted, bomb-like, oversized, outward and unreadable ones.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.filename.endswith("/")]
            if not members:
                yield Rejected(name, "there is no file in it")
            if len(members) > MAX_MEMBERS:
                yield Rejected(name, f"more than {MAX_MEMBERS} members; none is read")
                return
            for member in members:
                where = f"{name}:{member.filename}"
                if problem := _unsafe(member.filename) or _large(member.file_size, max_bytes) or _bomb(member):
                    yield Rejected(where, problem)
                    continue
                try:
                    file = archive.open(member)
                except UNREADABLE as error:
                    yield Rejected(where, f"unreadable: {error}")
                    continue
                with file:
                    yield member.filename, file
    except UNREADABLE as error:
        yield Rejected(name, f"unreadable as a zip: {error}")


def _bomb(member: zipfile.ZipInfo) -> str | None:
    """What unfolds too far, or by a method that unfolds as far as it likes before the size is known (bzip2, LZMA)."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {member.compress_type}; only stored and deflated members are read"
    ratio = member.file_size / max(1, member.compress_size)
    return f"unfolds {ratio:.0f} times: a bomb" if ratio > MAX_RATIO and member.file_size > 1_000_000 else None


def _unsafe(member: str) -> str | None:
    if not member:
        return "a member without a name"
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
