"""A disk and a second place of which any operation can be the last one: what a power cut leaves is what was synced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.checkpoints.files import Files
from components.checkpoints.places import FolderPlace, PlaceError
from components.run.filetree import remove


class PowerCut(BaseException):
    """The machine is off; nothing catches it."""


class Fuse:
    """Counts operations and burns at the `last`, before it is done, or in its middle with `torn`."""

    def __init__(self, last: int | None = None, torn: bool = False) -> None:
        self.last, self.torn = last, torn
        self.done: list[str] = []

    @contextmanager
    def operation(self, name: str) -> Iterator[bool]:
        """Yields whether the operation is to be done in half; raises PowerCut instead of it, or after half of it."""
        burnt = self.last is not None and len(self.done) >= self.last
        if burnt and not (self.torn and len(self.done) == self.last):
            raise PowerCut(name)
        self.done.append(name)
        yield burnt
        if burnt:
            raise PowerCut(name)


class FusedFiles(Files):
    """The real disk behind a fuse, which remembers what a power cut would lose."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self._unsynced: set[Path] = set()
        self._renamed: list[tuple[Path, Path]] = []

    def make(self, folder: Path) -> None:
        with self._fuse.operation(f"make {folder.name}"):
            super().make(folder)

    def write(self, path: Path, data: bytes) -> None:
        with self._fuse.operation(f"write {path.name}") as half:
            super().write(path, data[: len(data) // 2] if half else data)
            self._unsynced.add(path)

    def sync(self, path: Path) -> None:
        with self._fuse.operation(f"sync {path.name}") as half:
            if half:
                return
            super().sync(path)
            self._unsynced.discard(path)
            self._renamed = [(source, target) for source, target in self._renamed if target.parent != path]

    def rename(self, source: Path, target: Path) -> None:
        with self._fuse.operation(f"rename {source.name}") as half:
            if half:
                return
            super().rename(source, target)
            self._unsynced = {target / path.relative_to(source) if path.is_relative_to(source) else path for path in self._unsynced}
            self._renamed.append((source, target))

    def remove(self, path: Path) -> None:
        if not path.exists():
            return
        with self._fuse.operation(f"remove {path.name}") as half:
            if half and path.is_dir():  # some of its files
                for file in sorted(path.rglob("*"))[::2]:
                    remove(file)
                return
            super().remove(path)
            self._renamed = [pair for pair in self._renamed if pair[1] != path]

    def lose(self) -> None:
        """What the power cut takes: names that were not synced are the old ones, files that were not synced are empty."""
        for path in self._unsynced:
            if path.is_file():
                path.write_bytes(b"")
        for source, target in reversed(self._renamed):
            if target.exists() and not source.exists():
                target.rename(source)


class FusedPlace(FolderPlace):
    """A second place behind the same fuse."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        super().__init__(folder)
        self._fuse = fuse

    def send(self, name: str, file: Path, sha256: str) -> None:
        with self._fuse.operation(f"send {name}") as half:
            if not half:
                super().send(name, file, sha256)

    def create(self, name: str, data: bytes) -> bool:
        with self._fuse.operation(f"create {name}") as half:
            return not half and super().create(name, data)

    def delete(self, name: str) -> None:
        with self._fuse.operation(f"delete {name}") as half:
            if not half:
                super().delete(name)


class FullPlace(FolderPlace):
    """A second place that is full, or does not answer."""

    def send(self, name: str, file: Path, sha256: str) -> None:
        raise PlaceError(f"{self.address}/{name}: the bucket is full")
