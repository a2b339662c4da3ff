"""The columns of the index: one .npy file each, written row by row in bounded memory and read through memory maps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from components.data.documents import CorpusError
from components.data.row import IMAGE, Row

Columns = Mapping[str, np.ndarray]
"""By name; `<ragged>_end` of a document is where its part of the column `<ragged>` ends, it begins where that of the one before ends."""


@dataclass(frozen=True)
class Column:
    """Type of a column and size of its cells; `per` is what it has a cell of: a document, or the ragged parts that this column ends."""

    dtype: str
    cell: tuple[int, ...] = ()
    per: str = "document"


COLUMNS: dict[str, Column] = {
    "group": Column("<u2"),
    "shard": Column("<u4"),
    "offset": Column("<i8"),
    "length": Column("<u4"),
    "sha256": Column("|u1", (32,)),
    "tokens": Column("<u4"),
    "image_count": Column("<u2"),
    "trained_images": Column("<u2"),
    "id_end": Column("<i8"),
    "id": Column("|u1", per="id_end"),
    "image_end": Column("<i8"),
    "image": Column("<u4", (2,), per="image_end"),
    "item_end": Column("<i8"),
    "item": Column("<i4", per="item_end"),
    "item_trained": Column("|b1", per="item_end"),
}
ORDER = "order"
"""Document numbers group by group; only written where the documents do not already stand like that."""
ALL_COLUMNS = COLUMNS | {ORDER: Column("<u4")}


def cells(rows: Sequence[Row], groups: Sequence[int], shards: Sequence[int], ends: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The columns of these rows; `ends` are those of the last document before them. Raises CorpusError for a row that fits in no cell."""
    for row in rows:
        _check(row)
    items = [row.items for row in rows]
    values: dict[str, Any] = {
        "group": groups,
        "shard": shards,
        "offset": [row.offset for row in rows],
        "length": [row.length for row in rows],
        "sha256": np.frombuffer(bytes.fromhex("".join(row.sha256 for row in rows)), np.uint8).reshape(-1, 32),
        "tokens": [row.tokens for row in rows],
        "image_count": [len(row.images) for row in rows],
        "trained_images": [row.trained_images for row in rows],
        "id_end": _ends(ends["id_end"], [len(row.id) for row in rows]),
        "id": np.frombuffer("".join(row.id for row in rows).encode(), np.uint8),
        "image_end": _ends(ends["image_end"], [len(row.images) for row in rows]),
        "image": np.array([size for row in rows for size in row.images], np.int64).reshape(-1, 2),
        "item_end": _ends(ends["item_end"], [len(own) for own in items]),
        "item": [tokens for own in items for tokens in own],
        "item_trained": [number not in row.given for row in rows for number in range(len(row.items))],
    }
    try:
        return {name: _narrow(np.asarray(values[name]), column) for name, column in COLUMNS.items()}
    except OverflowError as error:
        raise CorpusError(f"documents {rows[0].id} to {rows[-1].id}: {error}") from None


def row_of(columns: Columns, number: int, group: tuple[Any, Any, Any], shard_names: Sequence[str]) -> Row:
    """The row of a document; `group` is (split, source, kind)."""
    split, source, kind = group
    pictures, (begin, end) = ragged(columns, "image", number), span(columns, "item", number)
    return Row(
        id=ragged(columns, "id", number).tobytes().decode("ascii"),
        source=source,
        kind=kind,
        split=split,
        shard=shard_names[int(columns["shard"][number])],
        offset=int(columns["offset"][number]),
        length=int(columns["length"][number]),
        sha256=columns["sha256"][number].tobytes().hex(),
        tokens=int(columns["tokens"][number]),
        images=tuple((width, height) for width, height in pictures.tolist()),
        trained_images=int(columns["trained_images"][number]),
        items=tuple(columns["item"][begin:end].tolist()),
        given=tuple(np.flatnonzero(~columns["item_trained"][begin:end]).tolist()),
    )


def ragged(columns: Columns, name: str, number: int) -> np.ndarray:
    """The part of a ragged column that belongs to a document."""
    begin, end = span(columns, name, number)
    return columns[name][begin:end]


def span(columns: Columns, name: str, number: int) -> tuple[int, int]:
    """Where the part of a ragged column begins and ends that belongs to a document."""
    ends = columns[f"{name}_end"]
    return int(ends[number - 1]) if number else 0, int(ends[number])


class ColumnFile:
    """A .npy file that grows."""

    def __init__(self, path: Path, column: Column) -> None:
        self._path, self._column = path, column
        self._file: BinaryIO = path.open("wb")
        self._count = 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        """Add cells, of the column's own type."""
        self._file.write(np.ascontiguousarray(values).tobytes())
        self._count += len(values)

    def finish(self) -> dict[str, Any]:
        """Close the file; what the header of the index says of it."""
        self._file.seek(0)
        self._write_header()
        self.close()
        shape = [self._count, *self._column.cell]
        return {"file": f"columns/{self._path.name}", "dtype": self._column.dtype, "shape": shape} | describe(self._path)

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _write_header(self) -> None:
        """numpy leaves room in a header for the first axis to grow, so the one at the end is as long as the one at the beginning."""
        header = {"descr": self._column.dtype, "fortran_order": False, "shape": (self._count, *self._column.cell)}
        np.lib.format.write_array_header_1_0(self._file, header)


def describe(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def open_column(folder: Path, name: str, told: Mapping[str, Any]) -> np.ndarray:
    """The memory map of a column whose type, shape and size are as the header of the index says. Raises CorpusError."""
    column = ALL_COLUMNS[name]
    path = folder / "columns" / f"{name}.npy"
    again = "run `dvc repro prepare`"
    try:
        size, shape = path.stat().st_size, tuple(told["shape"])
        if size != told["size"]:
            raise CorpusError(f"{path} has {size} bytes, index.json says {told['size']}; {again}")
        if told["dtype"] != column.dtype or shape[1:] != column.cell:
            raise CorpusError(f"{path}: index.json says {told['dtype']} {list(shape)}, this column is {column.dtype}; {again}")
        if not shape[0]:
            return np.zeros(shape, column.dtype)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist; {again}") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); {again}") from None
    if found.dtype != np.dtype(column.dtype) or found.shape != shape:
        raise CorpusError(f"{path} holds {found.dtype} {list(found.shape)}, index.json says {told['dtype']} {list(shape)}; {again}")
    return found.view(np.ndarray)


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Rows, `size` at a time."""
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _check(row: Row) -> None:
    if not row.items:
        return
    texts = sum(tokens for tokens in row.items if tokens != IMAGE)
    if texts != row.tokens or row.items.count(IMAGE) != len(row.images) or min(row.items) < IMAGE:
        raise CorpusError(
            f"document {row.id}: its items {list(row.items[:20])} are not its {row.tokens} text tokens and {len(row.images)} images"
        )


def _ends(start: int, counts: Sequence[int]) -> np.ndarray:
    return start + np.cumsum(np.asarray(counts, np.int64))


def _narrow(values: np.ndarray, column: Column) -> np.ndarray:
    """In the column's type; numpy would wrap what is too large."""
    wanted = np.dtype(column.dtype)
    if wanted.kind in "iu" and values.size and values.dtype != wanted:
        limits = np.iinfo(wanted)
        if values.min() < limits.min or values.max() > limits.max:
            raise OverflowError(f"a value of {int(values.max())} is more than the index holds ({limits.max})")
    return values.astype(wanted)
