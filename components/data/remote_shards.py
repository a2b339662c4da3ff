"""Shards of a DVC remote on S3, fetched by threads ahead of their use: ranges into memory, or whole shards into the cache."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from components.data.documents import CorpusError
from components.data.s3_objects import CONNECTIONS, S3Objects
from components.data.shard_cache import ShardCache
from components.data.shards import Shard

AHEAD_BYTES = 64 << 20
"""Ranges fetched ahead and not yet read; beyond it the oldest are given up and fetched when they are asked for."""
T = TypeVar("T")


class RemoteShards:
    """The stores of one process, which its threads share; a forked process makes its own (`pid`)."""

    def __init__(self, stores: Sequence[S3Objects], cache: ShardCache | None) -> None:
        """Whole shards through `cache`; ranges only where it is None."""
        self.pid = os.getpid()
        self.cache = cache
        self._stores = stores
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="shards")
        self._ranges: OrderedDict[tuple[str, int, int], Future[bytes]] = OrderedDict()
        self._ahead = 0
        self._whole: dict[str, Future[None]] = {}

    def open(self, shard: Shard) -> int | None:
        """Descriptor of the whole shard in the cache; None where only ranges are fetched."""
        if self.cache is None:
            return None
        if (fetching := self._whole.pop(shard.name, None)) is not None:
            fetching.result()
        return self.cache.open(shard, self._download)

    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """A range, fetched before or now."""
        if (fetching := self._ranges.pop((shard.name, offset, length), None)) is not None:
            self._ahead -= length
            return fetching.result()
        return self._first(lambda store: store.read(shard, offset, length))

    def prefetch(self, shard: Shard, offset: int, length: int) -> None:
        """Begin to fetch a range, or its shard."""
        if self.cache is not None and shard.size <= self.cache.max_bytes:
            if shard.name not in self._whole:
                self._whole[shard.name] = self._threads.submit(self._fill, self.cache, shard)
            return
        key = (shard.name, offset, length)
        if key not in self._ranges:
            self._ranges[key] = self._threads.submit(self._first, lambda store: store.read(shard, offset, length))
            self._ahead += length
        while self._ahead > AHEAD_BYTES and len(self._ranges) > 1:
            (_, _, given_up), future = self._ranges.popitem(last=False)
            future.cancel()
            self._ahead -= given_up

    def close(self) -> None:
        """Give up what nobody has asked for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fill(self, cache: ShardCache, shard: Shard) -> None:
        if (descriptor := cache.open(shard, self._download)) is not None:
            os.close(descriptor)

    def _download(self, shard: Shard, file: BinaryIO) -> None:
        self._first(lambda store: store.download(shard, file))

    def _first(self, ask: Callable[[S3Objects], T]) -> T:
        """The answer of the first store that has the shard. Raises what the last one raised."""
        for store in self._stores[:-1]:
            try:
                return ask(store)
            except CorpusError:
                continue
        return ask(self._stores[-1])
