"""What a killed run or reproduction leaves is kept for a while, then removed; what somebody works on never is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_line import git

from components.run.lease import LEASE_FILE, Owner
from components.run.record import RunRecords
from components.run.workspace import KEEP_WORK_S, Workspace, open_workspace
from components.settings import Settings

DEAD = replace(Owner.myself(), pid=2**22 + 1)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    root = tmp_path / "a repo"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("")
    (root / ".gitignore").write_text(".mmfs/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MMFS_WORK", raising=False)
        yield Settings(root=root)


def killed(settings: Settings, seed: int, old: bool) -> Workspace:
    """A run whose process died, long ago or just now."""
    workspace = open_workspace(settings, {"seed": seed})
    workspace.close("open")
    (workspace.files.folder / LEASE_FILE).write_text(json.dumps(asdict(DEAD)))
    if old:
        age(workspace.files.folder)
    return workspace


def age(folder: Path) -> None:
    then = folder.stat().st_mtime - KEEP_WORK_S - 60
    os.utime(folder, (then, then))


def test_old_checkouts_that_nobody_works_in_are_removed(settings: Settings) -> None:
    old, recent, living = killed(settings, 1, old=True), killed(settings, 2, old=False), open_workspace(settings, {"seed": 3})
    age(living.files.folder)
    open_workspace(settings, {"seed": 4}).close("finished")
    assert {path.name for path in settings.home.worktrees.iterdir()} == {recent.run_id, living.run_id}
    assert old.files.record.is_file(), "what is known of it stays"
    assert str(old.checkout) not in git(settings.root, "worktree", "list")
    again = open_workspace(settings, {"seed": 1})
    assert not again.resumed
    assert open_workspace(settings, {"seed": 2}).resumed


def test_a_reproduction_is_no_run_to_go_on_with(settings: Settings) -> None:
    left = killed(settings, 1, old=False)
    left.record = replace(left.record, kind="reproduce")
    left.record.write(left.files.record)
    assert RunRecords(settings.home).find(left.run_id).state == "Killed"
    assert not open_workspace(settings, {"seed": 1}).resumed


def test_a_killed_reproduction_leaves_its_logs_only(settings: Settings) -> None:
    files = settings.home.run("reproduce-1")
    for part in (files.work / "key" / "body", files.original / "outputs", settings.home.worktrees / "reproduce-1" / "outputs"):
        part.mkdir(parents=True)
    files.log("pretrain").parent.mkdir()
    files.log("pretrain").write_text("step 1\n")
    age(files.folder)
    open_workspace(settings, {"seed": 1}).close("finished")
    assert [path.name for path in files.folder.iterdir()] == ["logs"]
    assert not list(settings.home.worktrees.iterdir())
