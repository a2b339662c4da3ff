"""One training, from a job, a network and its batches to exported weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from components.checkpoints.manifest import CURSOR_FILE, ENGINE
from components.data.loader import ahead
from components.params import TrainParams
from components.progression.balance import Balance
from components.run.filetree import whole_folder, write_whole
from components.training.checkpoints.checkpointing import METER, Checkpointing, CursorOf, Keeper
from components.training.checkpoints.commits import checkpoint_folder
from components.training.checkpoints.origin import Origin
from components.training.course import COURSE_FILE
from components.training.engine import build_engine
from components.training.guards.guard import Guard
from components.training.guards.heartbeat import Heartbeat
from components.training.guards.journal import Journal
from components.training.guards.rollbacks import GUARD
from components.training.guards.watchdog import Pulse, pulse_file
from components.training.job import Job
from components.training.learning_rate import SetRate, lowered
from components.training.lit_module import TrainingModule
from components.training.objective import MicroBatch, Objective, Targets
from components.training.optimizer import freeze
from components.training.progressing import Levels, Progressing, undecided
from components.training.stop_signal import StopSignal
from components.training.telemetry.group_norms import GroupNorms
from components.training.telemetry.meter import Meter
from components.training.telemetry.step_log import StepLog
from components.training.telemetry.stopwatch import stopwatch
from components.training.telemetry.telemetry import Lap, Telemetry
from components.training.validation.validating import Validation
from components.training.validation.validation import HeldOut

BatchOf = Callable[[int, int, int, int], tuple[tuple[Any, ...], Targets]]
"""(step, rank, ranks, number of the micro-batch) → the network's arguments for these rows, and what is to learn in them."""
Save = Callable[[nn.Module, Path], None]
"""Writes a network's weights into a folder."""


class Steps(IterableDataset[MicroBatch]):
    """The micro-batches of one rank from a step on; where to go on is that step, there is no other state.

    `train.loader_workers` processes make whole steps ahead.
    """

    def __init__(self, batch_of: BatchOf, train: TrainParams, rank: int, start: int) -> None:
        self._batch_of = batch_of
        self._train = train
        self._rank = rank
        self._start = start

    def __iter__(self) -> Iterator[MicroBatch]:
        decided_every = self._train.validation.every_steps if self._train.progression.mode == "competence" else 0
        for steps in undecided(self._start, self._train.steps, decided_every):
            for micro_batches in ahead(self._step, steps, self._train.loader_workers):
                yield from micro_batches

    def _step(self, step: int) -> list[MicroBatch]:
        ranks = self._train.ranks
        rows = [self._batch_of(step, self._rank, ranks, number) for number in range(self._train.micro_batches(ranks))]
        text, images = sum(targets.text for _, targets in rows), sum(targets.images for _, targets in rows)
        return [MicroBatch(arguments, targets, text, images) for arguments, targets in rows]


def no_cursor(step: int) -> dict[str, Any]:
    """For batches that follow from the step alone."""
    return {}


def fit(
    job: Job,
    network: nn.Module,
    batch_of: BatchOf,
    save: Save,
    cursor_of: CursorOf = no_cursor,
    held_out: HeldOut | None = None,
    levels: Levels | None = None,
    probe: Callable[[Meter], Callback] | None = None,
) -> None:
    """Train, resume where `job.resume` says, and let rank 0 export the weights into `job.export`, whole or not at all.

    `cursor_of` is asked when a checkpoint is written, and what it says is written with it. `held_out` is what the network is validated on;
    `levels` draws rows as train.progression says. `probe` makes a listener that is told of every step before anything else is.

    Raises StageError (preempted), BadSteps (non_finite, spike) on every rank.
    """
    train, rank = job.train, int(os.environ["RANK"])
    if train.progression.mode != "none" and levels is None:
        raise ValueError(f"{job.stage} has progression.mode {train.progression.mode}, and was given nothing that draws rows by levels")
    pulse = Pulse(pulse_file(job.work, rank))
    pulse.beat(0, "set-up")
    freeze(network, train.freeze)
    origin = Origin(job, network) if rank == 0 else None
    if origin is not None and job.resume is not None:
        origin.check(job.resume)
    torch.manual_seed(job.seed * train.ranks + rank)
    stop, watch = StopSignal(), stopwatch(job.device)
    meter = Meter(job.text_loss_weight, job.image_loss_weight, watch, train.names)
    telemetry = Telemetry(train, job.device, watch)
    micro_batches = train.micro_batches(train.ranks)
    balance = Balance(job.image_loss_weight, train.objective.balance, micro_batches)
    objective = Objective(job.text_loss_weight, job.image_loss_weight, sum_over_ranks, train.ranks * micro_batches, balance)
    progressing = Progressing(train.progression, levels, Journal(job.journal) if rank == 0 else None) if levels else None
    balanced = train.objective.balance.mode != "none"
    also = [*([balance.each_step] if balanced else []), *([progressing.each_step] if progressing else [])]
    hearers = [progressing.hear] if progressing else []
    engine = build_engine(train, job.device, job.resume / ENGINE if job.resume else None)
    guard = Guard(train, job.text_loss_weight, job.image_loss_weight, engine.gradient_norm, len(job.rollbacks))
    factor = lowered(train, job.rollbacks)
    keepers: dict[str, Keeper] = {METER: meter, GUARD: guard}
    keepers |= {"balance": balance} if balanced else {}
    keepers |= {"progression": progressing.competence} if progressing else {}
    trainer = Trainer(
        accelerator=job.device,
        devices=train.ranks,
        strategy=engine.strategy,
        precision=train.precision,
        max_steps=train.steps,
        accumulate_grad_batches=micro_batches,
        callbacks=[
            *([probe(meter)] if probe else []),
            telemetry,
            GroupNorms(job),
            *engine.callbacks,
            *([SetRate()] if job.rollbacks else []),
            Heartbeat(pulse),
            guard,
            StepLog(job, meter, engine.gradient_norm, factor, telemetry.figures, also),
            Lap(watch, "log"),
            *([Validation(job, held_out, sum_over_ranks, pulse.beat, hearers), Lap(watch, "validation")] if held_out else []),
            *([progressing] if progressing else []),
            Checkpointing(
                checkpoint_folder(job), train, keepers, stop, job.resume, cursor_of, origin, lambda: guard.suspicious, pulse.beat
            ),
            Lap(watch, "checkpoint"),
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    start = json.loads((job.resume / CURSOR_FILE).read_text())["step"] if job.resume else 0
    # A generator of its own: the loader draws a seed, and the rank's random state must not depend on how often it was started.
    loader = DataLoader(Steps(batch_of, train, rank, start), batch_size=None, generator=torch.Generator())
    module = TrainingModule(network, objective, train, factor, [meter.add, guard.add], stop)
    trainer.fit(module, loader, ckpt_path=job.resume / ENGINE if job.resume else None)
    if rank == 0:
        write_whole(job.work / COURSE_FILE, json.dumps(cursor_of(train.steps)))
    if train.ema_decay:
        engine.put_averages(network, trainer.optimizers[0])
    with engine.whole_parameters(network):
        if rank == 0:
            _export(network, save, job.export)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The tensor summed over all ranks; itself where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


def _export(network: nn.Module, save: Save, folder: Path) -> None:
    with whole_folder(folder) as fresh:
        save(network, fresh)
