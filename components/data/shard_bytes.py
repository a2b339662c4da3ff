"""Bytes of shards wherever they lie: in a folder by name, in a DVC store by md5, on S3 by range or whole through the cache."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from components.data.documents import CorpusError
from components.data.places import ShardPlaces
from components.data.remote_shards import RemoteShards
from components.data.s3_objects import S3Objects
from components.data.shard_cache import ShardCache, in_use
from components.data.shards import Shard

_MAX_OPEN = 64


class ShardBytes:
    """Reads ranges of the shards of an index. Safe for threads; a process forked from this one may go on with it."""

    def __init__(self, shards: Mapping[str, Shard], places: ShardPlaces) -> None:
        self._shards, self._places = shards, places
        self._folders = [places.folder, *(Path(store) for store in places.stores if "://" not in store)]
        self._open: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        self._remote: RemoteShards | None = None
        self._lock = threading.Lock()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A byte range; fewer bytes where a local shard is shorter.

        Raises CorpusError when the shard lies nowhere or its object is damaged, StageError when the remote refuses or does not answer.
        """
        descriptor = self._descriptor(name)
        return (
            self._connected(name).read(self._shards[name], offset, length) if descriptor is None else os.pread(descriptor, length, offset)
        )

    def prefetch(self, name: str, offset: int, length: int) -> None:
        """Begin to fetch what will be read soon; nothing to do for a shard that lies in a folder."""
        with self._lock:
            if name not in self._open and self._find(self._shards[name]) is None:
                self._connected(name).prefetch(self._shards[name], offset, length)

    def forget(self, name: str) -> bool:
        """Drop the cached copy of a shard that has wrong bytes; whether there was one, so that reading again can help."""
        with self._lock:
            if not self._open.get(name, (0, False))[1] or self._remote is None or self._remote.cache is None:
                return False
            os.close(self._open.pop(name)[0])
            self._remote.cache.forget(self._shards[name])
            return True

    def close(self) -> None:
        """Close the shard files."""
        while self._open:
            os.close(self._open.popitem()[1][0])
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _descriptor(self, name: str) -> int | None:
        """The open shard, local or cached; None where its ranges are asked for one by one."""
        if name in self._open:
            descriptor, cached = self._open[name]
            if not cached or in_use(descriptor):
                self._open.move_to_end(name)
                return descriptor
            os.close(self._open.pop(name)[0])
        path = self._find(self._shards[name])
        opened = self._connected(name).open(self._shards[name]) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if opened is not None:
            if len(self._open) >= _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1][0])
            self._open[name] = (opened, path is None)
        return opened

    def _find(self, shard: Shard) -> Path | None:
        by_md5 = Path("files", "md5", shard.md5[:2], shard.md5[2:])
        candidates = (self._places.folder / shard.name, *(folder / by_md5 for folder in self._folders))
        return next((path for path in candidates if path.is_file()), None)

    def _connected(self, name: str) -> RemoteShards:
        """The remote on S3. Raises CorpusError where there is none: the shard lies nowhere."""
        if self._remote is None or self._remote.pid != os.getpid():
            places = self._places
            stores = [S3Objects(store, places.repository) for store in places.stores if store.startswith("s3://")]
            if not stores:
                raise self._nowhere(self._shards[name])
            whole = places.fetch == "shards" or (
                places.fetch == "auto" and sum(shard.size for shard in self._shards.values()) <= places.cache_bytes
            )
            cache = ShardCache(places.cache, places.cache_bytes) if whole and places.cache is not None else None
            self._remote = RemoteShards(stores, cache)
        return self._remote

    def _nowhere(self, shard: Shard) -> CorpusError:
        looked = ", ".join([*map(str, self._folders[1:]), *(store for store in self._places.stores if "://" in store)])
        where = f"nor as files/md5/{shard.md5[:2]}/{shard.md5[2:]} in {looked}" if looked else f"nor there by its md5 {shard.md5}"
        return CorpusError(
            f"shard {shard.name} is neither in {self._places.folder} {where} (a remote is streamed from where it is a folder or s3://); "
            "run `dvc pull outputs/shards`, or `dvc push outputs/shards` where it was prepared"
        )
