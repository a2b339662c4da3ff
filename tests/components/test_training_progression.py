"""A controller in a real training: its moves are told once, and killed or not, with workers or without, the weights are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from training_world import World, train_params

from components.data.cursor import Cursor
from components.training.guards.journal import Journal, read_journal
from components.training.progressing import Progressing, undecided

LEVELS = [{"max_images": 1}, {"max_images": 2}, {}]
OBJECTIVE = {"balance": {"mode": "losses", "ratio": 8, "decay": 0.5}}


def world(folder: Path, warm: Mapping[str, str], mode: str, **differs: Any) -> World:
    """Validated at steps 2, 4, 6 and 8; the mark of the first two levels is reached at once, so that level 1 comes after step 4."""
    progression = {"mode": mode, "levels": LEVELS, "mastered": {"text_loss": 100.0}, "steps": [0, 3, 6]}
    values = {"progression": progression, "validation": {"every_steps": 2}, "objective": OBJECTIVE, "ranks": 1}
    return World(folder, train_params(**values | differs), warm, "leveled_rank")


def moves(of: World) -> list[tuple[str, int, int]]:
    return [(entry.kind, entry.step, entry.values["level"]) for entry in read_journal(of.work / "events.jsonl")[0]]


def logged(of: World, name: str) -> list[float]:
    return [value for point in of.points for value in point.get("each_step", {}).get(name, [])]


def test_a_killed_training_makes_the_same_moves_once_and_ends_with_the_same_weights(warm: Mapping[str, str], tmp_path: Path) -> None:
    whole, killed = world(tmp_path / "whole", warm, "competence"), world(tmp_path / "killed", warm, "competence")
    assert whole.attempt() is None
    assert killed.attempt(KILL_AT="5:0:9") is not None, "when the rows of the next step are made, after the checkpoint of step 4"
    assert killed.attempt() is None
    assert moves(whole) == moves(killed) == [("progression_raised", 4, 1), ("progression_raised", 8, 2)]
    assert killed.digest == whole.digest
    assert logged(killed, "image_loss_weight") == logged(whole, "image_loss_weight")
    assert len(set(logged(whole, "image_loss_weight"))) == len(logged(whole, "image_loss_weight")) == 8
    ahead = world(tmp_path / "ahead", warm, "competence", loader_workers=1)
    assert ahead.attempt() is None
    assert ahead.digest == whole.digest, "what workers make ahead is of the level that holds then"
    assert [point["metrics"]["progression/level"] for point in whole.points if "loss" in point["metrics"]] == [0, 1, 1]


def test_two_ranks_find_the_same(warm: Mapping[str, str], tmp_path: Path) -> None:
    both = world(tmp_path, warm, "competence", ranks=2, zero_stage=1)
    assert both.attempt() is None
    assert moves(both) == [("progression_raised", 4, 1), ("progression_raised", 8, 2)]


def test_a_fixed_schedule_is_told_when_it_takes_effect(tmp_path: Path) -> None:
    train = world(tmp_path, {}, "fixed").train
    journal = Journal(tmp_path / "events.jsonl")
    levels = SimpleNamespace(level=Cursor(moves=train.progression.moves).level)
    for first in (0, 4):  # and once more, after a kill, from step 4 on
        progressing, trainer = Progressing(train.progression, levels, journal), SimpleNamespace(global_step=first)
        progressing.on_train_start(trainer, None)
        for step in range(first + 1, 9):
            trainer.global_step = step
            progressing.on_train_batch_end(trainer, None, None, None, 0)
    assert [(entry.step, entry.values["before"], entry.values["level"]) for entry in read_journal(journal.path)[0]] == [
        (3, 0, 1),
        (6, 1, 2),
    ]
    assert [progressing.each_step(step) for step in (3, 4)] == [{"progression/level": [0.0]}, {"progression/level": [1.0]}]


def test_rows_are_made_ahead_up_to_where_a_move_may_come() -> None:
    assert list(undecided(0, 10, 4)) == [range(0, 1), range(1, 5), range(5, 9), range(9, 10)]
    assert list(undecided(4, 10, 4)) == [range(4, 5), range(5, 9), range(9, 10)]
    assert list(undecided(3, 10, 0)) == [range(3, 10)]
    assert list(undecided(10, 10, 4)) == []
