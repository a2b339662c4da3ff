"""The real model under real DeepSpeed on gloo ranks: however a step is shared out, it is the same step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from real_training import RealWorld, real_params, small_corpus
from safetensors.torch import load_file
from training_world import STEPS, World, train_params

from components.checkpoints.manifest import ENGINE, verify
from components.training.checkpoints.shape import fitted
from components.training.parts import mm_interleaved
from kernels.testing import assert_close

NOISE = 1e-5
"""Relative: what float32 sums in another order may differ by after some steps of AdamW; twenty times what is seen."""

BFLOAT16 = 2e-2
"""Relative: of losses and gradient norms from numbers of 8 significant bits, each off by up to 2 to the -9 (0.2 %), and many add up."""

NO_GRADIENT = 1e-8
"""Of the largest gradient."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(warm: Mapping[str, str], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RealWorld]:
    """The uninterrupted training of a shape, run once."""

    @cache
    def train(**shape: Any) -> RealWorld:
        world = RealWorld(tmp_path_factory.mktemp("trained"), real_params(**shape), warm, corpus=corpus)
        assert world.attempt() is None, world.failure
        return world

    return train


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"zero_stage": 2, "accumulate": 2}, id="zero-2-accumulated"),
        pytest.param({"zero_stage": 3}, id="zero-3"),
        pytest.param({"zero_stage": 1}, id="zero-1", marks=pytest.mark.faults),
        pytest.param({"zero_stage": 3, "whole_parameters": 0}, id="zero-3-of-everything", marks=pytest.mark.faults),
    ],
)
def test_ranks_stages_and_accumulation_do_not_change_the_mathematics(shape: dict[str, Any], trained: Callable[..., RealWorld]) -> None:
    assert_alike(trained(ranks=1).curve, trained(**shape).curve)


@pytest.mark.faults
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_in_bfloat16_follow_float32(stage: int, trained: Callable[..., RealWorld]) -> None:
    """The engine's bfloat16: weights in 16 bits, the optimizer's copy in float32. Near float32, and not float32 itself."""
    whole, short = trained(ranks=1).curve, trained(zero_stage=stage, precision="bf16-mixed").curve
    assert_alike(whole, short, BFLOAT16)
    assert all(not math.isclose(one[1], other[1], rel_tol=NOISE) for one, other in zip(whole, short, strict=True))


@pytest.mark.faults
def test_killed_under_zero_3_the_real_model_ends_with_the_same_weights(
    trained: Callable[..., RealWorld], warm: Mapping[str, str], corpus: Path, tmp_path: Path
) -> None:
    whole = trained(zero_stage=3)
    killed = RealWorld(tmp_path, whole.train, warm, corpus=corpus)
    dead = killed.attempt(KILL_AT="2:1:9")
    assert dead is not None
    assert (dead.rank, dead.status) == (1, -9)
    assert killed.attempt() is None
    assert killed.digest == whole.digest
    assert killed.curve == whole.curve


