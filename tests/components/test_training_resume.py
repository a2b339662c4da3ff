"""Training with real DeepSpeed on two gloo ranks: stopped and resumed it ends with the same weights (kills: test_training_kills)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from training_world import World, train_params

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.places import FolderPlace
from components.checkpoints.second import SecondPlace
from components.run.failures import FailureClass, StageError
from components.training.checkpoints.commits import COMMITS_FILE, committer_of, going_on
from components.training.guards.attempts import Limits
from components.training.guards.journal import read_journal
from components.training.guards.rollbacks import read_decisions
from components.training.job import read_job, write_job


@pytest.fixture(scope="module")
def whole(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """The uninterrupted training of a shape, run once."""

    @cache
    def train(**shape: int) -> World:
        world = World(tmp_path_factory.mktemp("whole"), train_params(**shape), warm)
        assert world.attempt() is None
        return world

    return train


def test_a_fresh_rank_gives_the_weights_of_a_forked_one(whole: Callable[..., World], tmp_path: Path) -> None:
    fresh = World(tmp_path, train_params(zero_stage=1), {})
    assert fresh.attempt() is None
    assert fresh.digest == whole(zero_stage=1).digest


def test_sigterm_saves_the_step_and_leaves_as_preempted(whole: Callable[..., World], warm: Mapping[str, str], tmp_path: Path) -> None:
    stopped = World(tmp_path, train_params(zero_stage=1, checkpoint_every_steps=100), warm)
    dead = stopped.attempt(KILL_AT="4:1:15")
    assert dead is not None
    assert dead.status == FailureClass.PREEMPTED.exit_code
    assert stopped.failure is not None
    assert stopped.failure.failure is FailureClass.PREEMPTED
    checkpoint, _ = CheckpointFolder(stopped.work / "checkpoints").latest()
    assert checkpoint is not None
    assert stopped.attempt() is None
    assert stopped.digest == whole(zero_stage=1).digest


def test_a_loss_that_is_not_finite_stops_before_the_step(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(log_every_steps=1), warm)
    dead = world.attempt(POISON_AT="3")
    assert dead is not None
    assert world.failure is not None
    assert world.failure.failure is FailureClass.NON_FINITE
    assert "step 4" in world.failure.message
    assert [point["step"] for point in world.points] == [1, 2, 3]
    checkpoint, _ = CheckpointFolder(world.work / "checkpoints").latest()
    assert checkpoint is not None
    assert checkpoint.step == 2, "the last good one"


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"ranks": 1}, id="plain"),
        pytest.param({"zero_stage": 1}, id="zero-1"),
        pytest.param({"zero_stage": 2, "precision": "bf16-mixed"}, id="zero-2-bf16"),
        pytest.param({"zero_stage": 3}, id="zero-3"),
    ],
)
def test_a_gradient_that_is_not_finite_stops_before_the_step(shape: dict[str, Any], warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(**shape, log_every_steps=1), warm)
    world.attempt(EXPLODE_AT="2")
    assert world.failure is not None
    assert world.failure.failure is FailureClass.NON_FINITE
    assert "gradient norm of step 3" in world.failure.message
    told = {path.read_text() for path in tmp_path.glob("weights-*")}
    assert told == {"as they were"}, "on every rank that got so far"


def test_a_corrupted_checkpoint_is_passed_over_with_the_reason(
    whole: Callable[..., World], warm: Mapping[str, str], tmp_path: Path
) -> None:
    world = World(tmp_path, train_params(ranks=1, accumulate=2), warm)
    assert world.attempt(KILL_AT="6:0:9") is not None
    folder = CheckpointFolder(world.work / "checkpoints")
    newest, _ = folder.latest()
    assert newest is not None
    shard = newest.path / "engine"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    older, reasons = folder.latest()
    assert older is not None
    assert older.step == newest.step - 2
    assert len(reasons) == 1
    assert shard.name in reasons[0]
    assert "sha256" in reasons[0]
    assert world.attempt() is None
    assert world.digest == whole(ranks=1, accumulate=2).digest


def test_a_machine_without_a_work_folder_goes_on_from_the_second_place(
    whole: Callable[..., World], warm: Mapping[str, str], tmp_path: Path
) -> None:
    shape = {"ranks": 1, "accumulate": 2}
    second = partial(SecondPlace, FolderPlace(tmp_path / "place"))
    lost, new = (World(tmp_path / name, train_params(**shape), warm) for name in ("lost", "new"))
    with pytest.raises(StageError, match="ended with status -9"):
        lost.supervise(Limits(restarts=0), partial(committer_of, second=second()), KILL_AT="5:0:9")
    told = [entry.kind for entry in read_journal(lost.work / COMMITS_FILE)[0]]
    assert told == ["checkpoint", "checkpoint_copied"] * 2
    shutil.rmtree(lost.work / "checkpoints")
    new.work.mkdir()
    job, notes = going_on(new.job(), second())
    assert (job.resume, notes) == (new.work / "checkpoints" / "step-00000004", [])
    assert new.attempt() is None
    assert new.digest == whole(**shape).digest
    other = new.job().model_copy(update={"train": train_params(**shape, learning_rate=1e-3)})
    with pytest.raises(StageError, match=r"of another training: schedule\.learning_rate is 0\.001, the checkpoint has 0\.01") as error:
        going_on(other)
    assert error.value.failure is FailureClass.BAD_CONFIG


def test_what_was_decided_about_bad_steps_comes_from_the_second_place_too(warm: Mapping[str, str], tmp_path: Path) -> None:
    train = train_params(ranks=1, accumulate=2, guard={"learning_rate_factor": 0.5, "cool_down_steps": 20})
    second = partial(SecondPlace, FolderPlace(tmp_path / "place"))
    whole, lost, new = (World(tmp_path / name, train, warm) for name in ("whole", "lost", "new"))
    whole.supervise(POISON_AT="3")
    with pytest.raises(StageError, match="ended with status -9"):
        lost.supervise(Limits(restarts=0), partial(committer_of, second=second()), POISON_AT="3", KILL_AT="6:0:9")
    new.work.mkdir()
    job, _ = going_on(new.job(), second())
    assert job.rollbacks == read_decisions(new.work).rollbacks == read_decisions(lost.work).rollbacks != ()
    assert new.attempt(POISON_AT="3") is None, "the rows are left out and the rate stays low"
    assert new.digest == whole.digest
    assert new.curve == whole.curve, "the steps of the other machine too"


def test_losses_and_norms_do_not_depend_on_how_rows_are_dealt(warm: Mapping[str, str], tmp_path: Path) -> None:
    shapes = [{"ranks": 1}, {"ranks": 2, "accumulate": 2}]
    curves = []
    for number, shape in enumerate(shapes):
        world = World(tmp_path / str(number), train_params(steps=3, log_every_steps=1, **shape), warm)
        assert world.attempt(NO_DROPOUT="1") is None
        curves.append(world.curve)
    for other in curves[1:]:
        for expected, found in zip(curves[0], other, strict=True):
            assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, found, strict=True)), (expected, found)


def test_a_job_of_another_version_is_refused(warm: Mapping[str, str], tmp_path: Path) -> None:
    path = write_job(World(tmp_path, train_params(), warm).job())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(Exception, match="no job of this version"):
        read_job(tmp_path)


class Payload:
    """Unpickling this writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(("ranks", "file"), [(1, "engine"), (2, "engine/checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt")])
def test_a_checkpoint_cannot_bring_code(ranks: int, file: str, warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path / "work", train_params(ranks=ranks, zero_stage=1), warm)
    assert world.attempt(KILL_AT="4:0:9") is not None
    folder = CheckpointFolder(world.work / "checkpoints")
    newest, _ = folder.latest()
    assert newest is not None
    staging = folder.begin(newest.step + 1)
    shutil.copytree(newest.path, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("COMMIT", "manifest.json"))
    torch.save({"state_dict": Payload(tmp_path / "owned")}, staging / file)
    folder.commit(newest.step + 1, newest.info)
    assert world.attempt() is not None
    assert not (tmp_path / "owned").exists()
    assert world.failure is not None
    assert "Weights only load failed" in world.failure.message
