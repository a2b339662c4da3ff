"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from components.params import ParameterGroup, TrainParams
from components.run.failures import FailureClass, StageError
from components.training.averages import AveragedAdamW


def check_patterns(names: Iterable[str], patterns: Mapping[str, Sequence[str]]) -> None:
    """Raises StageError (bad_config) for a pattern, by its key in params.yaml, that is in none of the parameters' names."""
    known = tuple(names)
    for key, own in patterns.items():
        for pattern in own:
            if not any(pattern in name for name in known):
                raise StageError(
                    FailureClass.BAD_CONFIG, f"{key}: no parameter's name contains {pattern!r}", "correct the pattern in params.yaml"
                )


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters whose name contains one of `patterns`."""
    for name, parameter in network.named_parameters():
        if any(pattern in name for pattern in patterns):
            parameter.requires_grad_(False)


def parameter_groups(network: nn.Module, train: TrainParams) -> list[dict[str, Any]]:
    """Optimizer groups: the first of `train.groups` whose `match` is in the name wins; biases and norms (one dimension) never decay.

    Parameters keep the order of the network, and `parameters` are their names there, by which a checkpoint knows them. Raises StageError
    when nothing is trained.
    """
    rules = (*train.groups, ParameterGroup(match=""))
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        number = next(number for number, rule in enumerate(rules) if rule.match in name)
        decays = len(_shape(parameter)) > 1
        rule = rules[number]
        decay = (train.weight_decay if rule.weight_decay is None else rule.weight_decay) if decays else 0.0
        group = groups.setdefault(
            (number, decays),
            {
                "params": [],
                "parameters": [],
                "lr": train.learning_rate * rule.learning_rate_factor,
                "weight_decay": decay,
                "name": f"{rule.match or 'rest'}/{'decay' if decays else 'no_decay'}",
            },
        )
        group["params"].append(parameter)
        group["parameters"].append(name)
    if not groups:
        raise StageError(FailureClass.BAD_CONFIG, "freeze leaves no parameter to train", "remove a pattern from `freeze` in params.yaml")
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1]))]


def schedule(train: TrainParams) -> Callable[[int], float]:
    """Factor of the learning rate at an optimizer step (from 0): linear warm-up, then a cosine that ends at the final factor."""

    def factor(step: int) -> float:
        if step < train.warmup_steps:
            return (step + 1) / train.warmup_steps
        progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return train.final_learning_rate_factor + (1 - train.final_learning_rate_factor) * cosine

    return factor


def build_optimizer(network: nn.Module, train: TrainParams) -> torch.optim.AdamW:
    """AdamW over the network's parameter groups, with an average of the weights where `train.ema_decay` asks for one."""
    options: dict[str, Any] = {"lr": train.learning_rate, "betas": train.betas, "eps": train.eps, "fused": True}
    groups = parameter_groups(network, train)
    return AveragedAdamW(groups, train.ema_decay, **options) if train.ema_decay else torch.optim.AdamW(groups, **options)


def _shape(parameter: nn.Parameter) -> Sequence[int]:
    """The parameter's own shape; ZeRO-3 leaves a flat shard in its place and keeps the shape aside."""
    return getattr(parameter, "ds_shape", parameter.shape)
