"""Whole shards on disk: bounded, shared by processes, never half of one taken for whole."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from components.data.documents import CorpusError
from components.data.shard_cache import ShardCache, in_use
from components.data.shards import Shard

SIZE = 10_000
FORK = multiprocessing.get_context("fork")


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def shard(number: int) -> Shard:
    data = content(number)
    return Shard(f"{number}.tar", SIZE, 1, hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest())


class Source:
    """Gives the bytes of shards and counts how often, in a file so that processes add up."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, wanted: Shard, file: BinaryIO) -> None:
        with self.log.open("a") as log:
            log.write(f"{wanted.name}\n")
        file.write(content(int(wanted.name.removesuffix(".tar"))))

    @property
    def fetched(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


def read(cache: ShardCache, number: int, source: Source) -> bytes | None:
    descriptor = cache.open(shard(number), source)
    if descriptor is None:
        return None
    try:
        return os.pread(descriptor, SIZE + 1, 0)
    finally:
        os.close(descriptor)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "fetched")


def held(cache: ShardCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_the_least_recently_used_goes_first(tmp_path: Path, source: Source) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    for number in (1, 2, 3, 1, 4, 1, 3):
        assert read(cache, number, source) == content(number)
        assert held(cache) <= 3 * SIZE
    assert source.fetched == ["1.tar", "2.tar", "3.tar", "4.tar"]
    assert read(cache, 2, source) == content(2)
    assert source.fetched[-1] == "2.tar"


def test_an_open_shard_that_was_removed_can_still_be_read_and_is_known(tmp_path: Path, source: Source) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE)
    descriptor = cache.open(shard(1), source)
    assert descriptor is not None
    assert in_use(descriptor)
    read(cache, 2, source)
    assert not in_use(descriptor)
    assert os.pread(descriptor, SIZE, 0) == content(1)
    os.close(descriptor)


def test_what_does_not_fit_is_not_kept(tmp_path: Path, source: Source) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE - 1)
    assert read(cache, 1, source) is None
    assert source.fetched == []


def test_wrong_bytes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    for wrong in (content(2), content(1)[:-1], b""):
        with pytest.raises(CorpusError, match=r"shard 1.tar: the \d+ bytes that were fetched are not those of the index"):
            cache.open(shard(1), lambda _, file, wrong=wrong: file.write(wrong) and None)  # type: ignore[misc]
    assert not [path for path in cache.folder.iterdir() if path.name != "lock"]


def _hang(folder: Path) -> None:
    def begin(wanted: Shard, file: BinaryIO) -> None:
        file.write(content(1)[:100])
        file.flush()
        (folder / "begun").touch()
        time.sleep(60)

    ShardCache(folder / "cache", 2 * SIZE).open(shard(1), begin)


def test_a_killed_download_is_never_taken_for_whole(tmp_path: Path, source: Source) -> None:
    process = FORK.Process(target=_hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    part = cache.folder / f"{shard(1).md5}.part"
    assert part.stat().st_size == SIZE  # its room is taken from the beginning
    assert read(cache, 2, source) == content(2)
    assert read(cache, 3, source) == content(3)  # in place of 2: what is being fetched is not removed
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert read(cache, 2, source) == content(2)  # in place of what the dead one left
    assert read(cache, 1, source) == content(1)
    assert not list(cache.folder.glob("*.part"))
    assert held(cache) <= 2 * SIZE


def _read_many(folder: Path, source: Source, seed: int) -> None:
    cache = ShardCache(folder, 3 * SIZE)
    for step in range(60):
        number = 1 + (step * 7 + seed * 3 + step * step) % 6
        assert read(cache, number, source) in (content(number), None)
    os._exit(0)


def test_processes_share_it(tmp_path: Path, source: Source) -> None:
    processes = [FORK.Process(target=_read_many, args=(tmp_path / "cache", source, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert held(ShardCache(tmp_path / "cache", 3 * SIZE)) <= 3 * SIZE
    assert not list((tmp_path / "cache").glob("*.part"))


def _read_one(folder: Path, source: Source) -> None:
    assert read(ShardCache(folder, 3 * SIZE), 1, source) == content(1)
    os._exit(0)


def test_what_two_processes_want_is_fetched_once(tmp_path: Path, source: Source) -> None:
    processes = [FORK.Process(target=_read_one, args=(tmp_path / "cache", source)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert source.fetched == ["1.tar"]
