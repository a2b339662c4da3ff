"""Fixed sine-cosine position tables and cell centres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_1d(positions: Tensor, width: int) -> Tensor:
    """[*positions, width]: sines, then cosines, at frequencies 10000^(-k / (width / 2))."""
    frequency = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float64, device=positions.device) / (width / 2))
    angle = positions.double().unsqueeze(-1) * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1).float()


def sincos_2d(side: int, width: int) -> Tensor:
    """[side * side, width], row-major cells: first half of the channels from the row, second half from the column."""
    index = torch.arange(side)
    line = sincos_1d(index, width // 2)
    row = line[:, None, :].expand(side, side, -1)
    column = line[None, :, :].expand(side, side, -1)
    return torch.cat((row, column), dim=-1).reshape(side * side, width)


def resize_table(table: Tensor, side: int) -> Tensor:
    """A square table [s * s, width] bicubically resized to [side * side, width]."""
    old = int(table.shape[0] ** 0.5)
    if old == side:
        return table
    maps = table.T.reshape(1, -1, old, old)
    return F.interpolate(maps, size=(side, side), mode="bicubic", align_corners=False).flatten(2)[0].T


def cell_centres(sides: Sequence[int]) -> Tensor:
    """(x, y) centres in 0..1 of the cells of square maps, one map after the other, row-major; [sum of side^2, 2]."""
    maps = []
    for side in sides:
        line = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(line, line, indexing="ij")
        maps.append(torch.stack((x, y), dim=-1).reshape(-1, 2))
    return torch.cat(maps)
