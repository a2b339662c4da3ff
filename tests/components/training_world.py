"""A work folder, a small job for the stand-in network, and its ranks, for the tests of training."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkpoints.committer import Committer
from components.checkpoints.folder import CheckpointFolder
from components.data.places import ShardPlaces
from components.launch.local import DeadRank, RankGroup, launch_ranks
from components.launch.warm import start_warm
from components.params import TrainParams
from components.run.events import EventWriter
from components.run.failures import StageError
from components.tracking.spool import Point, SpoolWriter, read_points
from components.tracking.stage_run import StageRun
from components.training.checkpoints.commits import committer_of
from components.training.checkpoints.resume import last_good
from components.training.checkpoints.shape import fitted
from components.training.guards.attempts import Attempts, Limits
from components.training.guards.journal import Entry, read_journal
from components.training.guards.rollbacks import read_decisions
from components.training.job import Job, forget_failures, read_failure, write_job

HERE = Path(__file__).parent
STEPS = 8
SHAPES: dict[str, dict[str, Any]] = {
    "zero-1": {"zero_stage": 1},
    "zero-2-accumulated": {"zero_stage": 2, "accumulate": 2},
    "zero-3": {"zero_stage": 3},
    "plain": {"ranks": 1},
}
"""Every way in which a step is shared out and its state stored."""


def environment(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """What the stand-in rank program needs to be found."""
    return {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}", "PYTHONHASHSEED": "0", **extra}


def train_params(**differs: Any) -> TrainParams:
    """Eight steps of eight rows."""
    values = {
        "steps": STEPS,
        "rows_per_step": 8,
        "row_tokens": 16,
        "mixture": {"caption": 1},
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "checkpoint_every_steps": 2,
        "log_every_steps": 3,
    }
    return TrainParams.model_validate(values | differs)


@dataclass(frozen=True)
class World:
    """One training in a work folder."""

    work: Path
    train: TrainParams
    warm: Mapping[str, str]
    program: str = "standin_rank"

    def attempt(self, **variables: str) -> DeadRank | None:
        """Start the ranks and wait for their end, going on from the last checkpoint."""
        self.work.mkdir(parents=True, exist_ok=True)
        forget_failures(self.work)
        job = self.plan()
        write_job(job)
        with self.launch(job, **variables) as ranks:
            return wait(ranks)

    def supervise(self, limits: Limits = Limits(delay_s=0.0), commit: Callable[[Job], Committer] = committer_of, **variables: str) -> None:
        """Train to the end as a stage does, with restarts and rollbacks. Raises StageError."""
        self.work.mkdir(parents=True, exist_ok=True)
        tracking = StageRun(SpoolWriter(self.work / "spool"), None)
        Attempts(self.plan, lambda job: self.launch(job, **variables), tracking, EventWriter(None), limits, commit).run()

    def launch(self, job: Job, grace_s: float = 10.0, **variables: str) -> RankGroup:
        hands = self.train.ranks * self.train.micro_batches(self.train.ranks)
        own = environment({**self.warm, "ROWS_AT_ONCE": str(8 // hands), **variables})
        return launch_ranks(self.program, [str(self.work)], self.train.ranks, own, self.work / "logs", start_warm, grace_s)

    def plan(self) -> Job:
        rollbacks = read_decisions(self.work).rollbacks
        checkpoint, _ = last_good(CheckpointFolder(self.work / "checkpoints"), rollbacks)
        resume = fitted(checkpoint, self.train, 1, self.work / "converted") if checkpoint else None
        return self.job(resume).model_copy(update={"rollbacks": rollbacks})

    def job(self, resume: Path | None = None) -> Job:
        return Job(
            stage="pretrain",
            seed=1,
            deterministic=True,
            device="cpu",
            train=self.train,
            patterns={},
            text_loss_weight=1.0,
            image_loss_weight=10.0,
            condition_drop=0.1,
            window_documents=8,
            model={},
            initial=None,
            resume=resume,
            index=self.work,
            shards=ShardPlaces(folder=self.work),
            work=self.work,
        )

    @property
    def failure(self) -> StageError | None:
        return read_failure(self.work)

    @property
    def actions(self) -> list[Entry]:
        return read_journal(self.work / "events.jsonl")[0]

    @property
    def digest(self) -> str:
        return hashlib.sha256((self.work / "export" / "model.safetensors").read_bytes()).hexdigest()

    @property
    def points(self) -> list[Point]:
        return read_points(self.work / "points.jsonl")[0]

    @property
    def curve(self) -> list[tuple[float, ...]]:
        names = ("loss", "text_loss", "image_loss", "lr", "grad_norm")
        return [(point["step"], *(point["metrics"][name] for name in names)) for point in self.points if "loss" in point["metrics"]]


def wait(ranks: Any) -> DeadRank | None:
    """The rank that failed, once all have ended."""
    ended, dead = False, None
    while not ended:
        time.sleep(0.05)
        ended, dead = ranks.poll()
    return dead
