"""Where the ledger's objects lie: a folder or an S3 prefix, both with create-if-absent and nothing else that writes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit


class ObjectStore(Protocol):
    """Named objects that are created once and never changed."""

    def create(self, name: str, data: bytes) -> bool:
        """Write the object if there is none of that name; False when there is one. After True it survives a power cut."""

    def read(self, name: str) -> bytes | None:
        """The object's bytes, or None."""

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted."""


class FolderStore:
    """Objects as files. A file appears whole or not at all: it is written aside, synced, then linked to its name, which must be free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, name: str, data: bytes) -> bool:
        """See ObjectStore."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.parent / f".{uuid.uuid4().hex}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
        finally:
            aside.unlink()
        _sync_folder(path.parent)
        return True

    def read(self, name: str) -> bytes | None:
        """See ObjectStore."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.json") if path.is_file())
        return sorted(name for name in found if name.startswith(prefix))


class S3Store:
    """Objects under an S3 prefix; `If-None-Match: *` makes creation exclusive."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self.client = client
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def create(self, name: str, data: bytes) -> bool:
        """See ObjectStore."""
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if _status(error) in (409, 412):
                return False
            raise
        return True

    def read(self, name: str) -> bytes | None:
        """See ObjectStore."""
        from botocore.exceptions import ClientError

        try:
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except ClientError as error:
            if _status(error) == 404:
                return None
            raise

    def names(self, prefix: str) -> list[str]:
        """See ObjectStore."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        return sorted(row["Key"].removeprefix(self.prefix) for page in pages for row in page.get("Contents", ()))


def open_store(address: str, endpoint: str | None = None) -> ObjectStore:
    """The store at a folder path or `s3://bucket/prefix`; credentials come from the environment. Raises ValueError for another scheme."""
    parts = urlsplit(address)
    if parts.scheme == "s3":
        import boto3

        return S3Store(boto3.client("s3", endpoint_url=endpoint), parts.netloc, parts.path)
    if parts.scheme:
        raise ValueError(f"ledger address {address!r}: give a folder or s3://bucket/prefix")
    return FolderStore(Path(address))


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
