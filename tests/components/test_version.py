"""The input is pinned, pushed and proved before anything trains; a bad one is refused with one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import SOURCE, dvc, environment, git

from components.params import DataParams, load
from components.run.dvc_remote import content_address, remote_address
from components.run.events import Event, read_events
from components.run.failures import FailureClass, StageError
from components.run.folder_copy import copy_folder
from components.run.key import content_md5
from components.run.pins import pinned_digest
from components.version import fill

DIGITS = load(SOURCE / "params.yaml").data


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    root = tmp_path_factory.mktemp("version") / "repo"
    shutil.copytree(SOURCE / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for name in (".dvcignore", "params.yaml", ".gitignore"):
        shutil.copyfile(SOURCE / name, root / name)
    (root / "data").mkdir()
    shutil.copyfile(SOURCE / "data" / ".gitignore", root / "data" / ".gitignore")
    shutil.copyfile(migrated_store, root / "mlflow.db")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "a repo"))


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "pictures").mkdir(parents=True)
    (folder / "documents.jsonl").write_text("{}\n")
    (folder / "pictures" / "a.png").write_bytes(b"png")
    return folder


def run_version(root: Path, **extra: str) -> tuple[subprocess.CompletedProcess[str], list[Event]]:
    events = root.parent / "events.jsonl"
    events.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "components.version"],
        cwd=root,
        env=environment(root, MMFS_EVENTS=str(events), **extra),
        capture_output=True,
        text=True,
        check=False,
    )
    return done, read_events(events)


def test_the_built_in_corpus_is_pinned_pushed_and_then_cached(repository: Path) -> None:
    done, events = run_version(repository)
    assert done.returncode == 0, done.stderr
    assert [event.name for event in events] == ["started", "finished"]
    digest = events[-1].values["result"]["digest"]
    assert digest == pinned_digest(repository / "data" / "input.dvc") == content_md5(repository / "data" / "input")
    assert pinned_digest(SOURCE / "data" / "input.dvc") == digest, "the committed pin is not what this scikit-learn exports"
    shutil.rmtree(repository / ".dvc" / "cache")
    shutil.rmtree(repository / "data" / "input")
    dvc(repository, "pull", "-q", "data/input.dvc")
    assert content_md5(repository / "data" / "input") == digest
    again, events = run_version(repository)
    assert again.returncode == 0
    assert [event.name for event in events] == ["finished"]


def test_an_object_that_the_remote_lost_is_pushed_again(repository: Path) -> None:
    run_version(repository)
    lost = next(path for path in (repository / ".mmfs" / "remote").rglob("*") if path.is_file() and path.suffix != ".dir")
    lost.unlink()
    done, events = run_version(repository)
    assert [event.name for event in events] == ["started", "finished"], done.stderr
    assert lost.exists()


def test_a_remote_that_cannot_be_written_is_named(repository: Path) -> None:
    (repository / ".mmfs").mkdir(exist_ok=True)
    (repository / ".mmfs" / "remote").write_text("a file is in the way")
    done, events = run_version(repository)
    assert done.returncode == FailureClass.INFRASTRUCTURE.exit_code
    assert (events[-1].name, events[-1].values["class"]) == ("failed", "infrastructure")
    assert "check the remote" in done.stderr.splitlines()[-1]
    assert str(repository / ".mmfs" / "remote") in done.stderr.splitlines()[-1]


def test_the_password_in_a_remotes_address_is_told_nobody(repository: Path) -> None:
    config = (repository / ".dvc" / "config").read_text()
    (repository / ".dvc" / "config").write_text(re.sub(r"url = .*", "url = https://me:s3c@ret@127.0.0.1:1/dvc", config))
    assert remote_address(repository) == "https://127.0.0.1:1/dvc"
    assert content_address(repository, "ab" + "0" * 30) == f"https://127.0.0.1:1/dvc/files/md5/ab/{'0' * 30}"
    done, events = run_version(repository)
    assert (events[-1].name, events[-1].values["class"]) == ("failed", "infrastructure")
    assert "https://127.0.0.1:1/dvc" in done.stderr.splitlines()[-1]
    assert "ret@" not in done.stderr + done.stdout + (repository.parent / "events.jsonl").read_text()


def test_a_repository_without_a_remote_is_told_how_to_add_one(repository: Path) -> None:
    (repository / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    done, _ = run_version(repository)
    assert done.returncode == FailureClass.BAD_CONFIG.exit_code
    assert "dvc remote add" in done.stderr.splitlines()[-1]


def test_a_folder_of_ones_own_is_copied(own_data: Path, tmp_path: Path) -> None:
    params = DIGITS.model_copy(update={"source": "folder", "path": str(own_data)})
    digest = fill(params, tmp_path / "data" / "input", tmp_path)
    assert (tmp_path / "data" / "input" / "folder" / "pictures" / "a.png").read_bytes() == b"png"
    (own_data / "pictures" / "a.png").write_bytes(b"other")
    assert fill(params, tmp_path / "data" / "input", tmp_path) != digest
    assert (tmp_path / "data" / "input" / "folder" / "pictures" / "a.png").read_bytes() == b"other"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["input"]


def test_links_inside_are_followed_and_links_out_are_refused(own_data: Path, tmp_path: Path) -> None:
    (own_data / "again.png").symlink_to("pictures/a.png")
    copy_folder(own_data, tmp_path / "copy")
    assert not (tmp_path / "copy" / "again.png").is_symlink()
    secret = tmp_path / "secret"
    secret.write_text("x")
    (own_data / "out.png").symlink_to(secret)
    with pytest.raises(StageError, match="link out of the folder") as caught:
        copy_folder(own_data, tmp_path / "second")
    assert caught.value.failure is FailureClass.BAD_DATA


def test_what_is_no_regular_file_is_refused(own_data: Path, tmp_path: Path) -> None:
    os.mkfifo(own_data / "pipe")
    with pytest.raises(StageError, match="no regular file"):
        copy_folder(own_data, tmp_path / "copy")


def test_a_linked_folder_is_not_left_out_in_silence(own_data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (own_data / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageError, match="linked is a link"):
        copy_folder(own_data, tmp_path / "copy")


def test_a_folder_without_documents_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    params = DataParams.model_validate(DIGITS.model_dump() | {"source": "folder", "path": str(tmp_path / "empty")})
    with pytest.raises(StageError, match=r"no documents.jsonl"):
        fill(params, tmp_path / "data" / "input", tmp_path)
    assert not (tmp_path / "data" / "input").exists()


def test_a_tokenizer_that_is_given_is_pinned_with_the_input(own_data: Path, tmp_path: Path) -> None:
    params = DIGITS.model_copy(update={"source": "folder", "path": str(own_data), "tokenizer": "llama.json"})
    with pytest.raises(StageError, match=r"data.tokenizer: .*llama.json is no file"):
        fill(params, tmp_path / "data" / "input", tmp_path)
    (tmp_path / "llama.json").write_text("{}")
    before = fill(params, tmp_path / "data" / "input", tmp_path)
    assert (tmp_path / "data" / "input" / "tokenizer.json").read_text() == "{}"
    (tmp_path / "llama.json").write_text("{ }")
    assert fill(params, tmp_path / "data" / "input", tmp_path) != before
