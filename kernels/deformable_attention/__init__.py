"""Deformable sampling of multi-scale maps: one public function in front of the paths that compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kernels.deformable_attention import gpu, naive, torch_path
from kernels.deformable_attention.cpu import library, registered

Path = Literal["torch", "naive", "cpp", "triton", "auto"]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def deformable_attention(
    value: Tensor, level_shapes: Sequence[tuple[int, int]], location: Tensor, weight: Tensor, image: Tensor, *, path: Path = "torch"
) -> Tensor:
    """Weighted bilinear samples of one image's maps per query, zero outside the maps.

    A query that looks at several images is several rows here, one per visible image: invisible images cost nothing and nothing is padded.

    value: [n, S, H, d] rows of n images, levels one after the other, each row-major (S = sum of h*w).
    level_shapes: (h, w) per level, python integers.
    location: [Q, H, P, 2] shared by the levels, or [Q, H, L, P, 2]; (x, y) where 0..1 spans the map (align_corners=False).
    weight: [Q, H, L, P].
    image: [Q] integer, the image each query samples, 0..n-1 (checked on the processor only: it would stop an accelerator).
    path: `torch` is pure PyTorch; `cpp` is the C++ operator for processors, compiled at its first use; `triton` are the kernels for CUDA
    devices. `auto` is `triton` for tensors on such a device, else `cpp` where it is there already. What is missing is one line in the log,
    and `torch` instead; so is `cpp` for tensors on an accelerator.
    Returns [Q, H, d] in the dtype of value. A location beyond the map counts nothing; one that is not a number makes its query's result so.
    Types may differ; sums are of 32 bits at least. Raises ValueError naming the argument of a wrong shape, type, device or image, and for
    `triton` on another device.
    """
    _check(value, level_shapes, location, weight, image)
    shapes = tuple((h, w) for h, w in level_shapes)
    if location.dim() == 4:
        location = location.unsqueeze(2)
    if path in ("cpp", "auto") and value.device.type == "cpu" and library.available(path == "cpp"):
        return registered.deformable_attention(value, shapes, location, weight, image)
    if path == "triton" and value.device.type != "cuda":
        raise ValueError(f"path: triton is for tensors on a CUDA device, value is on {value.device}; use auto")
    if path in ("triton", "auto") and value.device.type == "cuda" and gpu.available():
        from kernels.deformable_attention.gpu import registered as on_gpu

        return on_gpu.deformable_attention(value, shapes, location, weight, image)
    location = location.expand(-1, -1, len(shapes), -1, -1)
    if path == "naive":
        return naive.deformable_attention(value, shapes, location, weight, image)
    return torch_path.deformable_attention(value, shapes, location, weight, image)


def require(path: Path) -> None:
    """Raises RuntimeError where `cpp` or `triton` would fall back: for callers whose results must not depend on what this machine has."""
    if path == "cpp" and not library.available(True):
        raise RuntimeError(f"the C++ operator cannot run here: {library.load(True).reason}")
    if path == "triton" and not torch.cuda.is_available():
        raise RuntimeError("the kernels in Triton cannot run here: there is no CUDA device")
    if path == "triton" and not gpu.available():
        raise RuntimeError("the kernels in Triton cannot run here: Triton is not installed")


def _check(value: Tensor, level_shapes: Sequence[tuple[int, int]], location: Tensor, weight: Tensor, image: Tensor) -> None:
    for name, tensor in (("value", value), ("location", location), ("weight", weight)):
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name}: expected floating point of 16, 32 or 64 bits, got {tensor.dtype}")
        if tensor.device != image.device:
            raise ValueError(f"{name} is on {tensor.device}, image on {image.device}; all must be on one device")
    if value.dim() != 4:
        raise ValueError(f"value: expected [images, cells, heads, channels], got {tuple(value.shape)}")
    if any(h < 1 or w < 1 for h, w in level_shapes):
        raise ValueError(f"level_shapes: every side must be at least 1, got {tuple(level_shapes)}")
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
    if image.dim() != 1 or image.shape[0] != queries or image.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"image: expected {queries} integers, got {tuple(image.shape)} of {image.dtype}")
    if value.shape[0] == 0 and queries > 0:
        raise ValueError(f"value: no images, but {queries} queries look at one")
    if not torch.compiler.is_compiling() and image.device.type == "cpu" and queries > 0:
        low, high = (int(each) for each in image.aminmax())
        if low < 0 or high >= value.shape[0]:
            raise ValueError(f"image: {low}..{high}, but there are {value.shape[0]} images")
