"""The operations on a disk of which a checkpoint is made: few, and each in one place, so that a test can cut any of them."""

from __future__ import annotations

import os
from pathlib import Path

from components.run.filetree import remove


class Files:
    """A disk. What is written is sure to be there after a power cut once it, and the folder that names it, are synced."""

    def make(self, folder: Path) -> None:
        """Make a folder, and those above it."""
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file; not yet synced."""
        path.write_bytes(data)

    def sync(self, path: Path) -> None:
        """Have the bytes of a file, or the names in a folder, on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name; a file of that name is replaced."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file or a whole folder; absent is fine."""
        remove(path)

    def write_synced(self, path: Path, data: bytes) -> None:
        """Write a file and sync it."""
        self.write(path, data)
        self.sync(path)
