"""Files and folders appear whole or not at all, also where several processes write the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.run.filetree import write_whole


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
