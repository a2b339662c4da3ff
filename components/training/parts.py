"""What a rank trains: MM-Interleaved on the training stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from components.data.held_out import HeldOutRows
from components.data.index import TOKENIZER_FILE
from components.data.stream import Cursor, TrainStream
from components.data.tokenizer import Tokenizer
from components.run.failures import FailureClass, StageError
from components.training.checkpoints.resume import read_cursor
from components.training.guards.rollbacks import leave_out
from components.training.job import Job
from components.training.objective import Targets
from components.training.optimizer import check_patterns
from components.training.start import start_network, write_beside
from components.training.telemetry.sources import labels
from components.training.validation.held_out import ModelHeldOut
from components.training.validation.validation import HeldOut
from model.batch import InterleavedBatch
from model.build import build_on_meta, check_sampling
from model.config import ModelConfig, ModelShape
from model.mm_interleaved import MMInterleaved
from model.sequence import Layout, plan
from model.weights import write_weights

if TYPE_CHECKING:
    from components.training.fit import BatchOf, CursorOf, Save


_log = logging.getLogger(__name__)
_COUNTED_STEPS = 16
"""Steps whose targets give a new model its token frequencies."""


def mm_interleaved(job: Job) -> tuple[MMInterleaved, BatchOf, Save, CursorOf, HeldOut | None, TrainStream | None]:
    """The network of a job, its batches, how its weights are written (with the tokenizer beside them), where its data stand, what it is
    validated on, and what draws its rows by levels.

    Raises CorpusError, ConfigError or WeightsError when the data or the initial weights cannot be used, StageError (bad_config) for a
    pattern that no parameter's name contains.
    """
    network = start_network(job)
    check_sampling(network.config)
    if job.train.activation_checkpointing:
        network.checkpoint_activations()
    config = network.config
    check_patterns(_names(network), job.patterns)
    Tokenizer.load(job.index / TOKENIZER_FILE).check_fits(config.vocab_size, "the model to train")
    stream = open_stream(job, config.shape)
    for name, count in stream.excluded.items():
        if count:
            _log.warning("%s: %d documents of %s fit in no row of %d tokens and are left out", job.stage, count, name, job.train.row_tokens)
    for name, count in stream.beyond.items():
        if count:
            _log.warning("%s: %d documents of %s are above all levels and are left out", job.stage, count, name)

    def laid_out(rows: InterleavedBatch) -> tuple[InterleavedBatch, Layout]:
        rows = rows if len(rows.images) else rows.with_blank_image(config.shape)
        return rows, plan(rows, config)

    def batch_of(step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Any, ...], Targets]:
        rows, names = stream.named_batch(step, rank, ranks, micro)
        if (coming := step + max(1, job.train.loader_workers)) < job.train.steps:  # what this process will be asked for next
            stream.prefetch(coming, rank, ranks, micro)
        rows, layout = laid_out(rows)
        images, weight = int(layout.decode_weight.sum()), layout.target_weight
        text = len(layout.target) if weight is None else float(weight.double().sum())
        of_names = labels(rows, layout, names, len(job.train.names))
        return (rows, layout), Targets(text, images, int(rows.attention_mask.sum()), len(rows.images), of_names)

    if job.initial is None and (job.resume is None or _is_frozen(job, "text_decoder.head.bias")):  # else a checkpoint overwrites it
        begun = job.resume or job.rollbacks
        from_start = open_stream(job, config.shape, Cursor()) if begun else stream  # a model starts the same however its training goes on
        whole_steps = product(range(min(_COUNTED_STEPS, job.train.steps)), range(job.train.micro_batches(1)))
        targets = torch.cat([laid_out(from_start.batch(step, 0, 1, micro))[1].target for step, micro in whole_steps])
        network.text_decoder.expect(targets.bincount(minlength=config.vocab_size + 2))

    def save(trained: nn.Module, folder: Path) -> None:
        write_weights([trained.state_dict()], 1, folder)
        write_beside(trained, job, folder)

    levels = stream if job.train.progression.mode != "none" else None
    return network, batch_of, save, lambda step: stream.cursor(step).to_dict(), _held_out(job, config), levels


def open_stream(job: Job, shape: ModelShape, cursor: Cursor | None = None) -> TrainStream:
    """The training stream of a job, at a cursor or where it goes on. Raises CorpusError."""
    return TrainStream(
        job.index,
        job.shards,
        job.train,
        shape,
        job.seed,
        condition_drop=job.condition_drop,
        window_documents=job.window_documents,
        cursor=leave_out(read_cursor(job.resume), job.rollbacks) if cursor is None else cursor,
    )


def _held_out(job: Job, config: ModelConfig) -> HeldOut | None:
    """The held-out rows of a training that is validated."""
    train = job.train
    if not train.validation.every_steps:
        return None
    rows = HeldOutRows(job.index, job.shards, train, config.shape, job.seed, job.window_documents)
    for name in rows.without:
        _log.warning("%s: no held-out document of %s fits in a row; it is not validated", job.stage, name)
    levels = train.progression.levels if train.progression.mode != "none" else ()
    if train.progression.mode == "competence":
        _check_measured(job, rows)
    at_once = train.rows_per_step // (train.ranks * train.micro_batches(train.ranks))
    return ModelHeldOut(rows, config, at_once, levels) if rows.rows else None


def _check_measured(job: Job, rows: HeldOutRows) -> None:
    """Raises StageError (bad_config) for a level that nothing held out belongs to: it could never be mastered."""
    levels = job.train.progression.levels
    measured = {int(level) for row in rows.rows for level in rows.levels_of(row, levels)}
    if missing := [level for level in range(len(levels) - 1) if level not in measured]:
        message = f"{job.stage}: no held-out document is of progression.levels[{missing[0]}], which could never be mastered"
        fix = "raise validation.rows, hold more documents out, or leave the level out"
        raise StageError(FailureClass.BAD_CONFIG, message, fix)


def _is_frozen(job: Job, name: str) -> bool:
    return any(pattern in name for pattern in job.train.freeze)


def _names(network: MMInterleaved) -> Iterator[str]:
    """Names of the parameters, and where an ablation leaves MMFS out those of MMFS too: one params.yaml serves both."""
    yield from (name for name, _ in network.named_parameters())
    if network.config.cross_attention != "deformable":
        yield from (name for name, _ in build_on_meta(replace(network.config, cross_attention="deformable")).named_parameters())
