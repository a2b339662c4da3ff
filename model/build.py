"""A configuration to a model, and a model to files and back. Only safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from kernels.deformable_attention import require
from model.ablations import trained_at_input
from model.config import ConfigError, ModelConfig, load_config, save_config
from model.image_decoder import ImageDecoder
from model.initialise import initialise
from model.input_size import all_at_grid
from model.llama_mmfs import LlamaMMFS
from model.mm_interleaved import MMInterleaved
from model.text_decoder import TextDecoder
from model.vision_encoder import VisionEncoder
from model.visual_tokenizer import VisualTokenizer
from model.weights import load_weights, read_weights, write_weights

CONFIG_FILE = "config.json"


def build_model(config: ModelConfig, seed: int) -> MMInterleaved:
    """A freshly initialised model on the CPU; its weights are a pure function of the configuration and the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _compose(config)
        initialise(model)
    return model


def check_sampling(config: ModelConfig) -> None:
    """Raises ConfigError where the configured way of sampling is missing on this machine. Without this call, pure PyTorch stands in."""
    for path in {config.vision.path, config.language.mmfs.path, config.image_decoder.mmfs.path}:
        try:
            require(path)
        except RuntimeError as error:
            raise ConfigError(f"{error}; provide it, or set model.sampling_path to torch and train again") from None


def build_on_meta(config: ModelConfig) -> MMInterleaved:
    """The model without memory: every name, shape and count, no values."""
    with torch.device("meta"):
        return _compose(config)


def save_model(model: nn.Module, folder: Path) -> None:
    """Write model.safetensors and config.json into an existing or new folder."""
    config = cast(ModelConfig, model.config)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights([model.state_dict()], 1, folder)
    save_config(config, folder / CONFIG_FILE)


def load_model(folder: Path, image_px: int | None = None) -> MMInterleaved:
    """The model saved in a folder, in evaluation mode; for pictures of another side with `image_px`.

    Raises ConfigError, WeightsError, or OSError when a file cannot be read.
    """
    config, shards = load_config(folder / CONFIG_FILE), read_weights(folder)
    if image_px is not None:
        config = trained_at_input(config, image_px)
        shards = map(partial(all_at_grid, grid=config.vision.grid), shards)
    with torch.random.fork_rng(devices=[]):
        model = _compose(config)
    load_weights(model, shards)
    return model.eval()


def load_into(config: ModelConfig, folder: Path) -> MMInterleaved:
    """A model of this configuration with the tensors saved in a folder, its position tables resized for the configured pictures.

    Raises WeightsError naming tensors that do not fit, or OSError when a file cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        model = _compose(config)
    load_weights(model, map(partial(all_at_grid, grid=config.vision.grid), read_weights(folder)))
    return model.eval()


def _compose(config: ModelConfig) -> MMInterleaved:
    entries = config.vocab_size + 2
    return MMInterleaved(
        config,
        visual_tokenizer=VisualTokenizer(
            VisionEncoder(config.vision),
            config.vision,
            config.visual_resampler,
            config.language.width,
            learned=config.visual_tokens == "learned",
        ),
        mm_decoder=LlamaMMFS(config.language, entries, config.value_width, config.cross_attention),
        text_decoder=TextDecoder(config.language.width, entries),
        image_decoder=ImageDecoder(config.image_decoder, config.value_width, config.cross_attention),
    )
