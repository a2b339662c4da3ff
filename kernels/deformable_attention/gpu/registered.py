"""`mmfs::deformable_attention` on a CUDA device: the same operator, shape and gradient as on the processor, computed in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.deformable_attention.cpu.registered import gradients, sample
from kernels.deformable_attention.gpu import backward, forward

Shapes = tuple[tuple[int, int], ...]


def deformable_attention(value: Tensor, level_shapes: Shapes, location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """Same arguments and result as the public function, with location [Q, H, L or 1, P, 2]. Each argument is read in its own type."""
    wide = torch.float64 in (value.dtype, location.dtype, weight.dtype)
    shapes = [size for shape in level_shapes for size in shape]
    return sample(value.double() if wide else value, shapes, location, weight, image).to(value.dtype)


sample.register_kernel("cuda")(forward.sample)
gradients.register_kernel("cuda")(backward.gradients)
