"""Validation beside training: what is computed, on which rows, and that training does not notice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from standin_rank import HeldOut
from training_world import World, train_params

from components.training.validation.validation import HeldOutBatch, Tally, bucket_of, buckets_up_to, of_bucket


def validated(world: World) -> dict[int, dict[str, float]]:
    return {point["step"]: point["metrics"] for point in world.points if any(name.startswith("validation/") for name in point["metrics"])}


def test_buckets_are_powers_of_two_and_all_documents_have_one() -> None:
    assert buckets_up_to(0) == buckets_up_to(1) == (1,)
    assert buckets_up_to(5) == (1, 2, 4, 8)
    assert bucket_of(torch.tensor([0, 1, 2, 3, 4, 5, 8]), (1, 2, 4, 8)).tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_sums_are_means_by_source_and_by_images() -> None:
    tally = Tally(HeldOut())
    target = torch.tensor([0, 1, 5, 0])
    batch = HeldOutBatch("story", (), target, torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0]), torch.tensor([True, False]))
    losses = SimpleNamespace(
        text_losses=torch.tensor([1.0, 2.0, 3.0, 6.0]), image_losses=torch.tensor([0.5, 9.0]), predicted=torch.tensor([0, 3, 5, 1])
    )
    tally.add(batch, losses)
    tally.add(batch, SimpleNamespace(**vars(losses) | {"image_losses": torch.zeros(0)}))
    assert tally.read() == {
        "validation/story/text_loss": 3.0,
        "validation/story/image_loss": 0.5,
        "validation/story/stop_accuracy": 0.5,
        "validation/story/placement_accuracy": 0.0,
        "validation/bucket_1/text_loss": 1.5,
        "validation/bucket_1/stop_accuracy": 1.0,
        "validation/bucket_1/placement_accuracy": 0.0,
        "validation/bucket_2/text_loss": 4.5,
        "validation/bucket_2/image_loss": 0.5,
        "validation/bucket_2/stop_accuracy": 0.0,
    }
    assert of_bucket(tally.read(), 2) == {"text_loss": 4.5, "image_loss": 0.5, "stop_accuracy": 0.0}


@pytest.mark.parametrize("shape", [{"ranks": 1}, {"zero_stage": 3}], ids=["plain", "zero-3"])
def test_training_does_not_notice(shape: dict[str, Any], warm: Mapping[str, str], tmp_path: Path) -> None:
    worlds = {
        every: World(tmp_path / str(every), train_params(steps=5, validation={"every_steps": every}, **shape), warm) for every in (0, 2)
    }
    for world in worlds.values():
        assert world.attempt() is None
    assert worlds[2].digest == worlds[0].digest, "with dropout, whose draws would differ if validation took any"
    assert worlds[2].curve == worlds[0].curve
    assert validated(worlds[0]) == {}
    assert list(validated(worlds[2])) == [2, 4, 5]
    assert len(validated(worlds[2])[2]) == 14, "source story has no picture beginning here"


def test_a_killed_training_validates_the_same(warm: Mapping[str, str], tmp_path: Path) -> None:
    train = train_params(ranks=1, validation={"every_steps": 2})
    whole, killed = World(tmp_path / "whole", train, warm), World(tmp_path / "killed", train, warm)
    assert whole.attempt() is None
    assert killed.attempt(KILL_AT="5:0:9") is not None
    assert killed.attempt() is None
    assert list(validated(whole)) == [2, 4, 6, 8]
    assert validated(killed) == validated(whole)
