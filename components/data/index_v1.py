"""Reads an index of version 1: all documents in one file of JSON lines, without their items."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.data.columns import COLUMNS, ORDER, Columns, cells
from components.data.documents import CorpusError
from components.data.index_writer import Groups
from components.data.row import Row

DOCUMENTS_FILE = "documents.jsonl"


def read_version_1(folder: Path, header: Mapping[str, Any], shards: Sequence[str]) -> tuple[Columns, list[tuple[Any, ...]], str]:
    """Its columns in memory, (split, source, kind, documents) of each group, and digest. Raises CorpusError for a file that differs."""
    path = folder / DOCUMENTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error}); run `dvc repro prepare`") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != header["documents_sha256"]:
        raise CorpusError(f"{path} differs from what index.json was written for; run `dvc repro prepare`")
    rows = []
    for line in data.splitlines():
        values = json.loads(line)
        rows.append(Row(**values | {"images": tuple((width, height) for width, height in values["images"])}))
    groups = Groups()
    own = groups.of(rows)
    numbers = {name: number for number, name in enumerate(shards)}
    columns = cells(rows, own, [numbers[row.shard] for row in rows], dict.fromkeys(COLUMNS, 0))
    counts = Counter(own)
    told = [(*group, counts[number]) for group, number in groups.numbers.items()]
    return columns | {ORDER: np.argsort(np.array(own, np.int64), kind="stable").astype(np.uint32)}, told, sha256
