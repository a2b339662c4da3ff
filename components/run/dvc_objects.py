"""Objects of DVC by their md5: found in the cache, fetched from the remote where they are not, put together to new folders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from components.run.dvc_remote import cache_folder, remote_address
from components.run.failures import FailureClass, StageError
from components.run.filetree import write_whole
from components.run.yamlfile import write_yaml

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file of a folder: its path in it and its md5."""

    relpath: str
    md5: str


def cached(root: Path, digest: str) -> Path:
    """Where the cache of a checkout keeps an object."""
    return cache_folder(root) / "files" / "md5" / digest[:2] / digest[2:]


def fetch(root: Path, digest: str) -> Path:
    """The object's file in the cache, brought from the default remote where it is not there. Raises StageError where nobody has it."""
    path = cached(root, digest)
    if path.is_file():
        return path
    address = remote_address(root)
    if address is None:
        raise StageError(
            FailureClass.INFRASTRUCTURE, f"object {digest} is not in the cache, and no DVC remote is configured", "dvc remote add"
        )
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    staging = path.with_name(f".{path.name}.{os.getpid()}.partial")
    staging.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Repo(str(root)) as repo:
            remote = repo.cloud.get_remote_odb()
            remote.fs.get_file(remote.oid_to_path(digest), str(staging))
        if _md5(staging) != digest.removesuffix(".dir"):
            raise StageError(FailureClass.BAD_DATA, f"object {digest} of {address} is damaged", "push it again from where it is whole")
        staging.chmod(0o444)
        staging.replace(path)
    except FileNotFoundError:
        message = f"neither the cache nor the remote {address} has object {digest}"
        raise StageError(FailureClass.INFRASTRUCTURE, message, "run `dvc push` where it was made") from None
    except (DvcException, OSError) as error:
        message = f"object {digest} cannot be fetched from {address}: {error.__cause__ or error}".replace("\n", "; ")
        raise StageError(FailureClass.INFRASTRUCTURE, message, "check the remote and its rights (`dvc remote list`)") from error
    finally:
        staging.unlink(missing_ok=True)
    return path


def listing(root: Path, digest: str) -> list[Entry]:
    """The files of a folder by DVC's md5 of it (`….dir`)."""
    try:
        return [Entry(one["relpath"], one["md5"]) for one in json.loads(fetch(root, digest).read_bytes())]
    except (ValueError, KeyError, TypeError):
        raise StageError(FailureClass.BAD_DATA, f"object {digest} is no listing of a folder", "remove it from the cache") from None


def store_folder(root: Path, entries: Iterable[Entry]) -> str:
    """Put a folder of files that the cache holds into the cache; DVC's md5 of it. No file is read."""
    values = [{"md5": one.md5, "relpath": one.relpath} for one in sorted(entries, key=lambda one: one.relpath)]
    data = json.dumps(values, sort_keys=True).encode()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest() + ".dir"
    path = cached(root, digest)
    if not path.is_file():
        write_whole(path, data)
        path.chmod(0o444)
    return digest


def store_file(root: Path, file: Path) -> str:
    """Copy a file into the cache; its md5."""
    digest = _md5(file)
    path = cached(root, digest)
    if not path.is_file():
        write_whole(path, file.read_bytes())
        path.chmod(0o444)
    return digest


def write_pin(pin: Path, digest: str, size: int, files: int) -> None:
    """A .dvc file of the folder beside it, as `dvc add` writes it."""
    write_yaml(pin, {"outs": [{"md5": digest, "size": size, "nfiles": files, "hash": "md5", "path": pin.stem}]})


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
