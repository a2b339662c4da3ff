"""Rows of a parquet file from outside, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.documents import MAX_LINE_BYTES, DocumentError
from components.data.sources.files import path_inside
from components.data.sources.source import Rejected

MAX_GROUP_BYTES = 1 << 32
"""A row group that states more than this, unfolded, is refused: what is published has some hundred rows to a group."""
_ROWS = 64
_BATCH_BYTES = 1 << 26
_BUFFER_BYTES = 1 << 20
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError)


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
    """(`NAME:ROW`, wanted columns that the file has) of each row, from 1; a rejection for one that is no Unicode or over MAX_LINE_BYTES.

    Where the file lacks a required column, breaks off or has fewer rows than it states, one rejection says how many are lost; one stands
    for a file of no rows as well.
    """
    number, total = 0, 0
    try:
        metadata = pq.read_metadata(path)
        total = metadata.num_rows
        with _open(path, metadata) as file:
            if problem := _problem(file, required):
                yield Rejected(name, f"{problem}; its {total} rows are lost")
                return
            columns = [column for column in wanted if column in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                # A batch lies in one row group: lists of texts from two dictionaries cannot be joined.
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
                    for values in _rows(batch):
                        number += 1
                        where = f"{name}:{number}"
                        yield Rejected(where, values) if isinstance(values, str) else (where, values)
        if number < total or not total:
            yield Rejected(name, f"{total - number} of the {total} rows that it states are not in it" if total else "there is no row in it")
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        yield Rejected(f"{name}:{number + 1}", f"unreadable as parquet from here, {max(0, total - number)} rows are lost: {reason}")


def _open(path: Path, metadata: pq.FileMetaData) -> pq.ParquetFile:
    """The file, texts as dictionaries: a file of a kilobyte can say a megabyte a million times, which is not to be unfolded unseen."""
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)


def _problem(file: pq.ParquetFile, required: Sequence[str]) -> str | None:
    names = file.schema_arrow.names
    if missing := [column for column in required if column not in names]:
        return f"no column {', '.join(missing)}, but {', '.join(names[:20]) or 'none'}"
    if len(set(names)) < len(names):
        return "two columns have the same name"
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        # Not asked column by column: what is damaged there ends the whole process (pyarrow 25: an exception of C++ that nothing catches).
        if (size := metadata.row_group(group).total_byte_size) > MAX_GROUP_BYTES:
            return f"row group {group} has {size} bytes, over {MAX_GROUP_BYTES}"
    return None


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The batch's rows; of one that cannot be used, why."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += _sizes(column)
    if sizes.sum() <= _BATCH_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            pass
    for number, size in enumerate(sizes.tolist()):
        try:
            too_large = f"its {size} bytes are more than {MAX_LINE_BYTES}"
            yield too_large if size > MAX_LINE_BYTES else batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield f"not UTF-8: {error}"


def _sizes(array: pa.Array) -> np.ndarray:
    """Bytes that each element [len] will have as Python objects, roughly: its texts, and 16 for each thing."""
    kind = array.type
    own = np.full(len(array), 16, np.int64)
    if pa.types.is_dictionary(kind):
        lengths = _sizes(array.dictionary)
        present = array.indices.is_valid().to_numpy(zero_copy_only=False)
        places = array.indices.drop_null().to_numpy(zero_copy_only=False)
        if len(places) and not 0 <= places.min() <= places.max() < len(lengths):
            raise ValueError("an index beyond its dictionary")
        own[present] += lengths[places]
    elif pa.types.is_struct(kind):
        for field in array.flatten():
            own += _sizes(field)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        values = array.values if not pa.types.is_map(kind) else pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
        ends = np.concatenate([[0], np.cumsum(_sizes(values))])
        own += ends[offsets[1:]] - ends[offsets[:-1]]
    elif not pa.types.is_primitive(kind) and not pa.types.is_null(kind):
        own += pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return own
