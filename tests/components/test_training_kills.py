"""Training killed at three drawn points of each class ends with the weights and the curve of one that nobody disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
from kill_training import CLASSES, EVERY, STEPS, Ended, Point, Victim, told

SEED = "0"
SHAPES: dict[str, dict[str, int]] = {
    "one rank": {"zero_stage": 1},
    "all ranks": {"zero_stage": 2, "accumulate": 2},
    "SIGTERM": {"zero_stage": 3},
    "power cut": {"ranks": 1, "accumulate": 2},
    "supervisor": {"zero_stage": 1},
}
THIRD = (STEPS - EVERY) // 3


@pytest.fixture(scope="module")
def undisturbed(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ended]:
    return cache(lambda **shape: Victim(tmp_path_factory.mktemp("undisturbed") / "work", shape, warm).train())


@pytest.mark.parametrize("kind", CLASSES)
def test_three_kills_change_nothing(kind: str, undisturbed: Callable[..., Ended], warm: Mapping[str, str], tmp_path: Path) -> None:
    shape = SHAPES[kind]
    points = [Point.draw(kind, shape.get("ranks", 2), SEED, first, first + THIRD) for first in (0, THIRD, 2 * THIRD)]
    print(f"seed {SEED}: {'; '.join(map(told, points))}")
    ended, whole = Victim(tmp_path / "work", shape, warm).train(points), undisturbed(**shape)
    assert ended.digest == whole.digest
    assert ended.curve == whole.curve
    assert (ended.restarts, ended.commands) == ((3, 1) if kind in ("one rank", "all ranks") else (0, 4))
