"""Where a stage finds the bytes of shards: the checkout's own folder, DVC's cache, DVC's remote. Made by supervisors, read by ranks."""

from __future__ import annotations

from pathlib import Path

from components.params import Frozen
from components.run.dvc_remote import cache_folder, remote_address
from components.run.paths import Paths
from components.settings import Fetch, Settings


class ShardPlaces(Frozen):
    """Looked through in this order, shard by shard: `folder` by name, then each of `stores` by md5 (files/md5/..)."""

    folder: Path
    """The shard files by name, or a DVC store itself."""
    stores: tuple[str, ...] = ()
    """Folders and `s3://bucket/prefix`."""
    repository: Path | None = None
    """The checkout whose DVC configuration has endpoint and keys of S3; secrets are read there and stand nowhere else."""
    cache: Path | None = None
    """The folder of whole shards fetched from S3, shared by the processes of this machine; None keeps none."""
    cache_bytes: int = 0
    """What the cache may hold."""
    fetch: Fetch = "auto"
    """What is asked of S3 (`Settings.fetch`)."""


def shard_places(paths: Paths, settings: Settings) -> ShardPlaces:
    """Those of a checkout: with outputs/shards and the cache empty, everything comes from the remote and no `dvc pull` is needed."""
    remote = remote_address(paths.root)
    return ShardPlaces(
        folder=paths.shards.resolve(),
        stores=(str(cache_folder(paths.root)), *([] if remote is None else [remote])),
        repository=paths.root.resolve(),
        cache=settings.shard_cache or settings.home.shards,
        cache_bytes=settings.shard_cache_bytes,
        fetch=settings.fetch,
    )
