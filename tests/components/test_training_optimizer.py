"""Parameter groups, the schedule, the objective and the meter: arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_world import train_params

from components.run.failures import FailureClass, StageError
from components.training.objective import MicroBatch, Objective, Sums, Targets
from components.training.optimizer import build_optimizer, check_patterns, freeze, parameter_groups, schedule
from components.training.telemetry.meter import Meter


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1, 1))
        self.sampling_offsets = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.value = nn.Linear(4, 4)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.llama_cross_attn = Attention()
        self.image_decoder = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)


GROUPS = [
    {"match": "llama_cross_attn.gate", "weight_decay": 0},
    {"match": "sampling_offsets", "learning_rate_factor": 0.1, "weight_decay": 0},
    {"match": "llama_cross_attn", "learning_rate_factor": 0.5},
]


def test_the_first_matching_group_wins_and_norms_and_biases_do_not_decay() -> None:
    network = Network()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, train_params(groups=GROUPS, learning_rate=1e-2, weight_decay=0.05))
    found = {group["name"]: (group["lr"], group["weight_decay"], [names[id(each)] for each in group["params"]]) for group in groups}
    assert found == {
        "llama_cross_attn.gate/decay": (1e-2, 0.0, ["llama_cross_attn.gate"]),
        "sampling_offsets/decay": (1e-3, 0.0, ["llama_cross_attn.sampling_offsets.weight"]),
        "sampling_offsets/no_decay": (1e-3, 0.0, ["llama_cross_attn.sampling_offsets.bias"]),
        "llama_cross_attn/decay": (5e-3, 0.05, ["llama_cross_attn.value.weight"]),
        "llama_cross_attn/no_decay": (
            5e-3,
            0.0,
            ["llama_cross_attn.norm.weight", "llama_cross_attn.norm.bias", "llama_cross_attn.value.bias"],
        ),
        "rest/decay": (1e-2, 0.05, ["image_decoder.weight", "head.weight"]),
        "rest/no_decay": (1e-2, 0.0, ["image_decoder.bias", "head.bias"]),
    }
    optimizer = build_optimizer(network, train_params(groups=GROUPS, betas=(0.9, 0.98), eps=1e-5))
    assert optimizer.defaults["betas"] == (0.9, 0.98)
    assert optimizer.defaults["eps"] == 1e-5


def test_a_pattern_without_parameter_is_named_by_its_key() -> None:
    names = [name for name, _ in Network().named_parameters()]
    check_patterns(names, {"pretrain.groups": ("sampling_offsets", ""), "finetune.vqa.freeze": ("image_decoder",)})
    with pytest.raises(StageError, match=r"finetune\.vqa\.freeze: no parameter's name contains 'imagedecoder'") as error:
        check_patterns(names, {"pretrain.groups": ("norm",), "finetune.vqa.freeze": ("head", "imagedecoder")})
    assert error.value.failure is FailureClass.BAD_CONFIG


def test_frozen_parameters_are_in_no_group() -> None:
    network = Network()
    freeze(network, ["image_decoder"])
    assert sum(len(group["params"]) for group in parameter_groups(network, train_params())) == len(list(network.parameters())) - 2
    freeze(network, [""])
    with pytest.raises(StageError, match="leaves no parameter"):
        parameter_groups(network, train_params())


@given(steps=st.integers(2, 400), data=st.data())
def test_the_schedule_rises_then_falls_to_its_final_factor(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    final = data.draw(st.floats(0, 1))
    factor = schedule(train_params(steps=steps, warmup_steps=warmup, final_learning_rate_factor=final))
    values = [factor(step) for step in range(steps + 1)]
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup] == pytest.approx(1)
    assert all(late <= early + 1e-12 for early, late in zip(values[warmup:], values[warmup + 1 :], strict=False))
    assert values[-1] == pytest.approx(final)


def test_losses_are_divided_by_the_counts_of_all_ranks() -> None:
    """Two ranks with 3 and 1 text targets: the mean over 4, whatever the deal; engines average gradients, which is undone."""
    parameter = torch.tensor(2.0, requires_grad=True)
    other_rank = torch.tensor([10.0, 0.5, 3, 1, 7, 2, 1], dtype=torch.float64)

    def network(factor: float, *, text_weight: float, image_weight: float) -> SimpleNamespace:
        return SimpleNamespace(text_loss_sum=parameter * factor, image_loss_sum=parameter * 0.0)

    objective = Objective(1.0, 10.0, lambda values: values + other_rank, copies=2)
    loss, sums = objective(network, MicroBatch((4.0,), Targets(1, 0, 5, 2), 1, 0))
    assert sums == Sums(text_loss=18.0, image_loss=0.5, step_text=4.0, step_images=1.0, tokens=12.0, images=4.0, stop=1.0)
    assert loss.item() == pytest.approx(2 * 8.0 / 4)
    loss.backward()
    assert parameter.grad is not None
    assert parameter.grad.item() == pytest.approx(2 * 4.0 / 4)
    assert sums.is_finite
    assert not Sums(float("nan"), 0, 1, 1, 1, 1, 0).is_finite


def test_the_meter_goes_on_where_a_checkpoint_left_it() -> None:
    sums = [Sums(float(n), 2.0 * n, 4, 2, 10, 3, 0) for n in range(1, 5)]
    whole, first, second = (Meter(1.0, 10.0) for _ in range(3))
    for one in sums:
        whole.add(one)
    first.add(sums[0])
    second.load(first.state())
    for one in sums[1:]:
        second.add(one)
    names = ("loss", "text_loss", "image_loss")
    expected, found = whole.read(2), second.read(2)
    assert [expected[name] for name in names] == [found[name] for name in names]
    assert expected["text_loss"] == pytest.approx((1 + 2 + 3 + 4) / 4 / 2)
    assert expected["loss"] == pytest.approx(expected["text_loss"] + 10 * expected["image_loss"])
    assert whole.state() == Meter(1.0, 10.0).state(), "a reading starts anew"