@pytest.mark.faults
def test_ranks_of_the_real_model_come_and_go(
    warm: Mapping[str, str], corpus: Path, trained: Callable[..., RealWorld], tmp_path: Path
) -> None:
    """2 ranks, then one process without DeepSpeed, then 2 under another stage: the rows, their noise and the schedule go on."""
    whole = trained(ranks=1, steps=5)
    legs = [({"zero_stage": 2, "accumulate": 2}, "2:1:9"), ({"ranks": 1}, "4:0:9"), ({"zero_stage": 3}, None)]
    for shape, kill in legs:
        world = RealWorld(tmp_path, real_params(steps=5, **shape), warm, corpus=corpus)
        dead = world.attempt(**({"KILL_AT": kill} if kill else {}))
        assert (dead is None) == (kill is None), world.failure
        (tmp_path / "killed").unlink(missing_ok=True)
    assert [row[0] for row in world.curve] == [1, 2, 3, 4, 5]
    assert_alike(whole.curve, world.curve)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"ranks": 1}, id="plain"),
        *(pytest.param({"zero_stage": stage}, id=f"zero-{stage}", marks=pytest.mark.faults) for stage in (1, 2, 3)),
    ],
)
def test_the_gradients_of_a_step_are_those_of_a_plain_loop(
    shape: dict[str, Any], trained: Callable[..., RealWorld], tmp_path: Path
) -> None:
    """AdamW's first moment after one step is (1 - beta) times the clipped gradient."""
    world = trained(**shape)
    norm = world.points[0]["metrics"]["grad_norm"]
    first = verify(world.work / "checkpoints" / "step-00000001")
    alone = real_params(ranks=1)
    [optimizer] = torch.load(fitted(first, alone, 1, tmp_path) / ENGINE, weights_only=True)["optimizer_states"]
    scale = max(1.0, norm / alone.clip_norm) / (1 - alone.betas[0])
    expected = plain_gradients(world)
    found = {}
    for group in optimizer["param_groups"]:
        for number, name in zip(group["params"], group["parameters"], strict=True):
            found[name] = optimizer["state"][number]["exp_avg"] * scale
    assert set(found) == set(expected)
    nothing = NO_GRADIENT * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        if gradient.abs().max() < nothing:  # a bias that all keys get: the softmax takes it out again, what is left is rounding
            assert found[name].abs().max() < nothing, name
        else:
            assert_close(found[name], gradient, "module", name)


def plain_gradients(world: RealWorld) -> dict[str, torch.Tensor]:
    """One forward and backward over the rows of the first step, by nothing but the model and torch."""
    job = world.job().model_copy(update={"train": real_params(ranks=1)})
    network, batch_of, *_ = mm_interleaved(job)
    (rows, layout), targets = batch_of(0, 0, 1, 0)
    output = network(rows, layout, text_weight=job.text_loss_weight, image_weight=job.image_loss_weight)
    loss = job.text_loss_weight * output.text_loss_sum / targets.text + job.image_loss_weight * output.image_loss_sum / targets.images
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


LEGS = [
    pytest.param(
        [({"zero_stage": 2, "accumulate": 2}, "3:1:9"), ({"ranks": 1}, "6:0:9"), ({"zero_stage": 3}, None)], id="zero-2-plain-zero-3"
    ),
    pytest.param(
        [({"zero_stage": 3}, "3:1:9"), ({"zero_stage": 1}, "5:0:9"), ({"ranks": 1}, "7:0:9"), ({"zero_stage": 3}, None)],
        id="zero-3-zero-1-plain-zero-3",
        marks=pytest.mark.faults,
    ),
]
"""Shapes of the ranks one after the other, and where each but the last is killed: each way of storing is read by another."""


@pytest.mark.parametrize("legs", LEGS)
def test_ranks_come_and_go(legs: list[tuple[dict[str, Any], str | None]], warm: Mapping[str, str], tmp_path: Path) -> None:
    """The stand-in network, whose dropout is off: 2 ranks, one process without DeepSpeed, 2 under another stage.

    What is compared at the end are averages of its weights.
    """
    told = {"log_every_steps": 1, "ema_decay": 0.6}
    whole = World(tmp_path / "whole", train_params(ranks=1, **told), warm)
    assert whole.attempt(NO_DROPOUT="1") is None
    for shape, kill in legs:
        world = World(tmp_path / "changed", train_params(whole_parameters=0, **told, **shape), warm)
        dead = world.attempt(NO_DROPOUT="1", **({"KILL_AT": kill} if kill else {}))
        assert (dead is None) == (kill is None), world.failure
        (world.work / "killed").unlink(missing_ok=True)
    assert [point["step"] for point in world.points] == list(range(1, STEPS + 1))
    assert len(list((world.work / "converted").iterdir())) == len(legs) - 1
    assert_alike(whole.curve, world.curve)
    expected = load_file(whole.work / "export" / "model.safetensors")
    for name, found in load_file(world.work / "export" / "model.safetensors").items():
        assert_close(found, expected[name], "module", name)


def assert_alike(expected: list[tuple[float, ...]], found: list[tuple[float, ...]], tolerance: float = NOISE) -> None:
    for one, other in zip(expected, found, strict=True):
        assert all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(one, other, strict=True)), (one, other)
