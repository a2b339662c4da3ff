"""Deformable sampling of multi-scale maps: one public function in front of the paths that compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kernels.deformable_attention import naive, torch_path

Path = Literal["torch", "naive"]
_PATHS = {"torch": torch_path.deformable_attention, "naive": naive.deformable_attention}


def deformable_attention(
    value: Tensor, level_shapes: Sequence[tuple[int, int]], location: Tensor, weight: Tensor, image: Tensor, *, path: Path = "torch"
) -> Tensor:
    """Weighted bilinear samples of one image's maps per query, zero outside the maps.

    A query that looks at several images is several rows here, one per visible image: invisible images cost nothing and nothing is padded.

    value: [n, S, H, d] rows of n images, levels one after the other, each row-major (S = sum of h*w).
    level_shapes: (h, w) per level, python integers.
    location: [Q, H, P, 2] shared by the levels, or [Q, H, L, P, 2]; (x, y) where 0..1 spans the map (align_corners=False).
    weight: [Q, H, L, P]. image: [Q] integer, the image each query samples, 0..n-1 (not checked: that would stop an accelerator).
    Returns [Q, H, d] in the dtype of value. Raises ValueError naming the argument of a wrong shape or type.
    """
    _check(value, level_shapes, location, weight, image)
    if location.dim() == 4:
        location = location.unsqueeze(2).expand(-1, -1, len(level_shapes), -1, -1)
    return _PATHS[path](value, tuple(level_shapes), location, weight, image)


def _check(value: Tensor, level_shapes: Sequence[tuple[int, int]], location: Tensor, weight: Tensor, image: Tensor) -> None:
    if value.dim() != 4:
        raise ValueError(f"value: expected [images, cells, heads, channels], got {tuple(value.shape)}")
    cells = sum(h * w for h, w in level_shapes)
    if value.shape[1] != cells:
        raise ValueError(f"value: {value.shape[1]} cells, but level_shapes {tuple(level_shapes)} have {cells}")
    if weight.dim() != 4:
        raise ValueError(f"weight: expected [queries, heads, levels, points], got {tuple(weight.shape)}")
    queries, heads, levels, points = weight.shape
    if heads != value.shape[2] or levels != len(level_shapes):
        raise ValueError(
            f"weight: {heads} heads and {levels} levels, but value has {value.shape[2]} heads and level_shapes {len(level_shapes)} levels"
        )
    # One size after the other: hashing or comparing tuples would fix every size in a compiled graph.
    shared = location.dim() == 4
    wanted = (queries, heads, points, 2) if shared else (queries, heads, levels, points, 2)
    if location.dim() != len(wanted) or any(size != other for size, other in zip(location.shape, wanted, strict=True)):
        raise ValueError(
            f"location: got {tuple(location.shape)}, expected {(queries, heads, points, 2)} or {(queries, heads, levels, points, 2)}"
        )
    if image.dim() != 1 or len(image) != queries or image.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"image: expected {queries} integers, got {tuple(image.shape)} of {image.dtype}")
