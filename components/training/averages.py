"""A moving average of the weights, as one more state of the optimizer: shared out, saved and restored as its moments are.

Where a training has one (`ema_decay`), its export, and that of each of its checkpoints, is the average; what is trained and validated
beside the training are the weights themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

AVERAGE = "average"
"""Key of the optimizer's state, beside `exp_avg` and `exp_avg_sq`."""
_WARM_UP = 9
PutAverages = Callable[[nn.Module, Optimizer], None]


def decay_at(step: int, decay: float) -> float:
    """What the average keeps of itself in a step, counted from 1: min(decay, step / (9 + step)), so that the first weights, which know
    nothing, are soon forgotten (the warm-up of TensorFlow's ExponentialMovingAverage)."""
    return min(decay, step / (_WARM_UP + step))


class AveragedAdamW(torch.optim.AdamW):
    """AdamW that also keeps the average of each tensor it steps, in that tensor's type; it begins as the weights after the first step."""

    def __init__(self, groups: Iterable[dict[str, Any]], decay: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self._average_decay = decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the weights, then one of the average."""
        loss = super().step(closure)
        if float(getattr(self, "found_inf", 0.0)):  # the loss scaler's word to the fused kernel, which then left the weights alone
            return loss
        for group in self.param_groups:
            if stepped := [parameter for parameter in group["params"] if parameter.grad is not None]:
                states = [self.state[parameter] for parameter in stepped]
                for state, parameter in zip(states, stepped, strict=True):
                    if AVERAGE not in state:
                        state[AVERAGE] = parameter.detach().clone()
                averages = [state[AVERAGE] for state in states]
                torch._foreach_lerp_(averages, stepped, 1 - decay_at(int(states[0]["step"]), self._average_decay))
        return loss


@torch.no_grad()
def put_averages(network: nn.Module, optimizer: Optimizer) -> None:
    """Overwrite the weights with their averages, where one process has all of both."""
    for parameter in network.parameters():
        if AVERAGE in optimizer.state.get(parameter, ()):
            parameter.copy_(optimizer.state[parameter][AVERAGE])
