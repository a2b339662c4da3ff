"""Activation checkpointing: a layer's activations are computed again for its gradient instead of being kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def call(layer: nn.Module, *arguments: Any, recompute: bool) -> Any:
    """`layer(*arguments)`; with `recompute`, its inputs alone are kept where gradients are wanted. The values are the same."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *arguments, use_reentrant=False)
    return layer(*arguments)
