"""Checkpoints are transactions: what is not committed or not whole is not there."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import CheckpointError, verify
from components.training.random_state import load_random_state, save_random_state


def write(folder: CheckpointFolder, step: int) -> Path:
    staging = folder.begin(step)
    (staging / "engine").mkdir()
    (staging / "engine" / "shard.pt").write_bytes(bytes([step]) * 1000)
    (staging / "cursor.json").write_text("{}")
    return folder.commit(step, {"ranks": 2})


def test_the_newest_committed_one_is_found_and_two_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.latest() == (None, [])
    for step in (2, 4, 10):
        write(folder, step)
    checkpoint, skipped = folder.latest()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.info, skipped) == (10, {"ranks": 2}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000010"]


def test_a_kill_before_the_commit_leaves_the_older_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    write(folder, 2)
    (folder.begin(4) / "half").write_bytes(b"x")
    checkpoint, skipped = folder.latest()
    assert checkpoint is not None
    assert (checkpoint.step, skipped) == (2, [])
    assert not (folder.begin(4) / "half").exists(), "a new attempt starts from an empty folder"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: (path / "COMMIT").unlink(), "not committed, COMMIT is missing"),
        (lambda path: (path / "manifest.json").write_text("{}"), "does not match the COMMIT marker"),
        (lambda path: (path / "engine" / "shard.pt").unlink(), "shard.pt: missing"),
        (lambda path: (path / "engine" / "shard.pt").write_bytes(b"short"), "5 bytes, the manifest says 1000"),
        (lambda path: (path / "engine" / "shard.pt").write_bytes(bytes(1000)), "sha256 differs"),
    ],
)
def test_harm_is_named_and_passed_over(tmp_path: Path, harm: object, reason: str) -> None:
    folder = CheckpointFolder(tmp_path)
    write(folder, 2)
    newest = write(folder, 4)
    assert callable(harm)
    harm(newest)
    with pytest.raises(CheckpointError, match=reason):
        verify(newest)
    checkpoint, skipped = folder.latest()
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert len(skipped) == 1
    assert reason in skipped[0]
    assert write(folder, 4) == newest, "the step is saved again when training passes it"
    assert verify(newest).step == 4


def test_random_state_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    torch.randn(5), np.random.normal(), random.random()
    save_random_state(tmp_path / "state.pt")
    first = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(4), np.random.seed(4), random.seed(4)
    load_random_state(tmp_path / "state.pt")
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == first
