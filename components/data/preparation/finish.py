"""The second look at a part, when the whole corpus is known: what must go leaves its shards, and the tokens of each text are counted."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.data.preparation.part import ROWS, SHARDS, TEXTS, Part, Tell, lines
from components.data.row import IMAGE, Row
from components.data.shards import Shard, ShardCopy
from components.data.tokenizer import Tokenizer

_BATCH = 4000
FINISHED = "finished.json"


@dataclass(frozen=True)
class FinishTask:
    """A part, the ids of its documents that must go, and the tokenizer's file."""

    part: Part
    without: frozenset[str]
    tokenizer: Path
    tokenizer_sha256: str


@dataclass(frozen=True)
class Finished:
    """A part as it enters the index: rows whose tokens are counted, and shards."""

    rows: Path
    shards_folder: Path
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class SampleTask:
    """The training texts of a part, by their numbers in its order, ascending."""

    part: Part
    without: frozenset[str]
    numbers: tuple[int, ...]


def finish_part(task: FinishTask, tell: Tell) -> Finished:
    """Count tokens and leave out what must go; found again where it was done before."""
    part = task.part
    name = hashlib.sha256(json.dumps([task.tokenizer_sha256, sorted(task.without)]).encode()).hexdigest()[:32]
    folder = part.folder / f"finished-{name}"
    if (known := _read(folder, task)) is not None:
        return known
    staging = part.folder / f".{folder.name}.{uuid.uuid4().hex}.partial"
    staging.mkdir()
    try:
        shards = _without(task, staging) if task.without else part.shards
        with (staging / ROWS).open("w", encoding="utf-8") as file:
            for number, row in enumerate(_counted(task, staging), 1):
                file.write(json.dumps(row, separators=(",", ":")) + "\n")
                tell(number, 0)
        record = {"rows": (staging / ROWS).stat().st_size, "shards": [asdict(shard) for shard in shards]}
        (staging / FINISHED).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return _finished(folder, task, tuple(shards))


def sample_texts(task: SampleTask, tell: Tell) -> list[str]:
    """The texts asked for."""
    wanted, found, number = iter(task.numbers), [], 0
    following = next(wanted, None)
    for texts in _training_texts(task):
        while following is not None and following < number + len(texts):
            found.append(texts[following - number])
            following = next(wanted, None)
        if following is None:
            break
        number += len(texts)
        tell(number, 0)
    return found


def _training_texts(task: SampleTask) -> Iterator[list[str]]:
    if not task.without and task.part.train_documents == task.part.documents:  # nothing of the rows matters
        yield from lines(task.part.folder / TEXTS)
        return
    yield from (texts for row, texts in kept(task.part, task.without) if row["split"] == "train")


def kept(part: Part, without: frozenset[str]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Rows and texts of the documents that stay."""
    for row, texts in zip(lines(part.folder / ROWS), lines(part.folder / TEXTS), strict=True):
        if row["id"] not in without:
            yield row, texts


def index_row(values: dict[str, Any]) -> Row:
    """The index's row of a finished part's."""
    known = {name: value for name, value in values.items() if name not in ("layout", "lengths", "stated")}
    images = tuple((width, height) for width, height in values["images"])
    lengths = iter(values["lengths"])
    items = tuple(IMAGE if letter == "i" else next(lengths) for letter in values["layout"])
    return Row(**known | {"tokens": sum(values["lengths"]), "images": images, "items": items, "given": tuple(values["given"])})


def _counted(task: FinishTask, staging: Path) -> Iterator[dict[str, Any]]:
    tokenizer = _tokenizer(str(task.tokenizer), task.tokenizer_sha256)
    places = {row["id"]: row for row in lines(staging / "places.jsonl")} if task.without else {}
    batch: list[tuple[dict[str, Any], list[str]]] = []

    def counted() -> Iterator[dict[str, Any]]:
        distinct = list({text: None for _, texts in batch for text in texts})
        lengths = dict(zip(distinct, tokenizer.lengths(distinct), strict=True))
        for row, texts in batch:
            yield row | places.get(row["id"], {}) | {"lengths": [lengths[text] for text in texts]}

    for pair in kept(task.part, task.without):
        batch.append(pair)
        if len(batch) >= _BATCH:
            yield from counted()
            batch.clear()
    yield from counted()


def _without(task: FinishTask, staging: Path) -> tuple[Shard, ...]:
    """The part's shards written again; their places go to places.jsonl."""
    (staging / SHARDS).mkdir()
    written: dict[str, ShardCopy] = {}
    with (staging / "places.jsonl").open("w", encoding="utf-8") as places:
        for row, _ in kept(task.part, task.without):
            copy = written.get(row["shard"])
            if copy is None:
                copy = written[row["shard"]] = ShardCopy(task.part.folder / SHARDS / row["shard"], staging / SHARDS / row["shard"])
            place = copy.take(row["offset"], row["length"])
            places.write(json.dumps({"id": row["id"], "offset": place.offset}) + "\n")
    return tuple(copy.finish() for _, copy in sorted(written.items()))


def _read(folder: Path, task: FinishTask) -> Finished | None:
    try:
        record = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        whole = (folder / ROWS).stat().st_size == record["rows"]
    except (OSError, ValueError, KeyError):
        return None
    return _finished(folder, task, tuple(Shard(**shard) for shard in record["shards"])) if whole else None


def _finished(folder: Path, task: FinishTask, shards: tuple[Shard, ...]) -> Finished:
    return Finished(folder / ROWS, (folder if task.without else task.part.folder) / SHARDS, shards)


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str, sha256: str) -> Tokenizer:
    return Tokenizer.load(Path(path))
