"""Whole shards on this machine's disk, fetched once: bounded, least recently used first out, shared by processes.

A shard is `MD5`; one being fetched is `MD5.part` under a lock that its writer's death releases, so that a part is never taken for whole and
nothing has to be repaired after a kill. Files are removed while others read them: an open file stays readable.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from components.data.documents import CorpusError
from components.data.shards import Shard
from components.run.failures import full_disk

Download = Callable[[Shard, BinaryIO], None]
_PART = ".part"


class ShardCache:
    """At most `max_bytes` of shards in a folder, which nobody else may use."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, shard: Shard, download: Download) -> int | None:
        """Descriptor of the shard, fetched and verified where it is not here; None where the cache has no room for it.

        Raises CorpusError when what is fetched is not what the index says, StageError when the disk is full.
        """
        if shard.size > self.max_bytes:
            return None
        try:
            here = self._here(shard)
            return self._fetched(shard, download) if here is None else here
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise full_disk(f"the disk is full while fetching shard {shard.name} into {self.folder}") from None
            raise

    def forget(self, shard: Shard) -> None:
        """Remove a shard whose bytes turned out to be others."""
        (self.folder / shard.md5).unlink(missing_ok=True)

    def _here(self, shard: Shard) -> int | None:
        with suppress(FileNotFoundError):
            descriptor = os.open(self.folder / shard.md5, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_size == shard.size:
                os.utime(descriptor)
                return descriptor
            os.close(descriptor)
            self.forget(shard)
        return None

    def _fetched(self, shard: Shard, download: Download) -> int | None:
        part = self.folder / f"{shard.md5}{_PART}"
        while True:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            kept = False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for whoever fetches the same
                if not _still(part, descriptor):
                    if (found := self._here(shard)) is not None:
                        return found
                    continue
                if not self._reserve(shard, descriptor):
                    part.unlink()
                    return None
                with os.fdopen(os.dup(descriptor), "r+b") as file:
                    download(shard, file)
                _verify(shard, descriptor)
                part.rename(self.folder / shard.md5)
                kept = True
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                return descriptor
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            finally:
                if not kept:
                    os.close(descriptor)

    def _reserve(self, shard: Shard, part: int) -> bool:
        """Make room and take it: a part has the size of its shard from the beginning, so that nobody else counts on it."""
        with self._alone():
            os.ftruncate(part, 0)
            if not self._make_room(shard.size):
                return False
            os.ftruncate(part, shard.size)
            return True

    def _make_room(self, needed: int) -> bool:
        files = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if len(entry.name.removesuffix(_PART)) == 32:
                    files.append((entry.stat().st_mtime_ns, entry.stat().st_size, Path(entry.path)))
        free = self.max_bytes - sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if free >= needed:
                break
            if path.suffix != _PART:
                path.unlink(missing_ok=True)
                free += size
            elif _remove_abandoned(path):
                free += size
        return free >= needed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def in_use(descriptor: int) -> bool:
    """Whether an open shard is still the cache's; marks it as used now, so that it stays. False: it was removed for room, open it anew."""
    status = os.fstat(descriptor)
    if status.st_nlink == 0:
        return False
    os.utime(descriptor)
    return True


def _verify(shard: Shard, part: int) -> None:
    digest, position = hashlib.sha256(), 0
    while data := os.pread(part, 1 << 20, position):
        digest.update(data)
        position += len(data)
    if position != shard.size or digest.hexdigest() != shard.sha256:
        raise CorpusError(
            f"shard {shard.name}: the {position} bytes that were fetched are not those of the index; run `dvc push --force outputs/shards` "
            "where it is whole"
        )


def _still(path: Path, descriptor: int) -> bool:
    """Whether the file that was locked is the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _remove_abandoned(part: Path) -> bool:
    """Remove a part whose process has died; whether it had."""
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _still(part, descriptor):
                part.unlink()
                return True
        finally:
            os.close(descriptor)
    return False
