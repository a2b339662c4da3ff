"""Captions for a corpus, shard by shard: what is there already is left, what is missing is made, a kill costs one shard at most."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from components.curation_params import CaptioningParams
from components.data.captioning.files import CORPUS_FOLDER, VERSION, Cost, Head, Line, read_head, shard_digest, unit_file, write
from components.data.captioning.request import Captioner, Request, cleaned
from components.data.captioning.waiting import told_picture, waits
from components.data.documents import CorpusError
from components.data.sources.source import Accepted, Source, Unit
from components.run.failures import FailureClass, StageError
from components.run.filetree import remove, write_whole
from components.run.lease import Lease
from components.tracking.weights import file_sha256

MANIFEST_FILE = "captions.json"
_AT_ONCE = 64
_FAILED_SHARDS = 3
"""After so many shards in a row without captions nothing more is asked."""

Progress = Callable[[str, int, int], None]


class Scores(Protocol):
    """Image-text agreement: `Alignment`, or nothing."""

    digest: str

    def scores(self, texts: list[str], pictures: list[bytes]) -> list[float]: ...


@dataclass
class Captioned:
    """What a run of captioning did: shards made, left as they were and failed, by reason; documents captioned and without an answer."""

    made: int = 0
    kept: int = 0
    failed_units: dict[str, str] = field(default_factory=dict)
    captioned: int = 0
    failed: int = 0


class CorpusCaptioner:
    """Captions the documents that wait in `folder/corpus`, a file a shard in `folder/captions`."""

    def __init__(
        self, source: Source, folder: Path, captioner: Captioner, params: CaptioningParams, alignment: Scores | None = None
    ) -> None:
        self._source, self._folder, self._captioner, self._params, self._alignment = source, folder, captioner, params, alignment
        self._prompt = captioner.usual_prompt if params.prompt is None else params.prompt

    def run(self, tell: Progress) -> Captioned:
        """Make what is missing, then write captions.json. Raises CorpusError where somebody else does, StageError where nothing works."""
        folder = self._folder / ".captioning"
        lease = Lease(folder)
        if not lease.try_acquire():
            raise CorpusError(f"another process captions {self._folder}; wait for it to end")
        try:
            return self._run(tell)
        finally:
            lease.release()
            remove(folder)  # what is pinned as the corpus holds no trace of who captioned it

    def _run(self, tell: Progress) -> Captioned:
        done, units, in_a_row = Captioned(), self._source.units(), 0
        for number, unit in enumerate(units, 1):
            shard = shard_digest(self._folder / CORPUS_FOLDER, unit.files)
            head = read_head(self._folder, unit.name)
            if head is not None and head.key == self._key(shard):
                done.kept += 1
                done.captioned, done.failed = done.captioned + head.captioned, done.failed + head.failed
                continue
            if problem := self._caption(unit, shard, done):
                done.failed_units[unit.name] = problem
                in_a_row += 1
                if in_a_row >= _FAILED_SHARDS:
                    message = f"{in_a_row} shards in a row could not be captioned; the last: {problem}"
                    raise StageError(FailureClass.INFRASTRUCTURE, message, "mend it and run the same command to go on")
            else:
                done.made, in_a_row = done.made + 1, 0
            tell(unit.name, number, len(units))
        write_whole(self._folder / MANIFEST_FILE, json.dumps(self._manifest(units), indent=1, sort_keys=True) + "\n")
        return done

    def _key(self, shard: str) -> str:
        values = [VERSION, shard, self._captioner.digest, self._prompt, self._params.replace, self._params.text.model_dump(mode="json")]
        return hashlib.sha256(json.dumps([*values, self._alignment.digest if self._alignment else None]).encode()).hexdigest()

    def _caption(self, unit: Unit, shard: str, done: Captioned) -> str:
        """Write the shard's captions; or the reason why they are not written."""
        lines: list[Line] = []
        costs: list[Cost] = []
        waiting = (one for one in self._source.documents(unit) if isinstance(one, Accepted) and waits(one.document, self._params.replace))
        for batch in _batches(waiting, _AT_ONCE):
            for line, cost in self._answers(batch):
                lines.append(line)
                costs.append(cost)
        failed = [line.problem for line in lines if line.text is None]
        if len(failed) > self._params.max_failed_rate * len(lines):
            reason, count = Counter(failed).most_common(1)[0]
            return f"{len(failed)} of {len(lines)} pictures have no usable caption; {count} times: {reason}"
        head = Head(
            version=VERSION,
            key=self._key(shard),
            unit=unit.name,
            shard=shard,
            captioner=self._captioner.name,
            captioner_digest=self._captioner.digest,
            prompt=self._prompt,
            replace=self._params.replace,
            alignment_digest=self._alignment.digest if self._alignment else None,
            captioned=len(lines) - len(failed),
            failed=len(failed),
        )
        write(self._folder, head, lines, costs)
        done.captioned, done.failed = done.captioned + head.captioned, done.failed + head.failed
        return ""

    def _answers(self, batch: list[Accepted]) -> Iterator[tuple[Line, Cost]]:
        pictures = [one.images[told_picture(one.document)] for one in batch]
        replies = self._captioner.answer([Request(self._prompt, (picture,)) for picture in pictures])
        replies = [cleaned(reply, self._params.text) for reply in replies]
        told = [(reply.text, picture) for reply, picture in zip(replies, pictures, strict=True) if reply.text is not None]
        scores = iter(self._alignment.scores([text for text, _ in told], [picture for _, picture in told]) if self._alignment else ())
        for one, reply in zip(batch, replies, strict=True):
            score = next(scores, None) if reply.text is not None else None
            name = one.document.id
            cost = Cost(id=name, seconds=round(reply.seconds, 6), usd=reply.usd)
            yield Line(id=name, text=reply.text, problem=reply.problem, alignment=score), cost

    def _manifest(self, units: Iterable[Unit]) -> dict[str, Any]:
        """What the captions are and come from; no time and no cost is in it."""
        heads = [head for unit in units if (head := read_head(self._folder, unit.name)) is not None]
        return {
            "version": VERSION,
            "captioner": self._captioner.name,
            "captioner_digest": self._captioner.digest,
            "weights_digest": getattr(self._captioner, "weights_digest", None),
            "prompt": self._prompt,
            "replace": self._params.replace,
            "captioned": sum(head.captioned for head in heads),
            "failed": sum(head.failed for head in heads),
            "units": {
                head.unit: {
                    "file": unit_file(head.unit),
                    "sha256": file_sha256(self._folder / "captions" / unit_file(head.unit)),
                    "captioner_digest": head.captioner_digest,
                    "captioned": head.captioned,
                    "failed": head.failed,
                }
                for head in heads
            },
        }


def _batches(documents: Iterator[Accepted], size: int) -> Iterator[list[Accepted]]:
    while batch := list(islice(documents, size)):
        yield batch
