"""Documents by levels beside all at once: the pretraining of four overlays on the built-in corpus, measured on the same held-out documents.
`python -m benchmarks.progression [--quick] [--repetitions SEEDS] [--json FILE]`. A study without a goal; what came out is in
docs/progressive.md.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.record import Row, options, publish
from components.architecture import architecture
from components.data.documents import Document, TextItem
from components.data.held_out import HeldOutRows
from components.data.index import Index, write_index
from components.data.index import Row as IndexRow
from components.data.pictures import encode_png
from components.data.places import ShardPlaces
from components.data.row import IMAGE
from components.data.shards import ShardWriter
from components.data.sources.digits import compose, export_digits, load_scans
from components.data.tokenizer import Tokenizer, fit
from components.launch.local import launch_ranks
from components.launch.warm import start_warm, warm_ranks
from components.params import DataParams, Params, parse
from components.run.parameters import merged
from components.training.guards.journal import read_journal
from components.training.job import Job, write_job
from components.training.supervise import RANK_MODULE
from components.training.validation.held_out import ModelHeldOut
from components.training.validation.validation import Tally
from model.build import load_model

OVERLAYS = ("interleaved", "staged", "progressive_fixed", "progressive")
ROOT = Path(__file__).resolve().parents[1]
MEASURES = ("text_loss", "image_loss", "stop_accuracy", "placement_accuracy")


def main() -> None:
    asked = options("progression")
    torch.set_num_threads(1)
    overrides = ("pretrain.rows_per_step=2", "pretrain.validation.rows=1") if asked.quick else ()
    with tempfile.TemporaryDirectory() as folder, warm_ranks(os.environ, ROOT, Path(folder) / "zygote.log") as warm:
        rows = measure(Path(folder), [parse(merged(ROOT, name, overrides)) for name in OVERLAYS], asked.repetitions, warm)
    publish("progression", rows, asked)


def measure(folder: Path, overlays: list[Params], seeds: int, warm: Mapping[str, str]) -> list[Row]:
    """Held-out means by level and the moves of each overlay, over so many seeds."""
    write_corpus(folder, overlays[-1].data)
    found: dict[tuple[str, str], list[float]] = {}
    for name, params in zip(OVERLAYS, overlays, strict=True):
        for seed in range(seeds):
            work = folder / name / str(seed)
            train(folder, work, params.model_copy(update={"seed": seed}), {**os.environ, **warm})
            for metric, value in held_out(folder, work, overlays[-1]).items():
                found.setdefault((name, metric), []).append(value)
            for entry in read_journal(work / "events.jsonl")[0]:
                print(f"{name}, seed {seed}: {entry.kind} at step {entry.step}, level {entry.values['level']}", flush=True)
    check = f"all overlays trained the same number of rows; {seeds} seeds"
    rows = []
    for (name, metric), values in found.items():
        first = found.get((OVERLAYS[0], metric), [])
        peer = statistics.median(first) if name != OVERLAYS[0] and first else None
        rows.append(Row(name, metric, statistics.median(values), f"{min(values):.3g} to {max(values):.3g}", check, peer=peer))
    budgets = {params.pretrain.token_budget for params in overlays}
    if len(budgets) > 1:
        raise ValueError(f"the overlays train {budgets} tokens; they cannot be compared")
    return rows


def write_corpus(folder: Path, data: DataParams) -> None:
    """The built-in corpus of the parameters, without the stage around it."""
    for name in ("digits", "shards", "index"):
        (folder / name).mkdir()
    export_digits(folder / "digits")
    scans = load_scans(folder / "digits")
    documents: list[tuple[Document, dict[str, object]]] = []
    with ShardWriter(folder / "shards", data.shard_documents) as writer:
        for split in ("train", "evaluation"):
            for document, pictures in compose(data, 0, *scans, split):
                documents.append((document, vars(writer.add(document, [encode_png(picture) for picture in pictures]))))
        shards = writer.finish()
    vocabulary = fit([text for document, _ in documents for text in document.texts], data.vocabulary_size)
    tokenizer = Tokenizer(vocabulary)
    write_index(folder / "index", [_row(document, place, tokenizer) for document, place in documents], shards, vocabulary)


def train(folder: Path, work: Path, params: Params, environment: Mapping[str, str]) -> None:
    """The pretraining of these parameters by the real rank program."""
    work.mkdir(parents=True)
    config = architecture(params.model, Index(folder / "index").tokenizer.vocab_size)
    job = Job(
        stage="pretrain",
        seed=params.seed,
        deterministic=True,
        device="cpu",
        train=params.pretrain.model_copy(update={"ranks": 1}),
        patterns={},
        text_loss_weight=params.model.text_loss_weight,
        image_loss_weight=params.model.image_loss_weight,
        condition_drop=params.model.condition_drop,
        window_documents=params.data.window_documents,
        model=config.to_dict(),
        initial=None,
        resume=None,
        index=folder / "index",
        shards=ShardPlaces(folder=folder / "shards"),
        work=work,
    )
    write_job(job)
    with launch_ranks(RANK_MODULE, [str(work)], 1, environment, work / "logs", start_warm) as ranks:
        while not (state := ranks.poll())[0]:
            time.sleep(0.2)
    if state[1] is not None:
        sys.exit(f"training ended with status {state[1].status}: {state[1].last_words()}")


def held_out(folder: Path, work: Path, leveled: Params) -> dict[str, float]:
    """Means of the trained model by level of `leveled`, whatever its own training had."""
    model, settings = load_model(work / "export").eval(), leveled.pretrain
    rows = HeldOutRows(folder / "index", ShardPlaces(folder=folder / "shards"), settings, model.config.shape, 0)
    batches = ModelHeldOut(rows, model.config, settings.rows_per_step, settings.progression.levels)
    tally = Tally(batches)
    with torch.no_grad():
        for batch, _ in batches.batches(0, 1):
            tally.add(batch, model(*batch.arguments))
    means = tally.read()
    names = [f"validation/bucket_{level}/{measure}" for level in batches.buckets for measure in MEASURES]
    return {name.removeprefix("validation/"): means[name] for name in names if name in means}


def _row(document: Document, place: Mapping[str, object], tokenizer: Tokenizer) -> IndexRow:
    items = tuple(len(tokenizer.encode(item.text)) if isinstance(item, TextItem) else IMAGE for item in document.items)
    return IndexRow(
        id=document.id,
        source="digits",
        kind=document.kind,
        split=document.split,
        **place,  # type: ignore[arg-type]
        tokens=sum(tokens for tokens in items if tokens != IMAGE),
        images=((32, 32),) * len(document.images),
        trained_images=sum(item.loss for item in document.images),
        items=items,
        given=tuple(number for number, item in enumerate(document.items) if not item.loss),
    )


if __name__ == "__main__":
    main()
