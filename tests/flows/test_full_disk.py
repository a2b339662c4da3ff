"""A disk that is really full: one line that says so, a status of its own, and the same command goes on once there is space."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disk import SmallDisk, can_make_disks, small_disk
from small_line import FILES, SmallLine

UNAVAILABLE = 69
RUN = (sys.executable, "-m", "flows.cli", "run", "--set", "tasks=[vqa]", "--json")
pytestmark = pytest.mark.skipif(not can_make_disks(), reason="missing permission: mount namespaces (unshare -rm)")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "128m") as made:
        yield made


def test_a_full_disk_is_named_before_any_work(
    disk: SmallDisk, checkout: Callable[..., Path], child_environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(checkout(tmp_path / "repository"), disk.seen / "repository", symlinks=True)
    disk.fill()
    ended = disk.run(disk.path / "repository", child_environment, *RUN)
    assert (ended.returncode, ended.stdout) == (UNAVAILABLE, ""), ended.stderr
    assert ended.stderr == f"error: the disk of {disk.path / 'repository'} is full — free some space and run the same command to go on\n"
    assert not list((disk.seen / "repository").glob(".mmfs/runs/*/run.json"))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_run_that_fills_the_disk_goes_on_once_there_is_space(
    disk: SmallDisk, checkout: Callable[..., Path], child_environment: dict[str, str], prefect_api: str, tmp_path: Path
) -> None:
    line = SmallLine(checkout(tmp_path / "repository", FILES), {**child_environment, "PREFECT_API_URL": prefect_api})
    digest = line.publish(0)
    shutil.copytree(line.root, disk.seen / "repository", symlinks=True)
    (line.trouble / "finetune@vqa").write_text("fill\nfill\nfill")
    environment = {**line.environment, "BALLAST": str(disk.path / "ballast")}

    stopped = disk.run(disk.path / "repository", environment, *RUN)
    assert (stopped.returncode, stopped.stdout) == (UNAVAILABLE, ""), stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith(f"error: the disk of {disk.path / 'repository'} is full"), stopped.stderr
    [record] = (disk.seen / "repository").glob(".mmfs/runs/*/run.json")
    assert json.loads(record.read_text())["state"] == "open"

    disk.free()
    for rest in line.trouble.iterdir():
        rest.unlink()
    done = disk.run(disk.path / "repository", environment, *RUN)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["run_id"], result["continued"]) == ("Completed", record.parent.name, True)
    assert [(one["task"], one["digest"]) for one in result["models"]] == [("vqa", digest)]
