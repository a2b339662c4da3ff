"""The operator on an NVIDIA GPU, in Triton. Its modules are imported when a tensor on such a device first asks for them."""

from __future__ import annotations

import logging
from functools import cache

import torch

_log = logging.getLogger(__name__)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether Triton is here; without it, one line in the log says so."""
    return is_imported()


@cache
def is_imported() -> bool:
    """The same, asked once per process."""
    try:
        from kernels.deformable_attention.gpu import registered  # noqa: F401
    except ImportError as error:
        _log.warning("deformable attention by pure PyTorch, the GPU's kernels are not used: %s", error)
        return False
    return True
