"""Inputs of the sampling operator in a few odd shapes, and every gradient of a path."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.deformable_attention import Path, deformable_attention

Shapes = tuple[tuple[int, int], ...]

LEVELS: Shapes = ((5, 3), (2, 7), (1, 1))
FAST: tuple[Path, ...] = ("torch", "cpp")
NAMES = ("output", "value", "location", "weight")


def make(
    queries: int = 17,
    heads: int = 3,
    channels: int = 5,
    points: int = 4,
    *,
    shared: bool,
    dtype: torch.dtype = torch.float64,
    images: int = 4,
    shapes: Shapes = LEVELS,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries)
    cells = sum(h * w for h, w in shapes)
    levels = () if shared else (len(shapes),)
    value = torch.randn(images, cells, heads, channels, generator=generator, dtype=dtype)
    location = torch.rand(queries, heads, *levels, points, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weight = torch.rand(queries, heads, len(shapes), points, generator=generator, dtype=dtype)
    return [value, location, weight, torch.randint(0, images, (queries,), generator=generator)]


def gradients(path: Path, value: Tensor, location: Tensor, weight: Tensor, image: Tensor, shapes: Shapes = LEVELS) -> list[Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in (value, location, weight)]
    output = deformable_attention(inputs[0], shapes, inputs[1], inputs[2], image, path=path)
    # Exact in every type, so that all types are asked for the same gradient.
    seed = torch.randint(-4, 5, output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, seed)]
