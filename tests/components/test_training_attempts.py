"""One training, whatever happens to its ranks: restarted within a budget, rolled back around bad rows, with one truth on disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from training_world import World, train_params

from components.run.failures import FailureClass, StageError
from components.tracking.spool import SpoolWriter
from components.training import attempts
from components.training.attempts import Limits
from components.training.rollbacks import Decisions, read_decisions

PLAIN = {"ranks": 1, "log_every_steps": 1}
CALM = {"spike_min_steps": 8, "spike_window": 16, "spike_patience": 2}


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in world.actions]


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
    rollback = world.actions[1].values
    assert (rollback["cause"], rollback["to_step"], rollback["rows_left_out"]) == ("non_finite", 4, 8)
    assert [row[0] for row in world.curve] == list(range(1, 9)), "each step has one point"
    rates = {int(row[0]): row[3] for row in world.curve}
    clean = left_out_from_the_start(tmp_path / "clean", world, POISON_AT="4")
    assert clean.digest == world.digest
    assert clean.curve == world.curve
    assert rates[5] < rates[8] * 2 < rates[4], "the rate was lowered for the two steps after the rollback, on the first of them too"


def test_a_spike_is_rolled_back_to_before_it_began(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path / "work", train_params(**PLAIN, steps=16, checkpoint_every_steps=5, guard=CALM | {"margin_steps": 1}), warm)
    world.supervise(SPIKE_AT="9-11")
    assert kinds(world) == ["bad_steps", "rollback"], "one step out of line is left of it, which patience bears"
    found = world.actions[1].values
    assert (found["first_left_out"], found["last_left_out"]) == (9, 11)
    assert found["to_step"] == 5, "step 10 was suspicious and has no checkpoint"
    assert [row[0] for row in world.curve] == list(range(1, 17))
    records = SpoolWriter(world.work / "spool").folder / "records.jsonl"
    assert records.read_text().count('"rewind"') == 1
    clean = left_out_from_the_start(tmp_path / "clean", world, SPIKE_AT="9-11")
    assert (clean.digest, clean.curve) == (world.digest, world.curve)


class Dies(Exception):
    """The supervisor ends here."""


@pytest.mark.parametrize("where", ["read_points", "write_whole", "Decisions.write"])
def test_a_rollback_that_was_cut_short_is_carried_on(
    where: str, warm: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: Any) -> None:
        raise Dies

    world = World(tmp_path / "work", train_params(**PLAIN), warm)
    with monkeypatch.context() as patched:
        if where == "Decisions.write":  # the second one, which says that all is done
            patched.setattr(Decisions, "write", lambda self, work, write=Decisions.write: die() if self.settled else write(self, work))
        else:
            patched.setattr(attempts, where, die)
        with pytest.raises(Dies):
            world.supervise(POISON_AT="5")
    assert read_decisions(world.work).settled == 0
    shutil.copytree(world.work, tmp_path / "again")
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
    assert "rank 1 in" in world.actions[0].values["where"]
    stacks = (tmp_path / "stacks" / "hang-1" / "rank-1.txt").read_text()
    assert "_hang" in stacks
    assert (tmp_path / "stacks" / "hang-1" / "rank-0.txt").read_text() != "no answer\n"
    assert world.actions[1].values["class"] == "infrastructure"
    assert (world.work / "export").is_dir()


def test_without_progress_the_restarts_end(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(**PLAIN, checkpoint_every_steps=100), warm)
    with pytest.raises(StageError, match=r"ended with status -9.*\(1 restarts without a checkpoint") as error:
        world.supervise(Limits(restarts=1, delay_s=0.0), KILL_ALWAYS_AT="2")
    assert error.value.failure is FailureClass.OUT_OF_MEMORY
    assert kinds(world) == ["restart", "gave_up"]
