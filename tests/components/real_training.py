"""The real model at its smallest size on a prepared corpus, trained by the real ranks, for the tests of ZeRO."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from small_corpus import make_corpus
from training_world import World, train_params

from components.data.index import TOKENIZER_FILE
from components.data.places import ShardPlaces
from components.data.tokenizer import Tokenizer
from components.params import TrainParams
from components.training.job import Job
from model.presets import preset

STEPS = 3


def real_params(**differs: Any) -> TrainParams:
    """Three steps of four rows with pictures and words, each logged; ZeRO-3 shares out every weight of a layer."""
    values = {
        "steps": STEPS,
        "rows_per_step": 4,
        "row_tokens": 192,
        "mixture": {"caption": 1, "story": 1, "question": 1},
        "learning_rate": 1e-3,
        "checkpoint_every_steps": 1,
        "log_every_steps": 1,
        "whole_parameters": 1000,
    }
    return train_params(**(values | differs))


@dataclass(frozen=True)
class RealWorld(World):
    """One training of the real model in a work folder; `corpus` holds `index` and `shards`."""

    corpus: Path = field(kw_only=True)
    program: str = "real_rank"

    def job(self, resume: Path | None = None) -> Job:
        index = self.corpus / "index"
        config = preset("smoke", vocab_size=Tokenizer.load(index / TOKENIZER_FILE).vocab_size)
        real = {"model": config.to_dict(), "index": index, "shards": ShardPlaces(folder=self.corpus / "shards")}
        return super().job(resume).model_copy(update=real)


def small_corpus(root: Path) -> Path:
    """A corpus of a few documents of each kind."""
    make_corpus(root, documents=12)
    return root
