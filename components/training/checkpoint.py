"""Checkpoints as transactions: shards and sidecars, then a manifest of sizes and sha256, then the COMMIT marker, then a rename.

Only a committed checkpoint whose every byte is as the manifest says is ever resumed. Nothing here knows tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
KEPT = 2
CURSOR_FILE, DATA = "cursor.json", "data"
"""Where to go on: the step, and under DATA what the data need to go on there."""
_MANIFEST, _COMMIT = "manifest.json", "COMMIT"


class CheckpointError(Exception):
    """A checkpoint cannot be trusted; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed and verified checkpoint. `info` is what its writer noted: ranks, ZeRO stage, parameter digest of the job."""

    path: Path
    step: int
    info: Mapping[str, Any]


class CheckpointFolder:
    """All checkpoints of one training."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder = folder
        self._kept = kept

    def staging(self, step: int) -> Path:
        """Where the ranks write the files of a checkpoint before it is committed."""
        return self.folder / f"step-{step:08d}.partial"

    def begin(self, step: int) -> Path:
        """An empty staging folder; what an earlier attempt left there is removed."""
        staging = self.staging(step)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        return staging

    def commit(self, step: int, info: Mapping[str, Any]) -> Path:
        """Hash what lies in the staging folder, mark it committed, give it its name, and drop the oldest ones."""
        staging, final = self.staging(step), self.folder / f"step-{step:08d}"
        files = {file.relative_to(staging).as_posix(): _describe(file) for file in sorted(staging.rglob("*")) if file.is_file()}
        manifest = json.dumps({"version": VERSION, "step": step, "info": dict(info), "files": files}, indent=1).encode()
        _write(staging / _MANIFEST, manifest)
        _write(staging / _COMMIT, hashlib.sha256(manifest).hexdigest().encode())
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        _sync(self.folder)
        self._retain()
        return final

    def latest(
        self, at_most: int | None = None, refuse: Callable[[Checkpoint], str | None] = lambda checkpoint: None
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies and is not refused, and why newer ones were passed over."""
        skipped: list[str] = []
        for path in reversed(self._committed()):
            if at_most is not None and int(path.name.removeprefix("step-")) > at_most:
                continue
            try:
                checkpoint = verify(path)
            except CheckpointError as error:
                skipped.append(str(error))
                continue
            if (reason := refuse(checkpoint)) is None:
                return checkpoint, skipped
            skipped.append(f"{path}: {reason}")
        return None, skipped

    def steps(self) -> list[int]:
        """Steps of what bears the name of a checkpoint, rising; whether it is whole is not looked at."""
        return [int(path.name.removeprefix("step-")) for path in self._committed()]

    def withdraw_after(self, step: int, reason: str) -> list[int]:
        """Remove the checkpoints after a step, which a training that goes on from there does not lead to; those steps."""
        gone = [path for path in self._committed() if int(path.name.removeprefix("step-")) > step]
        for path in gone:
            shutil.rmtree(path)
        return [int(path.name.removeprefix("step-")) for path in gone]

    def _committed(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".partial")

    def _retain(self) -> None:
        for path in self._committed()[: -self._kept]:
            shutil.rmtree(path, ignore_errors=True)


def verify(path: Path) -> Checkpoint:
    """Check the marker, the manifest and every byte. Raises CheckpointError."""
    try:
        manifest = (path / _MANIFEST).read_bytes()
        marker = (path / _COMMIT).read_text()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not committed, {Path(error.filename).name} is missing") from None
    if hashlib.sha256(manifest).hexdigest() != marker:
        raise CheckpointError(f"{path / _MANIFEST}: does not match the COMMIT marker")
    record = json.loads(manifest)
    if record["version"] > VERSION:
        raise CheckpointError(f"{path}: checkpoint version {record['version']}, this version of mmfs reads up to {VERSION}")
    for name, expected in record["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if file.stat().st_size != expected["size"]:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected['size']}")
        if _sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{file}: its sha256 differs from the manifest's")
    return Checkpoint(path, record["step"], record["info"])


def _describe(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"size": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
