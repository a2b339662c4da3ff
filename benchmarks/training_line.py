"""A prepared corpus and trainings on it, as `mmfs run` prepares and trains, without the stages and stores around them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.architecture import architecture
from components.checkpoints.folder import CheckpointFolder
from components.data.index import TOKENIZER_FILE
from components.data.places import ShardPlaces
from components.data.preparation.assembly import Assembly
from components.data.preparation.executors import open_crew
from components.data.preparation.inputs import corpora
from components.data.preparation.progress import Progress
from components.data.sources.digits import export_digits
from components.data.tokenizer import Tokenizer
from components.launch.local import launch_ranks
from components.launch.warm import start_warm
from components.params import DataParams, Params
from components.run.events import EventWriter
from components.training.checkpoints.commits import committer_of
from components.training.job import Job, write_job

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Corpus:
    """The built-in corpus, prepared."""

    index: Path
    shards: ShardPlaces

    @classmethod
    def prepare(cls, folder: Path, data: DataParams, input_folder: Path) -> Corpus:
        """In a new folder, by the code of the stage; the scans are laid beside it in `input_folder`."""
        export_digits(input_folder / "digits")
        folder.mkdir(parents=True)
        found = corpora(data, 0, input_folder)
        progress = Progress(EventWriter(None), lambda points: None, sum(len(corpus.units) for corpus in found))
        with open_crew(0, None, data.shard_timeout_s, lambda number, size: None) as crew:
            made = Assembly(data, 0, found, folder, crew, progress).run(None)
        made.index.rename(folder / "made-index")
        made.shards.rename(folder / "made-shards")
        return cls(folder / "made-index", ShardPlaces(folder=folder / "made-shards"))

    def pretraining(self, params: Params, work: Path) -> Job:
        """The pretraining of these parameters in `work`, where it goes on from the last checkpoint there."""
        work.mkdir(parents=True, exist_ok=True)
        checkpoint, _ = CheckpointFolder(work / "checkpoints").latest()
        return Job(
            stage="pretrain",
            seed=params.seed,
            deterministic=True,
            device="cpu",
            train=params.pretrain,
            patterns={},
            text_loss_weight=params.model.text_loss_weight,
            image_loss_weight=params.model.image_loss_weight,
            condition_drop=params.model.condition_drop,
            window_documents=params.data.window_documents,
            model=architecture(params.model, Tokenizer.load(self.index / TOKENIZER_FILE).vocab_size).to_dict(),
            initial=None,
            resume=checkpoint.path if checkpoint else None,
            index=self.index,
            shards=self.shards,
            work=work,
        )


def trained(job: Job, module: str, variables: Mapping[str, str] | None = None) -> None:
    """Run the ranks of a job to their end, its checkpoints committed beside them; `variables` name a zygote. Raises RuntimeError."""
    write_job(job)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", **(variables or {})}
    start = start_warm if variables else None
    with committer_of(job), launch_ranks(module, [str(job.work)], job.train.ranks, environment, job.work / "logs", start) as ranks:
        ended = False
        while not ended:
            time.sleep(0.05)
            ended, dead = ranks.poll()
            if dead is not None:
                raise RuntimeError(f"{job.work.name}: {dead.last_words()}")
