"""From input shards to outputs/index and outputs/shards: parts by a crew, what all of them decide, a second look at each, one index."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.card.provenance import PROVENANCE_FILE, Provenance
from components.data.documents import CorpusError
from components.data.filters.funnel import FUNNEL_FILE, Funnel, funnel_metrics, funnel_rows
from components.data.filters.outcome import records
from components.data.filters.signatures import Signer
from components.data.filters.whole import WholePass, wants_signatures, whole_pass
from components.data.index import COUNTS_FILE, DROPPED_FILE, METRICS_FILE, QUARANTINE_FILE, Row, write_index
from components.data.preparation.attempt import Task
from components.data.preparation.counts import Counts
from components.data.preparation.executors import Crew
from components.data.preparation.finish import Finished, FinishTask, SampleTask, finish_part, index_row, sample_texts
from components.data.preparation.inputs import Corpus
from components.data.preparation.mapping import GivenUp, TaskMap
from components.data.preparation.part import DROPPED, FUNNEL, REJECTED, SIGNATURES, PartTask, discard_unfinished, lines, make_part
from components.data.preparation.progress import Progress
from components.data.preparation.reasons import Reasons
from components.data.preparation.whole import Prepared, Removals, fitted_on, repeated
from components.data.sources.source import Rejected, Unit
from components.data.tokenizer import Tokenizer, fit
from components.params import DataParams
from components.run.failures import FailureClass, StageError
from components.run.filetree import link_tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assembled:
    """The folders to publish, unfinished until they are, and what they hold."""

    shards: Path
    index: Path
    index_sha256: str
    metrics: dict[str, float]
    shard_count: int


class Assembly:
    """Prepares corpora in the work folder `body`, on a crew."""

    def __init__(
        self,
        data: DataParams,
        seed: int,
        corpora: Sequence[Corpus],
        body: Path,
        crew: Crew,
        progress: Progress,
        taken_down: frozenset[str] = frozenset(),
    ) -> None:
        """`taken_down`: ids of documents that must not be in what is made."""
        self._data = data
        self._seed = seed
        self._corpora = corpora
        self._body = body
        self._crew = crew
        self._progress = progress
        self._taken_down = taken_down
        self._units = {f"{corpus.params.name}/{unit.name}": (corpus, unit) for corpus in corpora for unit in corpus.units}
        self._given_up: dict[str, GivenUp] = {}

    def run(self, tokenizer: Path | None) -> Assembled:
        """All of it; with the tokenizer.json that is given, or one fitted on the training texts. Raises CorpusError and StageError."""
        parts = self._parts()
        notes = self._notes(parts)
        leaving = repeated(parts)
        rejected = list(self._rejected(parts, leaving))
        self._check(parts, leaving, [one for _, one in rejected])
        compared = self._compare(parts, leaving)
        tokenizer_json = tokenizer.read_text(encoding="utf-8") if tokenizer else self._fit(parts, leaving)
        finished = self._finish(parts, leaving, tokenizer_json)
        dropped = [(one.corpus, line) for one in parts for line in lines(one.folder / DROPPED)] + list(_losses(parts, compared))
        funnel = compared.funnel
        for one in parts:
            funnel = Funnel.from_json(json.loads((one.folder / FUNNEL).read_text(encoding="utf-8"))) + funnel
        counts = Counts()
        for corpus, note in notes:
            counts.note(corpus, note)
        return self._write(finished, rejected, dropped, funnel, tokenizer_json, counts)

    def _parts(self) -> list[Prepared]:
        folder = self._body / "parts"
        folder.mkdir(exist_ok=True)
        discard_unfinished(folder)
        made: dict[str, Any] = {}

        def done(name: str, value: Any) -> None:
            made[name] = value
            self._progress.ended(None if isinstance(value, GivenUp) else value)
            if isinstance(value, GivenUp):
                self._give_up(value)

        listings = {corpus.params.name: _listing(corpus) for corpus in self._corpora}
        tasks = [
            PartTask(
                corpus=corpus.params,
                folder=corpus.folder,
                reading=corpus.reading,
                unit=unit,
                tag=corpus.tag(unit),
                shard_documents=self._data.shard_documents,
                seed=self._seed,
                signer=Signer.of(self._data) if wants_signatures(self._data, corpus.params) else None,
                joint_stories=self._data.stories == "joint",
                taken_down=self._taken_down,
                listing=listings[corpus.params.name],
                parts=folder,
            )
            for corpus, unit in self._units.values()
        ]
        self._map(make_part, {task.name: task for task in tasks}, done)
        return [
            Prepared(corpus.params.name, unit.name, made[name])
            for name, (corpus, unit) in self._units.items()
            if name not in self._given_up
        ]

    def _notes(self, parts: Sequence[Prepared]) -> list[tuple[str, str]]:
        """What each corpus says of its whole, by the records read; logged, so that it is seen before the end."""
        read: Counter[str] = Counter()
        for one in parts:
            read[one.corpus] += one.part.records
        notes = [(corpus.params.name, note) for corpus in self._corpora for note in corpus.notes(read[corpus.params.name])]
        for _, note in notes:
            _log.warning("%s", note)
        return notes

    def _compare(self, parts: Sequence[Prepared], leaving: Removals) -> WholePass:
        """What the rules over whole corpora drop; it joins what leaves the parts."""
        files: dict[str, list[Path]] = {}
        for one in parts:
            if (one.folder / SIGNATURES).is_file():
                files.setdefault(one.corpus, []).append(one.folder / SIGNATURES)
        gone = {folder / SIGNATURES: ids for folder, ids in leaving.ids.items()}
        compared = whole_pass(self._data, files, self._corpora[0].folder.parent, gone)
        for path, dropped in compared.dropped.items():
            leaving.ids.setdefault(path.parent, set()).update(one.id for one in dropped)
        return compared

    def _give_up(self, failed: GivenUp) -> None:
        """Quarantine an input shard. Raises CorpusError above the rate, StageError where it is of the built-in corpus."""
        corpus, _ = self._units[failed.name]
        if corpus.trusted:
            raise StageError(FailureClass.BUG, f"{failed.name}: {failed.reason}", f"please report this: {failed.trace}")
        self._given_up[failed.name] = failed
        count, total = len(self._given_up), len(self._units)
        if count > self._data.max_quarantine_rate * total:
            reasons = Reasons()
            reasons.add(Rejected(one.name, one.reason) for one in self._given_up.values())
            raise CorpusError(
                f"{count} of {total} input shards cannot be prepared in {failed.attempts} attempts, more than data.max_quarantine_rate "
                f"({self._data.max_quarantine_rate:g}) allows: {reasons.line()}"
            )

    def _rejected(self, parts: Sequence[Prepared], leaving: Removals) -> Iterator[tuple[str, Rejected]]:
        """What is quarantined, with its corpus, in the order of the input."""
        known = {f"{one.corpus}/{one.unit}": one for one in parts}
        for name, (corpus, unit) in self._units.items():
            if name in known:
                yield from ((corpus.params.name, Rejected(**line)) for line in lines(known[name].folder / REJECTED))
            else:
                failed = self._given_up[name]
                reason = f"the whole input shard, after {failed.attempts} attempts: {failed.reason}"
                yield corpus.params.name, Rejected(unit.name, reason)
        yield from leaving.rejected

    def _check(self, parts: Sequence[Prepared], leaving: Removals, refused: Sequence[Rejected]) -> None:
        """Raises CorpusError above the rate, which what is missing is no part of, and where there is nothing to train on."""
        rejected, missing = [one for one in refused if not one.missing], [one for one in refused if one.missing]
        kept = sum(one.part.documents for one in parts) - len(leaving.rejected)
        dropped = sum(one.part.dropped for one in parts)
        total = kept + dropped + len(rejected)
        if len(rejected) > self._data.max_quarantine_rate * total:
            reasons = Reasons()
            reasons.add(rejected)
            raise CorpusError(
                f"{len(rejected)} of {total} documents are unusable, more than data.max_quarantine_rate "
                f"({self._data.max_quarantine_rate:g}) allows: {reasons.line()}"
            )
        if not any(one.part.train_documents for one in parts):
            reasons = Reasons()
            reasons.add(missing)
            told = f"; {len(missing)} documents or pictures are missing: {reasons.line()}" if missing else ""
            raise CorpusError(f"the input has no usable document with split `train`{told}")

    def _fit(self, parts: Sequence[Prepared], leaving: Removals) -> str:
        found: dict[str, Any] = {}
        tasks = {
            f"{one.corpus}/{one.unit}": SampleTask(one.part, leaving.of(one.part), numbers) for one, numbers in fitted_on(parts, leaving)
        }
        self._map(sample_texts, tasks, found.__setitem__)
        texts = [text for name in tasks for text in _value(found[name])]
        return fit(texts, self._data.vocabulary_size)

    def _finish(self, parts: Sequence[Prepared], leaving: Removals, tokenizer_json: str) -> list[Finished]:
        file = self._body / "tokenizer.json"
        file.write_text(tokenizer_json, encoding="utf-8")
        sha256 = Tokenizer(tokenizer_json, self._data.tokenizer or file.name).sha256
        found: dict[str, Any] = {}
        tasks = {f"{one.corpus}/{one.unit}": FinishTask(one.part, leaving.of(one.part), file, sha256) for one in parts}
        self._map(finish_part, tasks, found.__setitem__)
        return [_value(found[name]) for name in tasks]

    def _write(
        self,
        finished: Sequence[Finished],
        rejected: Sequence[tuple[str, Rejected]],
        dropped: Sequence[tuple[str, dict[str, Any]]],
        funnel: Funnel,
        tokenizer_json: str,
        counts: Counts,
    ) -> Assembled:
        shards_folder, index_folder = self._body / "shards", self._body / "index"
        for folder in (shards_folder, index_folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        shards = sorted((shard for one in finished for shard in one.shards), key=lambda shard: shard.name)
        for one in finished:
            for shard in one.shards:
                link_tree(one.shards_folder / shard.name, shards_folder / shard.name)
        provenance = Provenance()
        digest = write_index(index_folder, counts.counting(_rows(finished, provenance)), shards, tokenizer_json)
        for corpus, one_rejected in rejected:
            counts.quarantine(corpus, one_rejected)
        for corpus, line in dropped:
            counts.drop(corpus, line["filter"], line["image"] is None)
        _write_lines(index_folder / QUARANTINE_FILE, [{"corpus": corpus, **vars(one)} for corpus, one in rejected])
        _write_lines(index_folder / DROPPED_FILE, [{"corpus": corpus, **line} for corpus, line in dropped])
        metrics = counts.metrics() | {"quarantined_shards": float(len(self._given_up))} | _of_filters(funnel)
        _write_json(index_folder / METRICS_FILE, metrics)
        _write_json(index_folder / COUNTS_FILE, counts.as_dict())
        _write_json(index_folder / PROVENANCE_FILE, provenance.to_dict())
        _write_json(index_folder / FUNNEL_FILE, {"version": 1, "rows": funnel_rows(funnel)})
        return Assembled(shards_folder, index_folder, digest, metrics, len(shards))

    def _map(self, function: Callable[..., Any], arguments: dict[str, Any], on_done: Callable[[str, Any], None]) -> None:
        marks = self._body / "running"
        shutil.rmtree(marks, ignore_errors=True)
        tasks = [
            Task(name, function, argument, marks / hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest())
            for name, argument in arguments.items()
        ]
        watch = self._progress.watch
        data = self._data
        TaskMap(self._crew, data.shard_attempts, data.shard_timeout_s, on_done, lambda marks: watch(self._crew, marks)).run(tasks)


def _rows(finished: Sequence[Finished], provenance: Provenance) -> Iterator[Row]:
    for one in finished:
        for line in lines(one.rows):
            provenance.add(line["source"], len(line["images"]), line["stated"])
            yield index_row(line)


def _losses(parts: Sequence[Prepared], compared: WholePass) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in parts:
        for dropped in compared.dropped.get(one.folder / SIGNATURES, ()):
            yield from ((one.corpus, dict(line)) for line in records(dropped))


def _of_filters(funnel: Funnel) -> dict[str, float]:
    """The funnel's numbers where there is a filter at all."""
    return funnel_metrics(funnel) if funnel.dropped else {}


def _value(value: Any) -> Any:
    """The value of a task that reads nothing from outside: it has no business to fail."""
    if isinstance(value, GivenUp):
        raise StageError(FailureClass.INFRASTRUCTURE, f"{value.name} could not be finished: {value.reason}", "see the log of the stage")
    return value


def _listing(corpus: Corpus) -> str:
    """Digest of the names, sizes and times of a corpus's files, cheap where their bytes are many."""
    digest = hashlib.sha256(f"{corpus.folder}\0{corpus.params.model_dump_json()}\0{corpus.reading!r}".encode("utf-8", "surrogatepass"))
    for unit in corpus.units:
        digest.update(_unit_listing(corpus, unit).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _unit_listing(corpus: Corpus, unit: Unit) -> str:
    told = [unit.name]
    for name in unit.files:
        with suppress(OSError):
            status = (corpus.folder / name).stat()
            told.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return "\0".join(told)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, values: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
