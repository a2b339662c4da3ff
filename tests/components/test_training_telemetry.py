"""What is measured beside the losses: arithmetic, and that a real training tells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_world import World, train_params

from components.tracking.spool import Point, unfolded
from components.training.objective import Sums
from components.training.telemetry.goodput import Goodput, began_ms
from components.training.telemetry.meter import Meter
from components.training.telemetry.mfu import FlopCount, mfu, peak_flops
from components.training.telemetry.sources import Labels, means_by_name, sums_by_name
from components.training.telemetry.stopwatch import DeviceStopwatch, Stopwatch, split

TRAINED, PASSED, BELOW = 6, 4, 2


def flops(forward: Callable[[], object]) -> float:
    with FlopCount() as count:
        forward()
    return count.flops


def test_a_weight_costs_6_4_or_2_times_its_numbers_a_token() -> None:
    tokens, features = 5, torch.ones(5, 8)
    below, frozen, trained = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
    below.requires_grad_(False)
    first = nn.Linear(8, 16)
    frozen.requires_grad_(False)
    assert flops(lambda: below(features)) == BELOW * 8 * 16 * tokens
    assert flops(lambda: first(features)) == 4 * 8 * 16 * tokens, "the data need no gradient"
    assert flops(lambda: trained(frozen(first(features)))) == tokens * (4 * 8 * 16 + PASSED * 16 * 16 + TRAINED * 16 * 4)
    with torch.no_grad():
        assert flops(lambda: trained(frozen(first(features)))) == 2 * tokens * (8 * 16 + 16 * 16 + 16 * 4)
    pictures = torch.ones(2, 3, 8, 8, requires_grad=True)
    assert flops(lambda: nn.Conv2d(3, 6, 3, padding=1)(pictures)) == TRAINED * 2 * 64 * 3 * 9 * 6


def test_attention_costs_its_two_products_three_times() -> None:
    query, key = (torch.ones(2, 3, length, 4, requires_grad=True) for length in (7, 5))
    expected = 3 * 2 * (2 * 2 * 3 * 7 * 5 * 4)
    assert flops(lambda: F.scaled_dot_product_attention(query, key, key)) == expected
    assert flops(lambda: torch.matmul(query, key.mT).softmax(-1) @ key) == expected


def test_mfu_needs_a_peak() -> None:
    assert mfu(2e9, 1000.0, 4e12) == 0.5
    assert peak_flops(989.0, "cuda", "bf16-mixed") == 989e12
    assert (peak_flops("auto", "cpu", "32-true") or 0) > 0


def test_laps_add_up() -> None:
    now = iter([0.0, 1.0, 1.5, 4.5, 4.5, 5.0])
    watch = Stopwatch(lambda: next(now))
    watch.start()
    for name in ("data", "forward", "checkpoint", "data"):
        watch.lap(name)
    assert watch.seconds() == {"data": 1.0, "forward": 3.0, "checkpoint": 0.0} | {"data": 1.0}
    assert split({"data": 1.0, "forward": 3.0, "checkpoint": 8.0}, 2) == {
        "time/step": 2.0, "time/data": 0.5, "time/forward": 1.5, "time/checkpoint": 4.0,
    }  # fmt: skip


def test_nothing_waits_for_a_device_that_is_behind() -> None:
    reached = 0

    class Event:
        made = 0

        def __init__(self) -> None:
            self.place = Event.made
            Event.made += 1

        def query(self) -> bool:
            return self.place <= reached

        def elapsed_time(self, end_event: Event) -> float:
            return 1000.0 * (end_event.place - self.place)

    watch = DeviceStopwatch(Event)
    watch.start()
    for name in ("data", "forward", "backward", "data"):
        watch.lap(name)
    assert watch.seconds() == {}
    reached = 2
    assert watch.seconds() == {"data": 1.0, "forward": 1.0}
    watch.load({})
    reached = 4
    assert watch.seconds() == {"backward": 1.0, "data": 1.0}


def test_losses_are_told_by_name() -> None:
    output = SimpleNamespace(text_losses=torch.tensor([1.0, 2.0, 6.0]), image_losses=torch.tensor([0.5, 7.0]))
    labels = Labels(3, torch.tensor([0, 2, 2]), torch.tensor([2, 0]), torch.tensor([1.0, 0.0]))
    sums = sums_by_name(output, labels).tolist()
    assert means_by_name(sums, ("a", "b", "c")) == {
        "source/a/text_loss": 1.0, "source/a/text_targets": 1.0,
        "source/c/text_loss": 4.0, "source/c/text_targets": 2.0, "source/c/image_loss": 0.5, "source/c/pictures": 1.0,
    }  # fmt: skip
    no_head = sums_by_name(SimpleNamespace(text_losses=output.text_losses, image_losses=torch.zeros(0)), labels).tolist()
    assert means_by_name(no_head, ("a", "b", "c")).keys() == {f"source/{n}/text_{w}" for n in "ac" for w in ("loss", "targets")}


def test_a_checkpoint_keeps_what_was_measured_and_not_the_names_alone() -> None:
    first, second = Meter(1.0, 1.0, names=("a", "b")), Meter(1.0, 1.0, names=("b", "a"))
    first.add(Sums(1, 1, 1, 1, 1, 1, 0, (3.0, 1.0, 0.0, 0.0, 5.0, 1.0, 0.0, 0.0)))
    first.note(0.25)
    second.load(first.state())
    second.note(0.5)
    assert second.norms == [0.25, 0.5]
    values = second.read(1)
    assert (values["source/a/text_loss"], values["source/b/text_loss"]) == (3.0, 5.0)
    assert second.norms == []


def test_a_point_unfolds_into_the_steps_before_it() -> None:
    point: Point = {"step": 6, "time_ms": 9, "metrics": {"loss": 1.0, "grad_norm": 0.3}, "each_step": {"grad_norm": [0.1, 0.2, 0.3]}}
    assert [(one["step"], one["time_ms"], one["metrics"]) for one in unfolded([point])] == [
        (4, 9, {"grad_norm": 0.1}),
        (5, 9, {"grad_norm": 0.2}),
        (6, 9, {"loss": 1.0, "grad_norm": 0.3}),
    ]


def test_goodput_is_kept_time_over_all_time(tmp_path: Path) -> None:
    goodput = Goodput(began_ms=10_000)

    def told(step: int, time_ms: int, seconds: float, steps: int) -> Point:
        metrics = {"time/step": seconds}
        return {"step": step, "time_ms": time_ms, "metrics": metrics, "each_step": {"grad_norm": [1.0] * steps}}

    assert goodput.note([told(2, 20_000, 2.5, 2)]) == 0.5
    assert goodput.note([{"step": 2, "time_ms": 21_000, "metrics": {"validation/a/text_loss": 1.0}}]) is None
    assert goodput.note([told(4, 40_000, 2.5, 2)]) == pytest.approx(10 / 30), "ten seconds of a kill and steps done again"
    began = began_ms(tmp_path)
    assert began_ms(tmp_path) == began


@pytest.fixture(scope="module")
def trained(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    @cache
    def train(**shape: int) -> World:
        telemetry = {"group_norms_every_steps": 2, "peak_tflops": 1e-3}
        world = World(tmp_path_factory.mktemp("measured"), train_params(steps=4, telemetry=telemetry, **shape), warm)
        assert world.attempt(NO_DROPOUT="1") is None
        return world

    return train


def groups(world: World) -> dict[int, dict[str, float]]:
    return {point["step"]: point["metrics"] for point in world.points if any(name.startswith("grad_norm/") for name in point["metrics"])}


@pytest.mark.parametrize("shape", [{"zero_stage": 2, "accumulate": 2}, {"zero_stage": 3}], ids=str)
def test_group_norms_are_those_of_one_process(shape: dict[str, int], trained: Callable[..., World]) -> None:
    plain, sharded = groups(trained(ranks=1)), groups(trained(**shape))
    assert list(plain) == list(sharded) == [2, 4]
    norms = {one["step"]: one["metrics"]["grad_norm"] for one in unfolded(trained(ranks=1).points) if "grad_norm" in one["metrics"]}
    assert list(norms) == [1, 2, 3, 4], "the global norm of every step"
    for step, one in plain.items():
        assert sharded[step] == pytest.approx(one, rel=1e-4)
        assert math.sqrt(sum(norm**2 for norm in one.values())) == pytest.approx(norms[step], rel=1e-5)


def test_a_killed_training_tells_each_norm_once_and_what_was_lost(
    trained: Callable[..., World], warm: Mapping[str, str], tmp_path: Path
) -> None:
    train = trained(ranks=1).train.model_copy(update={"log_every_steps": 1, "checkpoint_every_steps": 100})
    world = World(tmp_path, train, warm)
    assert world.attempt(NO_DROPOUT="1", KILL_AT="3:0:9") is not None
    assert world.attempt(NO_DROPOUT="1") is None
    told = unfolded(world.points)
    assert [one["step"] for one in told if "loss" in one["metrics"]] == [1, 2, 3, 4]
    for one in told:
        assert {"mfu", "time/step", "memory/rss_bytes"} <= set(one["metrics"]) or "loss" not in one["metrics"]
    journal = (world.work / "events.jsonl").read_text()
    assert '"kind": "resumed", "step": 0, "values": {"lost_steps": 2}' in journal
