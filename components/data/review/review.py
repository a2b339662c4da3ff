"""A review: the documents of a folder, what was decided about them, and the folder that comes of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from components.data.documents import CorpusError, Document, DocumentError, document_from
from components.data.review.decisions import DECISIONS_FILE, Decision, DecisionLog, decided
from components.data.sources.files import json_lines, read_image
from components.data.sources.folder import DOCUMENTS_FILE
from components.data.sources.source import Rejected

MAX_DOCUMENTS = 200_000
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Written:
    """What a finished review came to."""

    folder: Path
    documents: int
    accepted: int
    edited: int
    rejected: int
    undecided: int


class Review:
    """The documents of a folder in our own form (documents.jsonl and pictures), in order, under the decisions kept in another folder."""

    def __init__(self, folder: Path, kept: Path) -> None:
        """Raises CorpusError for a folder without documents.jsonl, with lines that are no documents, or with too many."""
        path = folder / DOCUMENTS_FILE
        if not path.is_file():
            raise CorpusError(f"{path} does not exist; only folders in the form of docs/data.md can be reviewed")
        self.folder = folder
        self.documents: dict[str, Document] = {}
        with path.open("rb") as file:
            for line in json_lines(file, DOCUMENTS_FILE):
                if isinstance(line, Rejected):
                    raise CorpusError(f"{folder}: {line.where}: {line.reason}")
                document = _document(folder, *line)
                if document.id in self.documents:
                    raise CorpusError(f"{folder}: {line[0]}: id {document.id} was used before")
                self.documents[document.id] = document
                if len(self.documents) > MAX_DOCUMENTS:
                    raise CorpusError(f"{folder} has more than {MAX_DOCUMENTS} documents; review a sample of them")
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.log = DecisionLog(kept / self.digest[:16])

    def picture(self, document: str, number: int) -> bytes:
        """The encoded file of a document's picture. Raises DocumentError where there is none."""
        images = self.documents[document].images if document in self.documents else ()
        if not 0 <= number < len(images):
            raise DocumentError(f"document {document} has no picture {number}")
        return read_image(self.folder, images[number].path, _MAX_PIXELS)

    def decide(self, decision: Decision) -> None:
        """Keep a decision. Raises DocumentError for an unknown document or an edit that makes no document."""
        if decision.document not in self.documents:
            raise DocumentError(f"there is no document {decision.document}")
        decided(self.documents[decision.document], decision)
        self.log.add(decision)

    def write(self, target: Path, keep_undecided: bool) -> Written:
        """Write what came of it as a new folder of the same form, whole or not at all. Raises CorpusError where `target` exists."""
        if target.exists():
            raise CorpusError(f"{target} exists; name another folder for the reviewed version")
        latest = self.log.latest()
        counts: Counter[str] = Counter()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".review-") as scratch:
            fresh = Path(scratch) / target.name
            fresh.mkdir()
            with (fresh / DOCUMENTS_FILE).open("w", encoding="utf-8") as lines:
                for document in self.documents.values():
                    decision = latest.get(document.id)
                    action = "undecided" if decision is None else decision.action
                    counts[action] += 1
                    after = document if decision is None else decided(document, decision)
                    if after is None or (action == "undecided" and not keep_undecided):
                        continue
                    counts["documents"] += 1
                    lines.write(after.model_dump_json() + "\n")
                    for item in after.images:
                        copy = fresh / item.path
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        copy.write_bytes(read_image(self.folder, item.path, _MAX_PIXELS))
                lines.flush()
                os.fsync(lines.fileno())
            (fresh / DECISIONS_FILE).write_text("".join(latest[name].model_dump_json() + "\n" for name in sorted(latest)), encoding="utf-8")
            fresh.rename(target)
        return Written(target, counts["documents"], counts["accept"], counts["edit"], counts["reject"], counts["undecided"])


def _document(folder: Path, where: str, values: dict[str, object]) -> Document:
    try:
        return document_from(values)
    except DocumentError as error:
        raise CorpusError(f"{folder}: {where}: {error}") from None


def summary(review: Review) -> list[dict[str, object]]:
    """Each document in a line for the page: id, kind, action, first words."""
    latest = review.log.latest()
    return [
        {
            "id": document.id,
            "kind": document.kind,
            "origin": document.origin,
            "images": len(document.images),
            "action": latest[document.id].action if document.id in latest else "undecided",
            "words": next(iter(document.texts), "")[:80],
        }
        for document in review.documents.values()
    ]


def as_shown(review: Review, document: str) -> dict[str, object]:
    """A document and the last decision about it as JSON values. Raises DocumentError where there is none of that id."""
    if document not in review.documents:
        raise DocumentError(f"there is no document {document}")
    decision = review.log.latest().get(document)
    values: dict[str, object] = json.loads(review.documents[document].model_dump_json())
    return {"document": values, "decision": json.loads(decision.model_dump_json()) if decision else None}
