"""The step that the model's benchmark measures: the tiny official configuration on the packed rows of the reference tensors.

Where MMFS_GOLDEN_DIR names no folder, the same shapes are filled from a seed: then nothing official can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from kernels.deformable_attention import Path as KernelPath
from model.batch import InterleavedBatch
from model.build import build_model
from model.config import ModelConfig
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.presets import preset
from model.vit_adapter import DeformableAttention
from model.weights import load_weights

ROWS, COLUMNS, IMAGES_PER_ROW = 2, 71, 3
BOI_COLUMNS = (13, 34, 55)


@dataclass(frozen=True)
class ReferenceStep:
    """A model in evaluation mode (no dropout), its batch, and what the official code says of it, if that is known."""

    model: MMInterleaved
    batch: InterleavedBatch
    text_loss: Tensor | None


def golden_folder() -> Path | None:
    """The folder of the official tensors, if the environment names one."""
    folder = os.environ.get("MMFS_GOLDEN_DIR")
    return Path(folder) if folder else None


def reference_step(folder: Path | None, path: KernelPath = "torch") -> ReferenceStep:
    """2 rows of 71 tokens with 3 images each, 224-pixel inputs and 128-pixel outputs; deformable sampling by `path`."""
    config = preset("official_tiny", vocab_size=100)
    model = build_model(config, seed=0).eval()
    for module in model.modules():
        if isinstance(module, MMFS | DeformableAttention):
            module.path = path
    if folder is None:
        return ReferenceStep(model, _batch(config, _drawn_ids(config), None, None), None)
    load_weights(model, [load_file(folder / "model_state.safetensors")])
    tensors = load_file(folder / "model_activations.safetensors")
    batch = _batch(config, tensors["input.text_ids"], tensors["input.images_224"], tensors["llm.target_ids"] != -100)
    return ReferenceStep(model, batch, tensors["llm.text_loss"].squeeze())


def made_up_batch(config: ModelConfig, rows: int, columns: int) -> InterleavedBatch:
    """Rows of one document each, with as many pictures as fit beside as many words, filled from a seed."""
    period = 2 * (config.visual_resampler.queries + 1)
    places = tuple(range(period // 2, columns - period // 2, period))
    return _batch(config, _drawn_ids(config, rows, columns, places), None, None)


def _drawn_ids(config: ModelConfig, rows: int = ROWS, columns: int = COLUMNS, places: Sequence[int] = BOI_COLUMNS) -> Tensor:
    """Rows laid out like those of the reference tensors."""
    tokens = config.tokens
    ids = torch.randint(3, config.vocab_size - 1, (rows, columns), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = tokens.bos, tokens.eos
    for column in places:
        ids[:, column] = tokens.boi
        ids[:, column + 1 : column + 1 + config.visual_resampler.queries] = tokens.image
    return ids


def _batch(config: ModelConfig, ids: Tensor, images: Tensor | None, trained: Tensor | None) -> InterleavedBatch:
    tokens, generator = config.tokens, torch.Generator().manual_seed(1)
    boi = (ids == tokens.boi).nonzero()
    count = len(boi)
    px, side = config.shape.image_px, config.shape.output_px
    targets = torch.zeros_like(ids, dtype=torch.bool)
    targets[:, 1:] = (ids[:, 1:] != tokens.image) & (ids[:, 1:] != tokens.bos) if trained is None else trained
    return InterleavedBatch(
        text_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        document_ids=(ids == tokens.bos).cumsum(1),
        targets_mask=targets,
        images=torch.rand(count, 3, px, px, generator=generator) if images is None else images,
        target_images=torch.rand(count, 3, side, side, generator=generator),
        image_row=boi[:, 0],
        image_column=boi[:, 1],
        image_loss_mask=torch.ones(count, dtype=torch.bool),
        drop_condition=torch.zeros(count, dtype=torch.bool),
        timesteps_u=torch.rand(count, generator=generator),
        noise=torch.randn(count, *config.shape.latent_shape, generator=generator),
    )
