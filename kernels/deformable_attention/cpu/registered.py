"""`mmfs::deformable_attention` in torch.library, so that torch.compile and torch.export see one operator with a shape and a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.deformable_attention.cpu import library

Shapes = tuple[tuple[int, int], ...]


def deformable_attention(value: Tensor, level_shapes: Shapes, location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """Same arguments and result as the public function, with location [Q, H, L or 1, P, 2]."""
    wide = torch.float64 if torch.float64 in (value.dtype, location.dtype, weight.dtype) else torch.float32
    rows = value.to(wide) if wide == torch.float64 else value
    shapes = [size for shape in level_shapes for size in shape]
    return sample(rows, shapes, location.to(wide), weight.to(wide), image).to(value.dtype)


@torch.library.custom_op("mmfs::deformable_attention", mutates_args=(), device_types="cpu")
def sample(value: Tensor, shapes: list[int], location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    return library.forward(value, shapes, location, weight, image)


@sample.register_fake
def _(value: Tensor, shapes: list[int], location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    return value.new_empty(*weight.shape[:2], value.shape[-1])


@torch.library.custom_op("mmfs::deformable_attention_backward", mutates_args=(), device_types="cpu")
def gradients(
    gradient: Tensor, value: Tensor, shapes: list[int], location: Tensor, weight: Tensor, image: Tensor, wanted: list[bool]
) -> list[Tensor]:
    return library.backward(gradient, value, shapes, location, weight, image, wanted)


@gradients.register_fake
def _(
    gradient: Tensor, value: Tensor, shapes: list[int], location: Tensor, weight: Tensor, image: Tensor, wanted: list[bool]
) -> list[Tensor]:
    inputs = (value, location, weight)
    return [tensor.new_empty(tensor.shape if asked else 0) for tensor, asked in zip(inputs, wanted, strict=True)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, shapes, location, weight, image = inputs
    ctx.save_for_backward(value, location, weight, image)
    ctx.shapes = shapes


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    value, location, weight, image = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[place] for place in (0, 2, 3)]
    found = gradients(gradient, value, ctx.shapes, location, weight, image, wanted)
    to_value, to_location, to_weight = (each if asked else None for each, asked in zip(found, wanted, strict=True))
    return to_value, None, to_location, to_weight, None


sample.register_autograd(_backward, setup_context=_keep)
