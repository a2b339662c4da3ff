"""Training killed at a drawn point of every class in turn ends with the weights and the curve of one that nobody disturbed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from kill_training import CLASSES, EVERY, STEPS, Point, Victim, told

SEED = "0"
PART = (STEPS - EVERY) // len(CLASSES)
SHAPES = [
    pytest.param({"ranks": 1, "accumulate": 2}, id="plain-accumulated"),
    pytest.param({"zero_stage": 2, "accumulate": 2}, id="zero-2-accumulated"),
    pytest.param({"zero_stage": 3}, id="zero-3"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_kills_change_nothing(shape: dict[str, int], warm: Mapping[str, str], tmp_path: Path) -> None:
    """Three points of each class in all."""
    kinds = random.Random(f"{SEED} {shape}").sample(CLASSES, len(CLASSES))
    points = [Point.draw(kind, shape.get("ranks", 2), f"{SEED} {shape}", PART * turn, PART * (turn + 1)) for turn, kind in enumerate(kinds)]
    print(f"seed {SEED}: {'; '.join(map(told, points))}")
    whole = Victim(tmp_path / "whole", shape, warm).train()
    killed = Victim(tmp_path / "killed", shape, warm).train(points)
    assert (whole.restarts, whole.commands) == (0, 1)
    assert (killed.restarts, killed.commands) == (2, 4), "killed ranks are started again by the stage, a stopped stage by who started it"
    assert killed.digest == whole.digest
    assert killed.curve == whole.curve
