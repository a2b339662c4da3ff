"""Rows of a parquet file from outside, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.documents import DocumentError
from components.data.sources.files import path_inside
from components.data.sources.source import Rejected

MAX_COLUMN_BYTES = 2**31
"""A column of a row group beyond this is refused: what is published has some hundred rows to a group."""
_ROWS = 64
_BUFFER_BYTES = 1 << 20
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError)


def parquet_records(
    folder: Path, name: str, wanted: Sequence[str], required: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """`parquet_rows` of the file `name` below `folder`; one rejection for a path that leads out or cannot be opened."""
    try:
        path = path_inside(folder, name)
    except DocumentError as error:
        yield Rejected(name, str(error))
        return
    yield from parquet_rows(path, name, wanted, required)


def parquet_rows(path: Path, name: str, wanted: Sequence[str], required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """(`NAME:ROW`, wanted columns that the file has) of each row, from 1; a rejection for each that is no Unicode.

    Where the file lacks a required column or breaks off, one rejection says how many rows are lost with it.
    """
    number, total = 0, 0
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, page_checksum_verification=True) as file:
            total = file.metadata.num_rows
            if problem := _problem(file, required):
                yield Rejected(name, f"{problem}; its {total} rows are lost")
                return
            columns = [column for column in wanted if column in file.schema_arrow.names]
            for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
                for values in _rows(batch):
                    number += 1
                    where = f"{name}:{number}"
                    yield Rejected(where, values) if isinstance(values, str) else (where, values)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        yield Rejected(f"{name}:{number + 1}", f"unreadable as parquet from here, {max(0, total - number)} rows are lost: {reason}")


def _problem(file: pq.ParquetFile, required: Sequence[str]) -> str | None:
    names = file.schema_arrow.names
    if missing := [column for column in required if column not in names]:
        return f"no column {', '.join(missing)}, but {', '.join(names[:20]) or 'none'}"
    if len(set(names)) < len(names):
        return "two columns have the same name"
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            chunk = row_group.column(column)
            if chunk.total_uncompressed_size > MAX_COLUMN_BYTES:
                return (
                    f"column {chunk.path_in_schema} has {chunk.total_uncompressed_size} bytes in row group {group}, over {MAX_COLUMN_BYTES}"
                )
    return None


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _row(row: pa.RecordBatch) -> dict[str, Any] | str:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error}"
