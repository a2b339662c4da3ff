"""A run's lock starts from an earlier one's, and a torn one stops nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.run.restore import seed

ENTRIES = {name: {"cmd": f"python {name}.py", "outs": [{"path": f"outputs/{name}", "hash": "md5", "md5": "1" * 32}]} for name in "abc"}
TORN = ["", "schema: '2.0'\nstages:\n  a:\n    cmd:", "schema: '2.0'\nstages: [", "- a list\n"]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept" / "dvc.lock"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"schema": "2.0", "stages": ENTRIES}))
    return path


def test_entries_of_the_stages_asked_for_are_taken(tmp_path: Path, kept: Path) -> None:
    lock = tmp_path / "dvc.lock"
    assert seed(kept, lock, ["a", "c", "new"])
    assert yaml.safe_load(lock.read_text()) == {"schema": "2.0", "stages": {"a": ENTRIES["a"], "c": ENTRIES["c"]}}


def test_a_whole_lock_stays(tmp_path: Path, kept: Path) -> None:
    lock = tmp_path / "dvc.lock"
    assert seed(kept, lock, ["a"])
    assert not seed(kept, lock, ["a", "b"])
    assert list(yaml.safe_load(lock.read_text())["stages"]) == ["a"]


@pytest.mark.parametrize("torn", TORN)
def test_a_lock_that_a_kill_left_torn_is_seeded_anew(tmp_path: Path, kept: Path, torn: str) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(torn)
    assert seed(kept, lock, ["a"])
    assert yaml.safe_load(lock.read_text())["stages"] == {"a": ENTRIES["a"]}


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_lock_with_nothing_whole_to_take_is_discarded(tmp_path: Path, kept: Path, torn: str) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(torn)
    kept.write_text(torn)
    assert not seed(kept, lock, ["a"])
    assert not lock.exists()
    assert not seed(Path(), lock, ["a"])
