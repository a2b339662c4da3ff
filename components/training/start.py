"""What a training starts from, and what lies beside its weights: the same for whoever trains and whoever exports."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from components.data.index import TOKENIZER_FILE
from components.training.job import JOB_FILE, Job
from model.ablations import at_input, trained_at_input
from model.build import CONFIG_FILE, build_model, load_into, load_model
from model.config import ModelConfig, config_from_dict, load_config, save_config
from model.mm_interleaved import MMInterleaved


def start_network(job: Job) -> MMInterleaved:
    """The network before the first step; its frozen parameters stay as they are here.

    Raises ConfigError or WeightsError when the initial weights cannot be used.
    """
    if job.initial is None:
        return build_model(start_config(job), job.seed)
    if job.model is None:
        return load_model(job.initial, job.train.image_px).train()
    return load_into(start_config(job), job.initial).train()


def start_config(job: Job) -> ModelConfig:
    """The configuration of that network. Raises ConfigError."""
    px = job.train.image_px
    if job.model is None and job.initial is not None:
        saved = load_config(job.initial / CONFIG_FILE)
        return saved if px is None else trained_at_input(saved, px)
    config = config_from_dict(job.model or {}, JOB_FILE)
    return config if px is None or job.initial is not None else at_input(config, px)


def write_beside(network: nn.Module, job: Job, folder: Path) -> None:
    """The files of an exported model besides its tensors: configuration and tokenizer. A network of another kind has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, MMInterleaved):
        save_config(network.config, folder / CONFIG_FILE)
        shutil.copyfile(job.index / TOKENIZER_FILE, folder / TOKENIZER_FILE)
