"""Averages of weights are part of a training: exact when it is killed, the same however it is shared out, and what it exports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from training_world import SHAPES, STEPS, World, train_params

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import ENGINE
from components.run.failures import StageError
from components.training.averages import AVERAGE, AveragedAdamW, decay_at
from components.training.checkpoints.commits import going_on
from components.training.checkpoints.stored import stored_averages, stored_weights

DECAY = 0.6


def by_hand(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average after these weights, one step after the other, in float64."""
    averages = {name: tensor.double() for name, tensor in weights[0].items()}
    for number, one in enumerate(weights[1:], start=2):
        kept = min(DECAY, number / (9 + number))
        averages = {name: kept * average + (1 - kept) * one[name].double() for name, average in averages.items()}
    return averages


def tensors(read: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor().detach().clone() for name, tensor in read.items()}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor, rtol=1e-6, atol=1e-7, msg=lambda told, name=name: f"{name}: {told}")


@given(step=st.integers(1, 10**7), decay=st.floats(0, 0.999999))
def test_the_decay_rises_to_its_limit(step: int, decay: float) -> None:
    assert 0 <= decay_at(step, decay) <= decay_at(step + 1, decay) <= decay
    assert decay_at(10**9, decay) == decay


def test_a_step_that_the_loss_scaler_left_out_leaves_the_average_out() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AveragedAdamW([{"params": [weight]}], DECAY, lr=0.1, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, math.inf):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0, "the second step overflowed"
    assert torch.equal(optimizer.state[weight][AVERAGE], weight)
    assert float(optimizer.state[weight]["step"]) == 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_export_is_the_average_killed_or_not(shape: dict[str, Any], warm: Mapping[str, str], tmp_path: Path) -> None:
    shape = {"whole_parameters": 0, **shape}
    train = train_params(ema_decay=DECAY, checkpoint_every_steps=1, checkpoints={"keep_last": STEPS}, **shape)
    whole, bare = World(tmp_path / "whole", train, warm), World(tmp_path / "bare", train_params(**shape), warm)
    for world in (whole, bare):
        assert world.attempt() is None, world.failure
    engines = [CheckpointFolder(whole.work / "checkpoints").at(step).path / ENGINE for step in range(1, STEPS)]
    weights = [tensors(stored_weights(engine)) for engine in engines]
    assert_same(tensors(stored_averages(engines[-1])), by_hand(weights))
    last = load_file(bare.work / "export" / "model.safetensors")
    assert_same(load_file(whole.work / "export" / "model.safetensors"), by_hand([*weights, last]))

    killed = World(tmp_path / "killed", train.model_copy(update={"checkpoint_every_steps": 2}), warm)
    rank = killed.train.ranks - 1
    dead = killed.attempt(KILL_AT=f"5:{rank}:9")
    assert dead is not None
    assert killed.attempt() is None
    assert killed.digest == whole.digest


def test_another_decay_is_another_training(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(ranks=1, ema_decay=DECAY), warm)
    assert world.attempt(KILL_AT="5:0:9") is not None
    other = world.job().model_copy(update={"train": train_params(ranks=1)})
    with pytest.raises(StageError, match=r"of another training: optimizer\.ema_decay is 0\.0, the checkpoint has 0\.6"):
        going_on(other)
