"""What a training starts from, and what lies beside its weights: the same for whoever trains and whoever exports."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from components.data.index import TOKENIZER_FILE
from components.training.job import Job
from model.ablations import at_input
from model.build import CONFIG_FILE, build_model, load_model
from model.config import ModelConfig, config_from_dict, save_config
from model.mm_interleaved import MMInterleaved


def start_network(job: Job) -> MMInterleaved:
    """The network before the first step; its frozen parameters stay as they are here.

    Raises ConfigError or WeightsError when the initial weights cannot be used.
    """
    return load_model(job.initial, job.train.image_px).train() if job.initial else build_model(_started(job), job.seed)


def write_beside(network: nn.Module, job: Job, folder: Path) -> None:
    """The files of an exported model besides its tensors: configuration and tokenizer. A network of another kind has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, MMInterleaved):
        save_config(network.config, folder / CONFIG_FILE)
        shutil.copyfile(job.index / TOKENIZER_FILE, folder / TOKENIZER_FILE)


def _started(job: Job) -> ModelConfig:
    """The configuration of a model that starts from the job's seed."""
    config = config_from_dict(job.model or {}, "job.json")
    return config if job.train.image_px is None else at_input(config, job.train.image_px)
