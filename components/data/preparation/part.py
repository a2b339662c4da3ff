"""A part: what one input shard becomes. Made whole or not at all, named by what decides it, found again after a kill."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from components.data.captioning.waiting import WAITING, waits
from components.data.card.provenance import STATED_FACTS
from components.data.documents import CorpusError, Document, ImageItem
from components.data.filters.chain import Filters
from components.data.filters.funnel import TAKEDOWN, Funnel
from components.data.filters.outcome import Dropped, Outcome, records
from components.data.filters.signatures import Signature, Signer
from components.data.preparation.inputs import Documents, Reading
from components.data.shards import Place, Shard, ShardWriter
from components.data.sources.source import Accepted, Rejected, Unit
from components.data.stories import joint
from components.params import CorpusParams

VERSION = 1
SHARDS = "shards"
ROWS, TEXTS, REJECTED, DROPPED, RECORD = "rows.jsonl", "texts.jsonl", "rejected.jsonl", "dropped.jsonl", "part.json"
FUNNEL, SIGNATURES = "funnel.json", "signatures.safetensors"
HASHES = "ids.npy"
_COUNTS = ("documents", "train_documents", "rejected", "dropped", "train_texts")
_CHUNK_BYTES = 1 << 20
_ENCODER = json.JSONEncoder(separators=(",", ":"))
Tell = Callable[[int, int], None]
"""Told of the documents read and the bytes written so far."""


@dataclass(frozen=True)
class PartTask:
    """One input shard to prepare. `signer` makes the signatures that rules over the whole corpus compare, None where no rule does;
    `joint_stories`: see `joint`; `taken_down` are ids of documents that are not wanted any more; `listing` is a digest of what the corpus
    holds: an opened one is used again where it is equal."""

    corpus: CorpusParams
    folder: Path
    reading: Reading
    unit: Unit
    tag: str
    shard_documents: int
    seed: int
    signer: Signer | None
    joint_stories: bool
    taken_down: frozenset[str]
    listing: str
    parts: Path

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.corpus.name}/{self.unit.name}"

    def digest(self) -> str:
        """Names the part: a digest of the bytes of its files and of every parameter that shapes it. Raises CorpusError for a file that
        cannot be read."""
        values = {
            "version": VERSION,
            "unit": self.unit.name,
            "files": [_file_digest(str(self.folder / name)) for name in self.unit.files],
            "reading": _plain(self.reading),
            "corpus": self.corpus.model_dump(mode="json"),
            "shard_documents": self.shard_documents,
            "seed": self.seed,
            "signer": self.signer and vars(self.signer),
            "joint_stories": self.joint_stories,
            "taken_down": sorted(self.taken_down),
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Part:
    """A finished part. `documents` are those in its shards, `train_texts` the texts of those to train on; `found`: an earlier attempt made
    it."""

    folder: Path
    documents: int
    train_documents: int
    rejected: int
    dropped: int
    train_texts: int
    shards: tuple[Shard, ...]
    found: bool

    @property
    def records(self) -> int:
        """What was read: documents, and what became none."""
        return self.documents + self.dropped + self.rejected

    @property
    def bytes(self) -> int:
        """Size of its shards."""
        return sum(shard.size for shard in self.shards)


def make_part(task: PartTask, tell: Tell) -> Part:
    """Prepare an input shard, or find the part that an earlier attempt finished. Raises CorpusError, OSError and what the corpus raises."""
    folder = task.parts / task.digest()
    if (known := read_part(folder)) is not None:
        return known
    staging = task.parts / f".{folder.name}.{uuid.uuid4().hex}.partial"
    (staging / SHARDS).mkdir(parents=True)
    try:
        part = _write(task, staging, folder, tell)
        _place(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return part


def read_part(folder: Path) -> Part | None:
    """The part in a folder; None where there is none that is whole."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    if record["version"] != VERSION or not whole:
        return None
    counts = {name: record[name] for name in _COUNTS}
    return Part(folder, shards=tuple(Shard(**shard) for shard in record["shards"]), found=True, **counts)


