"""What a committed checkpoint says of itself, and whether its bytes agree. Nothing here knows tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
MANIFEST, COMMIT, COMPLETE = "manifest.json", "COMMIT", "complete.json"
"""Sizes and digests of all files; the marker, which is the manifest's digest; the ranks' word that every file is written."""
CURSOR_FILE, DATA = "cursor.json", "data"
"""Where to go on: the step, and under DATA what the data need to go on there."""
ENGINE = "engine"
"""What the trainer writes: weights and optimizer, a file or a folder."""
_HASHED_AT_ONCE = 4


class CheckpointError(Exception):
    """A checkpoint cannot be trusted; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed and verified checkpoint. `info` is what its writer noted: ranks, ZeRO stage, identity of the training."""

    path: Path
    step: int
    info: Mapping[str, Any]


def describe(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of each file."""
    digests = _sha256_of(files.values())
    return {name: {"size": path.stat().st_size, "sha256": digest} for (name, path), digest in zip(files.items(), digests, strict=True)}


def manifest_bytes(step: int, info: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The manifest as it is written."""
    return json.dumps({"version": VERSION, "step": step, "info": dict(info), "files": files}, indent=1).encode()


def marker(manifest: bytes) -> str:
    """What COMMIT says of a manifest."""
    return hashlib.sha256(manifest).hexdigest()


def parse_manifest(manifest: bytes, commit: str, where: str) -> dict[str, Any]:
    """The manifest that a COMMIT marker vouches for. Raises CheckpointError."""
    if marker(manifest) != commit:
        raise CheckpointError(f"{where}/{MANIFEST}: does not match the COMMIT marker")
    record: dict[str, Any] = json.loads(manifest)
    if record["version"] > VERSION:
        raise CheckpointError(f"{where}: checkpoint version {record['version']}, this version of mmfs reads up to {VERSION}")
    return record


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a committed checkpoint; its files are not looked at. Raises CheckpointError."""
    try:
        manifest, commit = (path / MANIFEST).read_bytes(), (path / COMMIT).read_text(errors="replace")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not committed, {Path(error.filename).name} is missing") from None
    return parse_manifest(manifest, commit, str(path))


def verify(path: Path) -> Checkpoint:
    """Check the marker, the manifest and every byte. Raises CheckpointError."""
    record = read_manifest(path)
    for name, expected in record["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if file.stat().st_size != expected["size"]:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected['size']}")
    digests = _sha256_of(path / name for name in record["files"])
    for (name, expected), digest in zip(record["files"].items(), digests, strict=True):
        if digest != expected["sha256"]:
            raise CheckpointError(f"{path / name}: its sha256 differs from the manifest's")
    return Checkpoint(path, record["step"], record["info"])


def sha256_of(file: Path) -> str:
    """Digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_of(files: Iterable[Path]) -> list[str]:
    """Digests, several at once: hashing holds no lock of the interpreter."""
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as threads:
        return list(threads.map(sha256_of, files))
