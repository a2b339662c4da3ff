"""Where checkpoints lie besides the work folder: named objects in a folder or under an S3 prefix."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from components.checkpoints.files import Files
from components.checkpoints.manifest import sha256_of
from components.registry.store import FolderStore

_PART_BYTES = 64 << 20
_PARTS_AT_ONCE = 4
_ATTEMPTS = 5
_CONNECT_S, _ANSWER_S = 10, 60
_TAKEN = (409, 412)


class PlaceError(Exception):
    """A place does not take or give an object; the message names it and the reason."""


class Place(Protocol):
    """Named objects. Each method is one request, or one repeated until it is answered, and raises PlaceError when it is not."""

    address: str

    def send(self, name: str, file: Path, sha256: str) -> None:
        """Write a file's bytes as an object, replacing one of that name, and have the place check them."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object if there is none of that name; False when there is one."""

    def read(self, name: str) -> bytes | None:
        """A small object, or None."""

    def fetch(self, name: str, file: Path) -> None:
        """An object's bytes into a new file."""

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted."""

    def delete(self, name: str) -> None:
        """Remove an object; absent is fine."""

    def tidy(self) -> None:
        """Remove what broken transfers left, which has no name."""


class FolderPlace:
    """Objects as files of a folder, such as one of a network file system."""

    def __init__(self, folder: Path, files: Files = Files()) -> None:
        self.address = str(folder)
        self._folder = folder
        self._store = FolderStore(folder)
        self._files = files

    def send(self, name: str, file: Path, sha256: str) -> None:
        """See Place."""
        target = self._folder / name
        aside = target.with_name(f".{target.name}.partial")
        with self._named(name):
            self._files.make(target.parent)
            shutil.copyfile(file, aside)
            if sha256_of(aside) != sha256:
                raise PlaceError(f"{target}: what was written is not what {file} holds")
            self._files.sync(aside)
            self._files.rename(aside, target)
            self._files.sync(target.parent)

    def create(self, name: str, data: bytes) -> bool:
        """See Place."""
        with self._named(name):
            return self._store.create(name, data)

    def read(self, name: str) -> bytes | None:
        """See Place."""
        with self._named(name):
            return self._store.read(name)

    def fetch(self, name: str, file: Path) -> None:
        """See Place."""
        with self._named(name):
            shutil.copyfile(self._folder / name, file)

    def names(self, prefix: str) -> list[str]:
        """See Place."""
        found = (path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file() and path.name[0] != ".")
        return sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """See Place."""
        with self._named(name):
            self._files.remove(self._folder / name)

    def tidy(self) -> None:
        """See Place."""
        for left in self._folder.rglob(".*.partial"):
            with self._named(left.name):
                self._files.remove(left)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PlaceError(f"{self._folder / name}: {error.strerror or error}") from error


class S3Place:
    """Objects under an S3 prefix. Large files go up and down in parts, several at once; each part's sha256 is checked by the server."""

    def __init__(self, client: Any, bucket: str, prefix: str, part_bytes: int = _PART_BYTES) -> None:
        from boto3.s3.transfer import TransferConfig

        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._transfer = TransferConfig(
            multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_concurrency=_PARTS_AT_ONCE, num_download_attempts=_ATTEMPTS
        )

    def send(self, name: str, file: Path, sha256: str) -> None:
        """See Place."""
        with self._named(name):
            extra = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": sha256}}
            self._client.upload_file(str(file), self._bucket, self._prefix + name, ExtraArgs=extra, Config=self._transfer)
            found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        if found["ContentLength"] != file.stat().st_size or found["Metadata"].get("sha256") != sha256:
            raise PlaceError(f"{self.address}/{name}: what lies there is not what was sent")

    def create(self, name: str, data: bytes) -> bool:
        """See Place."""
        from botocore.exceptions import ClientError

        with self._named(name):
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) in _TAKEN:
                    return False
                raise
            return True

    def read(self, name: str) -> bytes | None:
        """See Place."""
        from botocore.exceptions import ClientError

        with self._named(name):
            try:
                data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            return data

    def fetch(self, name: str, file: Path) -> None:
        """See Place."""
        with self._named(name):
            self._client.download_file(self._bucket, self._prefix + name, str(file), Config=self._transfer)

    def names(self, prefix: str) -> list[str]:
        """See Place."""
        with self._named(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
            return sorted(row["Key"].removeprefix(self._prefix) for page in pages for row in page.get("Contents", ()))

    def delete(self, name: str) -> None:
        """See Place."""
        with self._named(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def tidy(self) -> None:
        """See Place."""
        with self._named(""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for left in [one for page in pages for one in page.get("Uploads", ())]:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=left["Key"], UploadId=left["UploadId"])

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise PlaceError(f"{self.address}/{name}: {error}") from error


def open_place(address: str, part: str) -> Place:
    """The place `part` below a folder or `s3://bucket/prefix`; endpoint and keys come as AWS tools find them (AWS_*, ~/.aws).

    Raises ValueError for another scheme.
    """
    parts = urlsplit(address)
    if parts.scheme == "s3":
        return S3Place(_client(), parts.netloc, "/".join(filter(None, (parts.path.strip("/"), part))))
    if parts.scheme:
        raise ValueError(f"{address!r} is no place for checkpoints: give a folder or s3://bucket/prefix")
    return FolderPlace(Path(address).resolve() / part)


def _client() -> Any:
    import boto3
    from botocore.config import Config

    # Standard mode waits longer after each try, up to 20 s.
    retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S))


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
