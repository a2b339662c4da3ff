"""What a rank trains: MM-Interleaved on the training stream."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from components.data.documents import CorpusError
from components.data.index import TOKENIZER_FILE
from components.data.stream import Cursor, TrainStream
from components.data.tokenizer import Tokenizer
from components.training.checkpoint import CURSOR_FILE, DATA
from components.training.job import Job
from components.training.objective import Targets
from components.training.optimizer import check_patterns
from model.ablations import at_input
from model.build import build_model, build_on_meta, check_sampling, load_model, save_model
from model.config import ModelConfig, config_from_dict
from model.mm_interleaved import MMInterleaved
from model.sequence import plan

if TYPE_CHECKING:
    from components.training.fit import BatchOf, CursorOf, Save


_log = logging.getLogger(__name__)
_COUNTED_STEPS = 16
"""Steps whose targets give a new model its token frequencies."""


def mm_interleaved(job: Job) -> tuple[MMInterleaved, BatchOf, Save, CursorOf]:
    """The network of a job, its batches, how its weights are written (with the tokenizer beside them), and where its data stand.

    Raises CorpusError, ConfigError or WeightsError when the data or the initial weights cannot be used, StageError (bad_config) for a
    pattern that no parameter's name contains.
    """
    network = load_model(job.initial, job.train.image_px).train() if job.initial else build_model(_started(job), job.seed)
    check_sampling(network.config)
    if job.train.activation_checkpointing:
        network.checkpoint_activations()
    config = network.config
    check_patterns(_names(network), job.patterns)
    Tokenizer.load(job.index / TOKENIZER_FILE).check_fits(config.vocab_size, "the model to train")
    stream = TrainStream(
        job.index,
        job.shards,
        job.train,
        config.shape,
        job.seed,
        condition_drop=job.condition_drop,
        window_documents=job.window_documents,
        cursor=_cursor(job),
    )

    for name, count in stream.excluded.items():
        if count:
            _log.warning("%s: %d documents of %s fit in no row of %d tokens and are left out", job.stage, count, name, job.train.row_tokens)

    def batch_of(step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Any, ...], Targets]:
        rows = stream.batch(step, rank, ranks, micro)
        if (coming := step + max(1, job.train.loader_workers)) < job.train.steps:  # what this process will be asked for next
            stream.prefetch(coming, rank, ranks, micro)
        if not len(rows.images):
            rows = rows.with_blank_image(config.shape)
        layout = plan(rows, config)
        images = int(layout.decode_weight.sum())
        return (rows, layout), Targets(len(layout.target), images, int(rows.attention_mask.sum()), len(rows.images))

    if job.initial is None and job.resume is None:  # a checkpoint would overwrite it
        whole_steps = product(range(min(_COUNTED_STEPS, job.train.steps)), range(job.train.micro_batches(1)))
        targets = torch.cat([batch_of(step, 0, 1, micro)[0][1].target for step, micro in whole_steps])
        network.text_decoder.expect(targets.bincount(minlength=config.vocab_size + 2))

    def save(trained: nn.Module, folder: Path) -> None:
        save_model(trained, folder)
        shutil.copyfile(job.index / TOKENIZER_FILE, folder / TOKENIZER_FILE)

    return network, batch_of, save, lambda step: stream.cursor(step).to_dict()


def _started(job: Job) -> ModelConfig:
    """The configuration of a model that starts from the job's seed."""
    config = config_from_dict(job.model or {}, "job.json")
    return config if job.train.image_px is None else at_input(config, job.train.image_px)


def _cursor(job: Job) -> Cursor:
    """Where the checkpoint that the job goes on from left the data."""
    if job.resume is None:
        return Cursor()
    values = json.loads((job.resume / CURSOR_FILE).read_text(encoding="utf-8"))
    if DATA not in values:
        raise CorpusError(f"{job.resume}: this checkpoint does not say where its data stood; start the training again")
    return Cursor.from_dict(values[DATA])


def _names(network: MMInterleaved) -> Iterator[str]:
    """Names of the parameters, and where an ablation leaves MMFS out those of MMFS too: one params.yaml serves both."""
    yield from (name for name, _ in network.named_parameters())
    if network.config.cross_attention != "deformable":
        yield from (name for name, _ in build_on_meta(replace(network.config, cross_attention="deformable")).named_parameters())
