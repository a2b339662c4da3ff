"""The index: what training and evaluation know of the corpus without opening a shard."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.data.documents import SPLITS, CorpusError, Split
from components.data.shards import Shard
from components.data.tokenizer import Tokenizer
from components.params import Kind

VERSION = 1
INDEX_FILE, DOCUMENTS_FILE, TOKENIZER_FILE, QUARANTINE_FILE, METRICS_FILE = (
    "index.json",
    "documents.jsonl",
    "tokenizer.json",
    "quarantine.jsonl",
    "metrics.json",
)
DROPPED_FILE, COUNTS_FILE = "dropped.jsonl", "counts.json"


@dataclass(frozen=True)
class Row:
    """One document: where its bytes are and how long it is.

    `tokens` counts text tokens only; `images` are [width, height] in pixels; `trained_images` are those with a loss.
    """

    id: str
    source: str
    kind: Kind
    split: Split
    shard: str
    offset: int
    length: int
    sha256: str
    tokens: int
    images: tuple[tuple[int, int], ...]
    trained_images: int

    def row_length(self, num_visual_tokens: int) -> int:
        """Tokens it takes in a packed row: <s>, texts, <BoI> and visual tokens of each image, </s>."""
        return 2 + self.tokens + len(self.images) * (1 + num_visual_tokens)


class Index:
    """The opened index of a prepared corpus."""

    def __init__(self, folder: Path) -> None:
        """Read and check index.json, documents.jsonl and the tokenizer. Raises CorpusError naming what is wrong."""
        self.folder = folder
        header = _read_json(folder / INDEX_FILE)
        version = header.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise CorpusError(
                f"{folder / INDEX_FILE}: version {version!r} is not understood; this program reads up to {VERSION}, install a newer mmfs"
            )
        self.shards = {shard["name"]: Shard(**shard) for shard in header["shards"]}
        self.tokenizer = Tokenizer.load(folder / header["tokenizer"]["file"])
        if self.tokenizer.sha256 != header["tokenizer"]["sha256"]:
            raise CorpusError(f"{folder / TOKENIZER_FILE} is not the tokenizer that the index was counted with; run `dvc repro prepare`")
        data = (folder / DOCUMENTS_FILE).read_bytes()
        self.sha256 = hashlib.sha256(data).hexdigest()
        if self.sha256 != header["documents_sha256"]:
            raise CorpusError(f"{folder / DOCUMENTS_FILE} differs from what index.json was written for; run `dvc repro prepare`")
        self._rows: dict[tuple[Split, Kind], list[Row]] = {}
        for line in data.splitlines():
            values = json.loads(line)
            row = Row(**values | {"images": tuple((width, height) for width, height in values["images"])})
            self._rows.setdefault((row.split, row.kind), []).append(row)

    def rows(self, split: Split, kind: Kind) -> list[Row]:
        """Documents of a split and kind, in corpus order."""
        return self._rows.get((split, kind), [])

    def kinds(self, split: Split) -> list[Kind]:
        """Kinds that have documents in the split."""
        return [kind for found, kind in self._rows if found == split]


def write_index(folder: Path, rows: Iterable[Row], shards: Iterable[Shard], tokenizer_json: str) -> str:
    """Write index.json, documents.jsonl and tokenizer.json into an existing folder; the sha256 of documents.jsonl. Deterministic."""
    (folder / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
    counts: Counter[str] = Counter()
    lines = []
    for row in rows:
        counts[f"{row.split}/{row.kind}"] += 1
        lines.append(json.dumps(vars(row), separators=(",", ":")) + "\n")
    data = "".join(lines).encode()
    (folder / DOCUMENTS_FILE).write_bytes(data)
    tokenizer = Tokenizer(tokenizer_json)
    header = {
        "version": VERSION,
        "tokenizer": {"file": TOKENIZER_FILE, "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
        "documents_sha256": (digest := hashlib.sha256(data).hexdigest()),
        "splits": {
            split: {key.partition("/")[2]: n for key, n in sorted(counts.items()) if key.startswith(f"{split}/")} for split in SPLITS
        },
        "shards": [asdict(shard) for shard in shards],
    }
    (folder / INDEX_FILE).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    return digest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist; run `dvc repro prepare`") from None
    except ValueError as error:
        raise CorpusError(f"{path} is not JSON ({error}); run `dvc repro prepare`") from None
    if not isinstance(values, dict):
        raise CorpusError(f"{path}: expected a mapping; run `dvc repro prepare`")
    return values
