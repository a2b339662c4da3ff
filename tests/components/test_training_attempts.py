"""One training, whatever happens to its ranks: restarted within a budget, rolled back around bad rows, with one truth on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from training_world import World, train_params

from components.run.failures import FailureClass, StageError
from components.tracking.spool import SpoolWriter
from components.tracking.stage_run import StageRun
from components.training.guards import attempts
from components.training.guards.attempts import Limits
from components.training.guards.journal import Entry
from components.training.guards.rollbacks import Decisions, read_decisions
from components.training.optimizer import schedule

PLAIN = {"ranks": 1, "log_every_steps": 1}
CALM = {"spike_min_steps": 8, "spike_window": 16, "spike_patience": 2}


def actions(world: World) -> list[Entry]:
    """What was done to a training; that its ranks went on afterwards is told besides."""
    return [entry for entry in world.actions if entry.kind != "resumed"]


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in actions(world)]


def left_out_from_the_start(path: Path, like: World, **variables: str) -> World:
    """A training that never sees the rows which `like` left out, and so has nothing to roll back."""
    world = World(path, like.train, like.warm)
    path.mkdir()
    decisions = read_decisions(like.work)
    decisions.write(path)
    assert decisions.settled == len(decisions.rollbacks) > 0
    world.supervise(**variables)
    assert kinds(world) == []
    return world


def test_rows_that_are_not_finite_are_left_out(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path / "work", train_params(log_every_steps=1, guard={"learning_rate_factor": 0.5, "cool_down_steps": 2}), warm)
    world.supervise(POISON_AT="4")
    assert kinds(world) == ["bad_steps", "rollback"]
    rollback = actions(world)[1].values
    assert (rollback["cause"], rollback["to_step"], rollback["rows_left_out"]) == ("non_finite", 4, 8)
    assert [row[0] for row in world.curve] == list(range(1, 9)), "each step has one point"
    factor = schedule(world.train)
    expected = [1e-2 * factor(step - 1) * (0.5 if step in (5, 6) else 1) for step in range(1, 9)]
    assert [row[4] for row in world.curve] == pytest.approx(expected), "lowered for two steps"
    clean = left_out_from_the_start(tmp_path / "clean", world, POISON_AT="4")
    assert clean.digest == world.digest
    assert clean.curve == world.curve, "the checkpoint's own rate of step 5 was not taken"


def test_a_spike_is_rolled_back_to_before_it_began(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path / "work", train_params(**PLAIN, steps=16, checkpoint_every_steps=5, guard=CALM | {"margin_steps": 1}), warm)
    world.supervise(SPIKE_AT="9-11")
    assert kinds(world) == ["bad_steps", "rollback"], "one step out of line is left of it, which patience bears"
    found = actions(world)[1].values
    assert (found["first_left_out"], found["last_left_out"]) == (9, 11)
    assert found["to_step"] == 5, "step 10 was suspicious and has no checkpoint"
    assert [row[0] for row in world.curve] == list(range(1, 17))
    records = SpoolWriter(world.work / "spool").folder / "records.jsonl"
    assert records.read_text().count('"rewind"') == 1
    clean = left_out_from_the_start(tmp_path / "clean", world, SPIKE_AT="9-11")
    assert (clean.digest, clean.curve) == (world.digest, world.curve)


class Dies(Exception):
    """The supervisor ends here."""


def test_a_rollback_that_is_cut_short_is_carried_on(warm: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any) -> None:
        raise Dies

    world = World(tmp_path / "work", train_params(**PLAIN), warm)
    write = Decisions.write
    cuts: list[tuple[Any, str, Any]] = [
        (attempts, "read_points", die),
        (attempts, "write_whole", die),
        (StageRun, "rewind", die),
        (Decisions, "write", lambda decisions, work: die() if decisions.settled else write(decisions, work)),
    ]
    for where, name, cut in cuts:
        with monkeypatch.context() as patched:
            patched.setattr(where, name, cut)
            with pytest.raises(Dies):
                world.supervise(POISON_AT="5")
        assert (len(read_decisions(world.work).rollbacks), read_decisions(world.work).settled) == (1, 0)
    world.supervise(POISON_AT="5")
    assert kinds(world) == ["bad_steps", "rollback"]
    assert [row[0] for row in world.curve] == list(range(1, 9))
    assert left_out_from_the_start(tmp_path / "clean", world, POISON_AT="5").digest == world.digest


def test_rollbacks_end_where_they_do_not_help(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(**PLAIN, guard={"max_rollbacks": 1}), warm)
    with pytest.raises(StageError, match=r"the loss of step 4 is not finite.*after 1 rollbacks") as error:
        world.supervise(POISON_AT="3-6")
    assert error.value.failure is FailureClass.NON_FINITE
    assert kinds(world) == ["bad_steps", "rollback", "bad_steps"]


def test_a_hung_rank_shows_its_stacks_and_is_started_again(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(checkpoint_every_steps=2), warm)
    world.supervise(Limits(delay_s=0.0, hang_s=8.0), HANG_AT="5:1")
    assert kinds(world) == ["hang", "restart"]
    assert "rank 1 in" in actions(world)[0].values["where"]
    stacks = (tmp_path / "stacks" / "hang-1" / "rank-1.txt").read_text()
    assert "_hang" in stacks
    assert (tmp_path / "stacks" / "hang-1" / "rank-0.txt").read_text() != "no answer\n"
    assert actions(world)[1].values["class"] == "infrastructure"
    assert (world.work / "export").is_dir()


def test_without_progress_the_restarts_end(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(**PLAIN, checkpoint_every_steps=100), warm)
    with pytest.raises(StageError, match=r"ended with status -9.*\(1 restarts without a checkpoint") as error:
        world.supervise(Limits(restarts=1, delay_s=0.0), KILL_ALWAYS_AT="2")
    assert error.value.failure is FailureClass.OUT_OF_MEMORY
    assert kinds(world) == ["restart", "gave_up"]
