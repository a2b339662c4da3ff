"""Training killed at 25 drawn points for each of ZeRO 1, 2, 3 and plain, five of each class: always the weights of the undisturbed one.

MMFS_FAULT_SEED draws other points. MMFS_KILL_LOG names a file that gets a line a point (docs/kill-log.md was made by it).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kill_training import CLASSES, Ended, Point, Victim, told

from components.launch.warm import warm_ranks

SEED = os.environ.get("MMFS_FAULT_SEED", "0")
LOG = os.environ.get("MMFS_KILL_LOG")
SHAPES: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "plain": {"ranks": 1},
}
DRAWS = 5
pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests" / "components")))}
    with warm_ranks(environment, Path.cwd(), tmp_path_factory.mktemp("warm") / "zygote.log") as variables:
        yield variables


@pytest.fixture(scope="module")
def undisturbed(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    return cache(lambda shape: Victim(tmp_path_factory.mktemp("undisturbed") / "work", SHAPES[shape], warm).train())


@pytest.mark.parametrize("number", range(DRAWS))
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_kill_changes_nothing(
    shape: str, kind: str, number: int, undisturbed: Callable[[str], Ended], warm: Mapping[str, str], tmp_path: Path
) -> None:
    expected = undisturbed(shape)
    point = Point.draw(kind, SHAPES[shape].get("ranks", 2), f"{SEED} {shape} {number}")
    print(f"seed {SEED}: {shape}: {told(point)}")
    ended = Victim(tmp_path / "work", SHAPES[shape], warm).train([point])
    same = ended.digest == expected.digest and ended.curve == expected.curve
    if LOG:
        files = f", {ended.files[0]} files of a checkpoint written" if ended.files else ""
        with Path(LOG).open("a", encoding="utf-8") as log:
            row = (
                shape,
                kind,
                f"step {point.step} + {point.delay_s * 1000:.0f} ms, rank {point.rank}{files}",
                ended.restarts,
                ended.commands,
            )
            log.write(f"| {' | '.join(map(str, row))} | `{ended.digest[:16]}` | `{expected.digest[:16]}` | {'yes' if same else 'NO'} |\n")
    assert ended.digest == expected.digest
    assert ended.curve == expected.curve
