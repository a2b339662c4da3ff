"""A configuration to a model, and a model to files and back. Only safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import ModelConfig, load_config
from model.image_decoder import ImageDecoder
from model.initialise import initialise
from model.llama_mmfs import LlamaMMFS
from model.mm_interleaved import MMInterleaved
from model.text_decoder import TextDecoder
from model.visual_tokenizer import VisualTokenizer

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
# Public checkpoints hold this fixed table; newer libraries do not save it.
OPTIONAL_KEYS = frozenset({"visual_tokenizer.encoder.vision_model.embeddings.position_ids"})


class WeightsError(ValueError):
    """Weights cannot be used for a model; the message names the tensors or the file."""


def build_model(config: ModelConfig, seed: int) -> MMInterleaved:
    """A freshly initialised model on the CPU; its weights are a pure function of the configuration and the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _compose(config)
        initialise(model)
    return model


def build_on_meta(config: ModelConfig) -> MMInterleaved:
    """The model without memory: every name, shape and count, no values."""
    with torch.device("meta"):
        return _compose(config)


def save_model(model: nn.Module, folder: Path) -> None:
    """Write model.safetensors and config.json into an existing or new folder."""
    config = cast(ModelConfig, model.config)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_model(folder: Path) -> MMInterleaved:
    """The model saved in a folder, in evaluation mode. Raises ConfigError, WeightsError, or OSError when a file cannot be read."""
    config = load_config(folder / CONFIG_FILE)
    model = build_model(config, seed=0)
    load_weights(model, read_weights(folder / WEIGHTS_FILE))
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsError for another format, OSError when it cannot be read."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is no valid safetensors file ({error}); fetch the weights again") from None


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into a model, strictly. Raises WeightsError naming what is missing, unknown or of another shape."""
    wanted = model.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name in wanted or name not in OPTIONAL_KEYS}
    problems = [f"missing {name}" for name in wanted.keys() - given.keys()]
    problems += [f"unknown {name}" for name in given.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the model has {tuple(wanted[name].shape)}"
        for name in wanted.keys() & given.keys()
        if wanted[name].shape != given[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise WeightsError(f"{len(problems)} tensors do not fit the configuration: {shown}")
    model.load_state_dict(given)


def _compose(config: ModelConfig) -> MMInterleaved:
    entries = config.vocab_size + 2
    return MMInterleaved(
        config,
        visual_tokenizer=VisualTokenizer(
            config.vision, config.visual_resampler, config.language.width, learned=config.visual_tokens == "learned"
        ),
        mm_decoder=LlamaMMFS(config.language, entries, config.value_width, config.cross_attention),
        text_decoder=TextDecoder(config.language.width, entries),
        image_decoder=ImageDecoder(config.image_decoder, config.value_width, config.cross_attention),
    )
