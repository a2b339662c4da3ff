"""Training killed at 25 drawn points for each of ZeRO 1, 2, 3 and plain, five of each class: always the weights of the undisturbed one.

MMFS_FAULT_SEED draws other points. MMFS_KILL_LOG names a file that gets a line a point (docs/kill-log.md was made by it).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
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
HEADING = """# Kill log

Written by `MMFS_KILL_LOG=docs/kill-log.md make test-faults` (tests/faults/test_kill_training.py): the stand-in network, 24 steps,
a checkpoint every 3, killed at a drawn point and started again until it ends. Both digests are of the exported weights; `same` means equal
weights and equal curves, bit for bit. {date}, Python {python}, {versions}, seed {seed}.

| training | class | point | restarts by the stage | commands | weights | undisturbed | same |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
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
    if LOG:
        note(Path(LOG), shape, point, ended, expected)
    assert ended.digest == expected.digest
    assert ended.curve == expected.curve


def note(log: Path, shape: str, point: Point, ended: Ended, expected: Ended) -> None:
    """Add a line to the log, below a heading where there is none."""
    if not log.exists():
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "deepspeed"))
        log.write_text(HEADING.format(date=f"{datetime.now(UTC):%Y-%m-%d}", python=platform.python_version(), versions=versions, seed=SEED))
    files = f", {ended.files[0]} files of a checkpoint written" if ended.files else ""
    where = f"step {point.step}{files}" if files else f"step {point.step} + {point.delay_s * 1000:.0f} ms, rank {point.rank}"
    same = "yes" if (ended.digest, ended.curve) == (expected.digest, expected.curve) else "NO"
    cells = (shape, point.kind, where, ended.restarts, ended.commands, f"`{ended.digest[:16]}`", f"`{expected.digest[:16]}`", same)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(map(str, cells))} |\n")
