"""Files and folders appear whole or not at all, also where several processes write the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.run.filetree import KEEP_S, whole_folder, write_whole


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "record.json"
    write_whole(path, "é")
    reader = path.open("rb")
    write_whole(path, b"second")
    with reader:
        assert reader.read() == "é".encode(), "the old file is left as it was"
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken" / "by a folder").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


OTHER = """
import sys
from pathlib import Path
from components.run.filetree import whole_folder
with whole_folder(Path(sys.argv[1])) as fresh:
    (fresh / "theirs").touch()
"""


def test_another_process_may_write_the_same_folder(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    with whole_folder(target) as fresh:
        (fresh / "ours").touch()
        subprocess.run([sys.executable, "-c", OTHER, str(target)], check=True)
        assert [path.name for path in target.iterdir()] == ["theirs"]
    assert [path.name for path in target.iterdir()] == ["ours"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_of_a_folder_goes_after_a_day(tmp_path: Path) -> None:
    old, recent = tmp_path / ".weights.1.partial", tmp_path / ".weights.2.partial"
    for left in (old, recent):
        left.mkdir()
    then = old.stat().st_mtime - KEEP_S - 60
    os.utime(old, (then, then))
    with whole_folder(tmp_path / "weights"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"weights", recent.name}
