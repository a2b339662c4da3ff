"""Which file img2dataset saved an address under (output_format=files): a table of digests, small enough for tens of millions."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from components.data.documents import CorpusError, DocumentError
from components.data.sources.files import MissingFileError
from components.data.sources.source import Rejected

MAX_DOWNLOADS = 50_000_000
_COLUMNS = ("url", "key", "status")
_MAX_PATH = 64
_LOCK = Lock()


class Downloads:
    """SHARD.parquet with `url`, `key` and `status`, beside SHARD/KEY.EXTENSION. Read once, when the first picture is asked for.

    About 40 bytes of memory per picture. Two addresses share a digest of 64 bits with a probability below 1e-4 in 50 million.
    Raises CorpusError for a folder without a parquet file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if next(folder.glob("**/*.parquet"), None) is None:
            raise CorpusError(f"{folder} has no parquet file; img2dataset writes one for each shard")

    def path(self, address: str) -> str:
        """SHARD/KEY.EXTENSION relative to the folder. Raises MissingFileError where it was not downloaded."""
        with _LOCK:
            digests, stems, problems = self._table
        wanted = np.uint64(_digest(address))
        place = int(np.searchsorted(digests, wanted))
        if place == len(digests) or digests[place] != wanted:
            raise MissingFileError(f"{address[:200]} is not among the downloads{problems}")
        stem = stems[place].decode()
        return next(
            (f"{stem}.{ending}" for ending in ("jpg", "png", "webp") if (self._folder / f"{stem}.{ending}").is_file()), f"{stem}.jpg"
        )

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Digests in rising order, where each one's file lies, and what of the parquet files could not be read."""
        # Imported here because only this table needs it, and pyarrow takes long to load.
        from components.data.sources.parquet import parquet_records

        digests, stems, count, problems = [np.zeros(0, np.uint64)], [np.zeros(0, f"S{_MAX_PATH}")], 0, ""
        for file in sorted(self._folder.glob("**/*.parquet")):
            name = file.relative_to(self._folder).as_posix()
            own: list[tuple[int, bytes]] = []
            try:
                for row in parquet_records(self._folder, name, _COLUMNS, _COLUMNS):
                    if isinstance(row, Rejected):
                        raise DocumentError(f"{row.where}: {row.reason}")
                    if stem := _stem(name.removesuffix(".parquet"), row[1]):
                        own.append((_digest(row[1]["url"]), stem))
                if (count := count + len(own)) > MAX_DOWNLOADS:
                    raise DocumentError(f"more than {MAX_DOWNLOADS} downloads; name the files by the sha256 of their address")
            except DocumentError as error:
                problems = problems or f" ({error})"
                continue
            digests.append(np.array([digest for digest, _ in own], np.uint64))
            stems.append(np.array([stem for _, stem in own], f"S{_MAX_PATH}"))
        joined, paths = np.concatenate(digests), np.concatenate(stems)
        order = np.argsort(joined, kind="stable")
        return joined[order], paths[order].astype(f"S{np.char.str_len(paths).max(initial=1)}"), problems


def _stem(shard: str, row: dict[str, Any]) -> bytes:
    if row["status"] != "success" or not isinstance(row["url"], str) or not isinstance(row["key"], str):
        return b""
    stem = f"{shard}/{row['key']}".encode("utf-8", "replace")
    return stem if len(stem) <= _MAX_PATH and row["key"].isalnum() else b""


def _digest(address: str) -> int:
    return int.from_bytes(hashlib.blake2b(address.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
