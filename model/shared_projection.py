"""The values that many layers sample of the same features: their norms differ in a factor and a bias, which belong to the projections.

Statistics are computed once, and one normalised copy of the features is kept for all gradients instead of one per layer. The products stay
one per layer: in one product each layer's values would lie between those of the others, and be copied before they are sampled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from model.mmfs_linears import Linears, linear

Norm: TypeAlias = "nn.LayerNorm | LlamaRMSNorm"


class Looks(Protocol):
    """A module whose values are a linear layer of normalised features."""

    linears: Linears

    @property
    def values(self) -> nn.Linear:
        """The layer."""

    @property
    def heads(self) -> int:
        """How many heads share its outputs."""


class SharedProjection(nn.Module):
    """`project_shared` as a module, without parameters of its own.

    The weights it uses lie in other modules, which do not run here. ZeRO-3 gathers a weight for the module that runs when it is asked for,
    and again for that module's backward: so the product must be a module, the smallest that holds it.
    """

    def forward(self, features: Tensor, layers: Iterable[tuple[Norm, Looks]]) -> list[Tensor]:
        """See project_shared."""
        return project_shared(features, layers)


def project_shared(features: Tensor, layers: Iterable[tuple[Norm, Looks]]) -> list[Tensor]:
    """Per layer the values of image features [n, cells, value_width] behind its own norm, [n, cells, heads, channels].

    The norms must be of one kind and epsilon.
    """
    every = list(layers)
    if not every:
        return []
    kinds = {(type(norm), _epsilon(norm)) for norm, _ in every}
    if len(kinds) > 1:
        raise ValueError(f"the norms of layers that share statistics differ: {sorted(map(str, kinds))}")
    rows = _normalised(features, every[0][0])
    return [_project(rows, norm, module) for norm, module in every]


def _project(rows: Tensor, norm: Norm, module: Looks) -> Tensor:
    weight, own, shift = module.values.weight, module.values.bias, getattr(norm, "bias", None)
    bias = own if shift is None else F.linear(shift, weight, own)
    return linear(weight * norm.weight, bias, module.linears)(rows).unflatten(-1, (module.heads, -1))


def _normalised(features: Tensor, norm: Norm) -> Tensor:
    """The norm without its factor and bias, in the type of the features; 16 bits are normalised in 32."""
    wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    if isinstance(norm, nn.LayerNorm):
        normalised = F.layer_norm(wide, norm.normalized_shape, None, None, norm.eps)
    else:
        normalised = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return normalised.to(features.dtype)


def _epsilon(norm: Norm) -> float:
    return float(norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon)
