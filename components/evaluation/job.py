"""What the generating ranks are asked, and how its requests are cut into batches. Needs no torch.

Batches are cut the same way in every attempt, so that the same job gives the same answers after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from components.evaluation.answer_log import read_answers
from components.evaluation.manifest import Manifest, Request

JOB_FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """Where the generating program finds what it needs. `models` are folders of verified weights, by who answers."""

    models: dict[str, str]
    index: str
    shards: Mapping[str, Any]
    """The places of the shards, as `ShardPlaces` dumps itself."""
    batch_documents: int
    ranks: int
    device: str
    deterministic: bool

    def write(self, folder: Path) -> None:
        (folder / JOB_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        values: dict[str, Any] = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        return cls(**values)


def batches(requests: Sequence[Request], size: int, ranks: int) -> list[list[Request]]:
    """Requests of one kind, mode and model together, at most `size` at once and evenly cut so that all ranks have work."""
    cut: list[list[Request]] = []
    for _, group in groupby(sorted(requests, key=_alike), key=_alike):
        together = list(group)
        parts = min(len(together), -(-len(together) // (size * ranks)) * ranks)
        bounds = [len(together) * part // parts for part in range(parts + 1)]
        cut += [together[start:stop] for start, stop in pairwise(bounds)]
    return cut


def unanswered(folder: Path, manifest: Manifest, job: Job, rank: int) -> list[list[Request]]:
    """Batches of this rank in which a request has no answer yet."""
    known = read_answers(folder)
    mine = batches(manifest.requests, job.batch_documents, job.ranks)[rank :: job.ranks]
    return [batch for batch in mine if any(request.id not in known for request in batch)]


def _alike(request: Request) -> tuple[str, str, str]:
    return request.answering, request.mode, request.kind
