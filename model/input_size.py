"""Weights for pictures of another size: the tables that count patches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from model.positions import sincos_2d

FIXED_POSITIONS = "visual_tokenizer.pos_embed"
POSITIONS = "visual_tokenizer.encoder.vision_model.embeddings.position_embedding.weight"


def all_at_grid(tensors: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """Tensors by name, see `at_grid`."""
    return {name: at_grid(name, tensor, grid) for name, tensor in tensors.items()}


def at_grid(name: str, tensor: Tensor, grid: int) -> Tensor:
    """A tensor by its name; tables that count patches for a grid of this side."""
    if name not in (POSITIONS, FIXED_POSITIONS) or len(tensor) == grid**2 + 1:
        return tensor
    if name == POSITIONS:
        return resized_positions(tensor, grid)
    return torch.cat((tensor[:1], sincos_2d(grid, tensor.shape[1]).to(tensor.dtype)))


def resized_positions(table: Tensor, grid: int) -> Tensor:
    """CLIP's position table [1 + s * s, width] for another grid, as the official loader does: bicubic, corners not aligned."""
    old = int((len(table) - 1) ** 0.5)
    maps = table[1:].float().T.reshape(1, -1, old, old)
    cells = F.interpolate(maps, size=(grid, grid), mode="bicubic", align_corners=False).flatten(2)[0].T
    return torch.cat((table[:1], cells.to(table.dtype)))
