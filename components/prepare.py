"""Stage `prepare`: the input becomes checked documents in WebDataset shards, with an index and a tokenizer.

A pure function of data/input and the `data` and `seed` parameters: the same input gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.data.documents import SPLITS, CorpusError, ImageItem
from components.data.index import METRICS_FILE, QUARANTINE_FILE, Row, write_index
from components.data.pictures import encode_png
from components.data.row import IMAGE
from components.data.shards import ShardWriter
from components.data.sources.digits import compose, load_scans
from components.data.sources.formats import open_source
from components.data.sources.source import Accepted, Limits, Rejected
from components.data.tokenizer import Tokenizer, fit
from components.params import CorpusParams, DataParams, Params
from components.results import PrepareResult
from components.run.failures import FailureClass, StageError
from components.run.main import StageContext, stage_main
from components.run.paths import Paths

_PROGRESS_EVERY = 500


def run(params: Params, paths: Paths, context: StageContext) -> PrepareResult:
    """Write outputs/shards and outputs/index, each whole or not at all. Unusable input fails with class bad_data."""
    try:
        return _prepare(params, paths, context)
    except CorpusError as error:
        raise StageError(FailureClass.BAD_DATA, str(error), "mend the input named here and run again") from None


def samples(data: DataParams, seed: int, folder: Path) -> Iterator[Accepted | Rejected]:
    """Documents of the configured source below data/input, in the order in which they are stored."""
    if data.source != "digits":
        limits = Limits(data.max_image_pixels, data.max_text_bytes, data.max_document_images)
        for corpus in data.corpora or (CorpusParams(name="folder", format="documents"),):
            source = open_source(corpus, folder / corpus.name, limits)
            for unit in source.units():
                yield from source.documents(unit)
        return
    scans, labels = load_scans(folder / "digits")
    for split in SPLITS:
        for document, pictures in compose(data, seed, scans, labels, split):
            yield Accepted(document, [encode_png(picture) for picture in pictures], [picture.shape[1::-1] for picture in pictures])


def _prepare(params: Params, paths: Paths, context: StageContext) -> PrepareResult:
    shards_folder, index_folder = context.work.body / "shards", context.work.body / "index"
    for folder in (shards_folder, index_folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    data = params.data
    expected = sum(data.documents.values()) + sum(data.evaluation_documents.values()) if data.source == "digits" else 0
    rows: list[Row] = []
    texts: list[tuple[str, ...]] = []
    rejected: list[Rejected] = []
    with ShardWriter(shards_folder, data.shard_documents) as writer:
        for done, sample in enumerate(samples(data, params.seed, paths.input), 1):
            if isinstance(sample, Rejected):
                rejected.append(sample)
                continue
            document = sample.document
            place = writer.add(document, sample.images)
            trained = sum(item.loss for item in document.images)
            rows.append(
                Row(
                    id=document.id,
                    source=document.source,
                    kind=document.kind,
                    split=document.split,
                    **vars(place),
                    tokens=0,
                    images=tuple(sample.sizes),
                    trained_images=trained,
                    items=tuple(IMAGE if isinstance(item, ImageItem) else 0 for item in document.items),
                    given=tuple(number for number, item in enumerate(document.items) if not item.loss),
                )
            )
            texts.append(document.texts)
            if done % _PROGRESS_EVERY == 0:
                context.events.progress(done, max(expected, done), "documents")
        shards = writer.finish()
    _check(rows, rejected, data)
    tokenizer_json = fit([text for row, own in zip(rows, texts, strict=True) if row.split == "train" for text in own], data.vocabulary_size)
    counted = _count_tokens(rows, texts, Tokenizer(tokenizer_json))
    index_sha256 = write_index(index_folder, counted, shards, tokenizer_json)
    _write_lines(index_folder / QUARANTINE_FILE, [vars(one) for one in rejected])
    metrics = _metrics(counted, rejected)
    (index_folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    context.work.publish(shards_folder, paths.shards)
    context.work.publish(index_folder, paths.index)
    summary = f"{len(counted)} documents in {len(shards)} shards, {len(rejected)} quarantined"
    return PrepareResult(metrics=metrics, summary=summary, documents=len(counted), quarantined=len(rejected), index_sha256=index_sha256)


def _check(rows: list[Row], rejected: list[Rejected], data: DataParams) -> None:
    rate = len(rejected) / max(1, len(rejected) + len(rows))
    if rate > data.max_quarantine_rate:
        first = "; ".join(f"{one.where}: {one.reason}" for one in rejected[:3])
        raise CorpusError(
            f"{len(rejected)} of {len(rejected) + len(rows)} documents are unusable, "
            f"more than data.max_quarantine_rate ({data.max_quarantine_rate:g}) allows: {first}"
        )
    if not any(row.split == "train" for row in rows):
        raise CorpusError("the input has no usable document with split `train`")


def _count_tokens(rows: list[Row], texts: list[tuple[str, ...]], tokenizer: Tokenizer) -> list[Row]:
    distinct = list({text: None for own in texts for text in own})
    lengths = dict(zip(distinct, tokenizer.lengths(distinct), strict=True))
    counted = []
    for row, own in zip(rows, texts, strict=True):
        numbers = [lengths[text] for text in own]
        left = iter(numbers)
        counted.append(replace(row, tokens=sum(numbers), items=tuple(IMAGE if one == IMAGE else next(left) for one in row.items)))
    return counted


def _metrics(rows: list[Row], rejected: list[Rejected]) -> dict[str, float]:
    total = len(rows) + len(rejected)
    metrics: dict[str, float] = {f"{split}_documents": sum(row.split == split for row in rows) for split in SPLITS}
    metrics |= {"images": sum(len(row.images) for row in rows), "text_tokens": sum(row.tokens for row in rows)}
    metrics |= {"quarantined": len(rejected), "quarantine_rate": round(len(rejected) / max(1, total), 6)}
    return metrics


def _write_lines(path: Path, values: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(stage_main("prepare", run))
