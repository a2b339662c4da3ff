"""An index of many made-up documents, column by column, for the benchmarks of the plan: lengths are drawn, what no plan reads is a hole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from components.data.columns import COLUMNS
from components.data.index import write_index
from components.data.index_writer import INDEX_FILE, digest_of
from components.data.keyed import generator
from components.data.shards import Shard
from components.data.tokenizer import fit

SHARD = Shard("made-up.tar", 0, 0, "0" * 64, "0" * 32)
LONGEST = 2046
_CHUNK = 1 << 22


def lengths(start: int, count: int) -> np.ndarray:
    """Text tokens of documents, uint32: the interleaved documents of the reference, whose rows have a mean of 692 and a median of 528."""
    drawn = np.exp(np.log(528) + 0.83 * generator("made-up documents", start).standard_normal(count, np.float32))
    return np.clip(np.round(drawn), 8, LONGEST + 2).astype(np.uint32) - 2


def make(folder: Path, documents: int, source: str = "made-up") -> None:
    """Write the index. All columns have their full size; digests of the files that are mostly holes are not computed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, [], [SHARD], fit(["a made-up document ."], 300))
    header = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    for name, column in COLUMNS.items():
        cells = documents if column.per == "document" or name.startswith("item") else 0
        path = folder / "columns" / f"{name}.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": column.dtype, "fortran_order": False, "shape": (cells, *column.cell)})
            begin = file.tell()
            for start in range(0, documents, _CHUNK):
                count = min(_CHUNK, documents - start)
                if name in ("tokens", "item"):
                    file.write(lengths(start, count).astype(column.dtype).tobytes())
                elif name == "item_end":
                    file.write(np.arange(start + 1, start + count + 1, dtype=column.dtype).tobytes())
                elif name == "item_trained":
                    file.write(np.ones(count, column.dtype).tobytes())
            file.truncate(begin + cells * int(np.prod(column.cell)) * np.dtype(column.dtype).itemsize)
        header["columns"][name] |= {"shape": [cells, *column.cell], "size": path.stat().st_size}
    header |= {"documents": documents, "groups": [{"split": "train", "source": source, "kind": "text", "documents": documents}]}
    header["sha256"] = digest_of(header)
    (folder / INDEX_FILE).write_text(json.dumps(header), encoding="utf-8")
