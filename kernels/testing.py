"""The one comparison and the one table of tolerances, by type and by how much is compared at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Level = Literal["op", "module", "model"]

# Largest absolute difference over the largest absolute reference value.
TOLERANCE: dict[tuple[torch.dtype, Level], float] = {
    (torch.float64, "op"): 1e-12,
    (torch.float64, "module"): 1e-11,
    (torch.float64, "model"): 1e-10,
    (torch.float32, "op"): 5e-6,
    (torch.float32, "module"): 1e-5,
    (torch.float32, "model"): 1e-4,
    (torch.bfloat16, "op"): 1.6e-2,
    (torch.bfloat16, "module"): 3e-2,
    (torch.bfloat16, "model"): 6e-2,
    (torch.float16, "op"): 2e-3,
    (torch.float16, "module"): 5e-3,
    (torch.float16, "model"): 1e-2,
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference divided by the largest absolute expected value (by 1 if all are zero)."""
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().double().item()
    return (actual.double() - expected.double()).abs().max().item() / (scale or 1.0)


def assert_close(actual: Tensor, expected: Tensor, level: Level, name: str = "tensor") -> None:
    """Integers and masks match exactly; floats within the table's tolerance for the coarser of the two types.

    Raises AssertionError naming the tensor, its error and the tolerance.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    if not expected.is_floating_point():
        if not torch.equal(actual.to(expected.dtype), expected):
            raise AssertionError(f"{name}: {(actual != expected).sum().item()} of {expected.numel()} values differ")
        return
    if not torch.isfinite(actual).all():
        raise AssertionError(f"{name}: {(~torch.isfinite(actual)).sum().item()} values are not finite")
    coarser = max(actual.dtype, expected.dtype, key=lambda dtype: TOLERANCE[dtype, level])
    error, limit = relative_error(actual, expected), TOLERANCE[coarser, level]
    if error > limit:
        raise AssertionError(f"{name}: relative error {error:.3g} above {limit:.3g}")
