"""What a supervisor does about a job's checkpoints: scores, places, pins."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_world import until, written
from training_world import World, train_params

from components.checkpoints.folder import CheckpointFolder
from components.run.failures import FailureClass, StageError
from components.settings import Settings
from components.tracking.spool import append_points
from components.training.checkpoints.commits import COMMITS_FILE, checkpoint_folder, committer_of, keep_pinned, second_place
from components.training.guards.journal import read_journal
from components.training.job import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    kept = {"keep_last": 1, "keep_best": 1, "best_by": "validation/loss"}
    return World(tmp_path / "key" / "body", train_params(checkpoints=kept), {}).job()


def test_the_best_by_a_logged_metric_stays_and_pins_outlive_the_work(job: Job, tmp_path: Path) -> None:
    job.work.mkdir(parents=True)
    for step, value in ((2, 0.3), (4, 0.1), (6, 0.2)):
        append_points(job.points, [{"step": step, "time_ms": step, "metrics": {"validation/loss": value, "loss": -step}}])
    folder = checkpoint_folder(job)
    with committer_of(job):
        for step in (3, 5, 7):
            written(folder, step)
            until(lambda: not folder.in_flight())
    assert folder.steps() == [5, 7], "the last value at step 5 is that of step 4"
    assert folder.scores() == {5: 0.1, 7: 0.2}
    assert [entry.step for entry in read_journal(job.work / COMMITS_FILE)[0]] == [3, 5, 7]
    assert not job.journal.exists(), "nothing went wrong"
    folder.pin(5, "registered")
    assert keep_pinned(job, tmp_path / "key" / "checkpoints") == [5]
    assert CheckpointFolder(tmp_path / "key" / "checkpoints").at(5).step == 5
    assert folder.steps() == [7]


def test_each_training_has_a_part_of_the_second_place(tmp_path: Path) -> None:
    assert second_place(Settings(root=tmp_path), "key") is None
    place = second_place(Settings(root=tmp_path, checkpoints=str(tmp_path / "place")), "key")
    assert place is not None and place.address == str(tmp_path / "place" / "key")
    with pytest.raises(StageError, match=r"MMFS_CHECKPOINTS: 'ftp://host/x' is no place for checkpoints") as error:
        second_place(Settings(root=tmp_path, checkpoints="ftp://host/x"), "key")
    assert error.value.failure is FailureClass.BAD_CONFIG
