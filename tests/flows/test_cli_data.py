"""`mmfs data` as people type it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.data.index import write_index
from flows.cli import app

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with DVC."""
    folder = tmp_path / "a repo"
    shutil.copytree(SOURCE / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for name in (".dvcignore", "params.yaml"):
        shutil.copyfile(SOURCE / name, folder / name)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    monkeypatch.setenv("MMFS_ROOT", str(folder))
    return folder


def mmfs(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_corpus_is_added_and_the_parameters_for_it_are_told(root: Path) -> None:
    folder = str(SOURCE / "examples" / "folder")
    told = json.loads(mmfs("add", "shapes", folder, "--licence", "CC0-1.0", "--preset", "own", "--json"))
    assert (told["pin"], told["input_shards"], told["overlay"]) == ("data/corpora/shapes.dvc", 1, str(root / "params/own.yaml"))
    assert told["looked_at"]["documents"] == len((SOURCE / "examples/folder/documents.jsonl").read_text().splitlines())
    assert told["files"] == sum(path.is_file() for path in (root / "data/corpora/shapes").rglob("*"))
    again = mmfs("add", "shapes", str(root / "data/corpora/shapes"))
    assert "source: corpora" in again and "- name: shapes" in again and "format: documents" in again


def test_what_lies_here_is_shown_and_compared(root: Path) -> None:
    from components.data.tokenizer import fit

    index = root / "outputs" / "index"
    index.mkdir(parents=True)
    write_index(index, [], [], fit(["some words"], 300))
    (index / "counts.json").write_text(
        json.dumps(
            {
                "version": 1,
                "documents": [{"source": "web", "kind": "caption", "split": "train", "documents": 5, "images": 6, "tokens": 70}],
                "quarantined": [{"corpus": "web", "documents": 2, "reasons": [{"count": 2, "where": "a:1", "reason": "no picture"}]}],
                "dropped": [{"corpus": "web", "filter": "near_duplicates", "documents": 3, "images": 0}],
            }
        )
    )
    shown = mmfs("show")
    for words in ("web", "caption", "70", "2x a:1: no picture", "near_duplicates"):
        assert words in shown
    assert json.loads(mmfs("show", "--json"))["documents"][0]["tokens"] == 70