def id_hash(name: str) -> int:
    """64 bits of a document's id."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def lines(file: Path) -> Iterator[Any]:
    """The values of a file of JSON lines."""
    with file.open(encoding="utf-8") as opened:
        for line in opened:
            yield json.loads(line)


def discard_unfinished(parts: Path) -> None:
    """Remove what killed attempts left. Call it before any is begun."""
    for left in parts.glob(".*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def _write(task: PartTask, staging: Path, folder: Path, tell: Tell) -> Part:
    with ExitStack() as stack:
        writer = stack.enter_context(ShardWriter(staging / SHARDS, task.shard_documents, task.corpus.name, task.tag))
        rows, texts, rejected, dropped = (
            stack.enter_context((staging / name).open("w", encoding="utf-8")) for name in (ROWS, TEXTS, REJECTED, DROPPED)
        )
        counts = dict.fromkeys(_COUNTS, 0)
        rules = Filters(task.corpus, task.seed, task.folder)
        funnel = rules.nothing
        signatures: list[Signature] = []
        seen: set[str] = set()
        stored: list[str] = []
        written = 0
        for number, sample in enumerate(_opened(task).documents(task.unit), 1):
            tell(number, written)
            if isinstance(sample, Accepted) and sample.document.id in seen:
                sample = Rejected(task.unit.name, f"id {sample.document.id} was used before")
            elif isinstance(sample, Accepted) and waits(sample.document, replace=False):
                sample = Rejected(f"{task.unit.name}:{sample.document.id}", WAITING)
            if isinstance(sample, Rejected):
                counts["rejected"] += 1
                _line(rejected, asdict(sample))
                continue
            seen.add(sample.document.id)
            if task.joint_stories:
                sample = replace(sample, document=joint(sample.document))
            if sample.document.id in task.taken_down:
                outcome: Outcome = Dropped(sample.document.id, TAKEDOWN, "taken down", len(sample.images))
            else:
                outcome = rules.apply(sample)
            funnel += Funnel.of(task.corpus.name, outcome)
            for loss in records(outcome):
                _line(dropped, loss)
            if isinstance(outcome, Dropped):
                counts["dropped"] += 1
                continue
            document = outcome.accepted.document
            counts["documents"] += 1
            if document.split == "train":
                counts["train_documents"] += 1
                counts["train_texts"] += len(document.texts)
            stored.append(document.id)
            place = writer.add(document, outcome.accepted.images)
            written += place.length
            _line(rows, _row(outcome.accepted, place))
            _line(texts, document.texts)
            if task.signer is not None:
                signatures.append(task.signer.signature(outcome.accepted))
        shards = writer.finish()
    (staging / FUNNEL).write_text(json.dumps(funnel.as_json()), encoding="utf-8")
    if task.signer is not None:
        task.signer.save(staging / SIGNATURES, signatures)
    np.save(staging / HASHES, np.fromiter(map(id_hash, stored), np.uint64), allow_pickle=False)
    files = {path.relative_to(staging).as_posix(): path.stat().st_size for path in sorted(staging.rglob("*")) if path.is_file()}
    record: dict[str, Any] = {
        "version": VERSION,
        "unit": task.name,
        **counts,
        "shards": [asdict(shard) for shard in shards],
        "files": files,
    }
    (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return Part(folder, shards=tuple(shards), found=False, **counts)


def _row(sample: Accepted, place: Place) -> dict[str, Any]:
    """What is known of a stored document before its tokens are counted; `layout` has a letter for each item, `i` image and `t` text."""
    document = sample.document
    return {
        "id": document.id,
        "source": document.source,
        "kind": document.kind,
        "split": document.split,
        **vars(place),
        "images": sample.sizes,
        "trained_images": sum(item.loss for item in document.images),
        "layout": "".join("i" if isinstance(item, ImageItem) else "t" for item in document.items),
        "given": [number for number, item in enumerate(document.items) if not item.loss],
        "stated": _stated(document),
    }


def _stated(document: Document) -> dict[str, Any]:
    """What the data card adds up."""
    facts = {name: document.facts[name] for name in STATED_FACTS if name in document.facts}
    return {"origin": document.origin, "licence": document.licence} | facts


def _line(file: TextIO, value: Any) -> None:
    file.write(_ENCODER.encode(value) + "\n")


def _place(staging: Path, folder: Path) -> None:
    """Give the finished part its name. Where another process was quicker its part stays: the bytes are the same."""
    try:
        os.rename(staging, folder)
    except OSError:
        if read_part(folder) is not None:
            shutil.rmtree(staging, ignore_errors=True)
            return
        shutil.rmtree(folder, ignore_errors=True)  # damaged: a power cut between its files and their sizes
        os.rename(staging, folder)


def _opened(task: PartTask) -> Documents:
    return _open(_Opening(task.reading, task.listing))


@dataclass(frozen=True)
class _Opening:
    """A corpus to open, compared by its listing: what is opened again and again by one process may be large."""

    reading: Reading
    listing: str

    def __hash__(self) -> int:
        return hash(self.listing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opening) and other.listing == self.listing


@functools.lru_cache(maxsize=1)
def _open(opening: _Opening) -> Documents:
    return opening.reading.open()


def _plain(reading: Reading) -> Any:
    """The values behind a reading without the place of its files, which may lie anywhere."""
    return {name: value for name, value in vars(reading).items() if name not in ("folder", "corpus")}


@functools.lru_cache(maxsize=64)
def _digest(path: str, size: int, modified_ns: int, number: int) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _file_digest(path: str) -> str:
    """Digest of a file; of one that many units share (annotations) it is taken once per process."""
    try:
        status = os.stat(path)
        return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
