"""Corpora from a folder to a run's input: looked at, pinned by DVC, put together without copying, prepared, shown and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from preparation_world import run, tree
from tiny_line import SOURCE, dvc, environment, git
from unit_corpus import READER, write_units

from components.corpora import look, parameters, pin, write_overlay
from components.data.documents import CorpusError
from components.data.preparation import mapping
from components.data.sources.formats import FORMATS
from components.data.sources.source import Limits
from components.data_versions import difference, open_version
from components.params import CorpusParams, DataParams, ParamsError, load, parse_corpus
from components.run.dvc_objects import listing
from components.run.dvc_remote import share
from components.run.events import read_events
from components.run.failures import FailureClass, StageError
from components.run.git import add_worktree
from components.run.key import content_md5
from components.run.paths import Paths
from components.run.pins import pinned_digest
from components.run.yamlfile import read_yaml, write_yaml

LIMITS = Limits(1_000_000, 10_000, 10)
UNITS, SHAPES = CorpusParams(name="numbers", format="units"), CorpusParams(name="shapes", format="documents", licence="CC0-1.0")


@pytest.fixture(autouse=True)
def _formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "units", READER)
    monkeypatch.setattr(mapping, "BACKOFF_S", 0.05)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    """A repository in which two corpora of different formats are pinned and committed."""
    root = tmp_path_factory.mktemp("corpora") / "a repo"
    shutil.copytree(SOURCE / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for name in (".dvcignore", ".gitignore", "params.yaml"):
        shutil.copyfile(SOURCE / name, root / name)
    (root / "data").mkdir()
    shutil.copyfile(SOURCE / "data" / ".gitignore", root / "data" / ".gitignore")
    shutil.copyfile(migrated_store, root / "mlflow.db")
    values = read_yaml(root / "params.yaml")
    values["data"] |= {"source": "corpora", "corpora": [parameters(UNITS), parameters(SHAPES)], "vocabulary_size": 300}
    write_yaml(root / "params.yaml", values)
    write_units(root.parent / "numbers", one={"documents": 8}, two={"documents": 4, "first": 8})
    (root.parent / "numbers" / "build").mkdir()
    (root.parent / "numbers" / "build" / "notes.pyc").write_text("DVC would leave this out elsewhere")
    git(root, "init", "-q")
    pin(Paths(root), "numbers", root.parent / "numbers")
    pin(Paths(root), "shapes", SOURCE / "examples" / "folder")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def version(root: Path, main: Path) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    events = main.parent / "events.jsonl"
    events.unlink(missing_ok=True)
    told = environment(root, MMFS_EVENTS=str(events), MMFS_ROOT=str(main))
    command = [sys.executable, "-m", "components.version"]
    done = subprocess.run(command, cwd=root, env=told, capture_output=True, text=True, check=False)
    return done, read_events(events)


@pytest.fixture
def worktree(added: Path, tmp_path: Path) -> Path:
    """A run's checkout of it."""
    checkout = tmp_path / "worktree"
    add_worktree(added, checkout, "HEAD")
    share(added, checkout)
    (checkout / ".dvc" / "tmp").mkdir()
    return checkout


def test_a_pinned_corpus_is_copied_once_and_whole(added: Path) -> None:
    file = added / "data/corpora/numbers/one.unit"
    digest = pinned_digest(added / "data/corpora/numbers.dvc")
    assert digest == content_md5(added / "data/corpora/numbers")
    names = {entry.relpath: entry.md5 for entry in listing(added, digest)}
    assert set(names) == {"one.unit", "two.unit", "build/notes.pyc"}
    stored = added / ".dvc/cache/files/md5" / names["one.unit"][:2] / names["one.unit"][2:]
    assert os.path.samefile(file, stored), "the checkout and the cache share the bytes"
    assert not os.path.samefile(file, added.parent / "numbers/one.unit"), "the user's own file is no part of the cache"
    assert "/numbers" in (added / "data/corpora/.gitignore").read_text()


def test_a_run_puts_its_input_together_from_the_pins_and_prepares_it(added: Path, worktree: Path) -> None:
    done, events = version(worktree, added)
    assert done.returncode == 0, done.stderr
    assert [event.name for event in events] == ["started", "finished"]
    digest = events[-1].values["result"]["digest"]
    assert digest == content_md5(worktree / "data/input") == pinned_digest(worktree / "data/input.dvc")
    assert os.path.samefile(worktree / "data/input/numbers/one.unit", added / "data/corpora/numbers/one.unit")
    again, events = version(worktree, added)
    assert again.returncode == 0 and [event.name for event in events] == ["finished"]
    params = load(worktree / "params.yaml").data
    result = run(worktree, params)
    assert result.documents == 12 + len((SOURCE / "examples/folder/documents.jsonl").read_text().splitlines())
    assert {row["source"] for row in open_version(worktree).counts()["documents"]} == {"numbers", "shapes"}
    shutil.rmtree(worktree / "data/input")
    (worktree / "data/input.dvc").write_bytes((worktree / "data/input.dvc").read_bytes())
    config = worktree / ".dvc/config.local"
    config.write_text(config.read_text().replace(str(added / ".dvc/cache"), str(worktree / "empty cache")))
    dvc(worktree, "pull", "-q", "data/input.dvc")
    assert content_md5(worktree / "data/input") == digest, "the remote has all of it"


def test_a_corpus_without_a_pin_is_named_with_the_command_that_makes_one(added: Path, worktree: Path) -> None:
    (worktree / "data/corpora/shapes.dvc").unlink()
    done, events = version(worktree, added)
    assert done.returncode == FailureClass.BAD_CONFIG.exit_code
    assert "corpus shapes of data.corpora is not pinned" in events[-1].values["message"]
    assert "mmfs data add shapes PATH --format documents" in events[-1].values["fix"]


def test_a_corpus_that_changed_after_it_was_pinned_is_named(added: Path, worktree: Path) -> None:
    extra = added / "data/corpora/numbers/three.unit"
    extra.write_text("{}")
    try:
        done, events = version(worktree, added)
        assert done.returncode == FailureClass.BAD_DATA.exit_code
        assert "data/corpora/numbers" in events[-1].values["message"] and "differs from its pin" in events[-1].values["message"]
        assert "mmfs data add numbers data/corpora/numbers --format units" in events[-1].values["fix"]
    finally:
        extra.unlink()


def test_a_corpus_that_nobody_holds_any_more_is_named(added: Path, worktree: Path) -> None:
    config = worktree / ".dvc/config.local"
    config.write_text(config.read_text().replace(str(added / ".dvc/cache"), str(worktree / "empty cache")))
    (worktree / "data/corpora/numbers.dvc").write_text(
        (worktree / "data/corpora/numbers.dvc")
        .read_text()
        .replace(str(pinned_digest(worktree / "data/corpora/numbers.dvc")), "0" * 32 + ".dir")
    )
    done, events = version(worktree, added)
    assert done.returncode == FailureClass.INFRASTRUCTURE.exit_code
    assert "corpus numbers is pinned, but neither the cache nor the remote gives it" in events[-1].values["message"]


def test_a_folder_that_is_none_of_its_format_is_not_pinned(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"documents.jsonl does not exist"):
        look(SHAPES, tmp_path, LIMITS)
    (tmp_path / "documents.jsonl").write_text('{"id": "x"}\n' * 3)
    with pytest.raises(CorpusError, match="none of the first 100 documents can be used as documents: 3 times"):
        look(SHAPES, tmp_path, LIMITS)
    with pytest.raises(CorpusError, match="there is no format 'mmc5'"):
        look(CorpusParams(name="x", format="mmc5"), tmp_path, LIMITS)
    found = look(SHAPES, SOURCE / "examples/folder", LIMITS, 4)
    assert found.documents == 4 and found.units == 1


def test_an_overlay_gains_a_corpus_and_replaces_one_of_its_name(tmp_path: Path) -> None:
    corpus = parse_corpus({"name": "mine", "format": "documents"}, ["depth=3", "caption=alt"])
    write_overlay(tmp_path, "own", UNITS)
    write_overlay(tmp_path, "own", corpus)
    file = write_overlay(tmp_path, "own", UNITS)
    assert read_yaml(file) == {
        "data": {
            "source": "corpora",
            "corpora": [{"name": "mine", "format": "documents", "options": {"depth": 3, "caption": "alt"}}, parameters(UNITS)],
        }
    }
    with pytest.raises(ParamsError, match="corpus: name"):
        parse_corpus({"name": "My Corpus", "format": "documents"})


def prepared(root: Path, commit: str, **units: object) -> None:
    """Prepare a corpus of units in a repository, with a dvc.lock that speaks of the index, as `dvc repro` leaves it."""
    shutil.rmtree(root / "data/input", ignore_errors=True)
    write_units(root / "data/input/numbers", **units)
    values = load(root / "params.yaml").data.model_dump() | {"corpora": [parameters(UNITS)], "max_quarantine_rate": 0.5}
    shutil.rmtree(root / "work", ignore_errors=True)
    shutil.rmtree(root / "outputs", ignore_errors=True)
    run(root, DataParams.model_validate(values))
    dvc(root, "add", "-q", "outputs/index")
    digest = pinned_digest(root / "outputs/index.dvc")
    (root / "outputs/index.dvc").unlink()
    write_yaml(
        root / "dvc.lock", {"schema": "2.0", "stages": {"prepare": {"cmd": "x", "outs": [{"path": "outputs/index", "md5": digest}]}}}
    )
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", commit)
    git(root, "tag", commit)


@pytest.fixture(scope="module")
def versions(added: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two data versions, `first` and `second`."""
    root = tmp_path_factory.mktemp("versions") / "repo"
    git(added, "worktree", "prune")
    shutil.copytree(added, root, symlinks=True, ignore=shutil.ignore_patterns("worktrees"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "units", READER)
        prepared(root, "first", one={"documents": 8}, two={"documents": 6, "first": 20, "rejects": True})
        prepared(root, "second", one={"documents": 7}, three={"documents": 3, "first": 40, "key": "two"})
    return root


def test_a_version_says_what_it_holds(versions: Path) -> None:
    first = open_version(versions, "first").counts()
    assert [(one["kind"], one["split"], one["documents"], one["images"]) for one in first["documents"]] == [
        ("caption", "evaluation", 3, 3),
        ("caption", "train", 10, 10),
    ]
    assert first["quarantined"][0]["documents"] == 1
    assert open_version(versions).counts() == open_version(versions, "second").counts()


def test_the_difference_of_two_versions_names_documents(versions: Path) -> None:
    found = difference(open_version(versions, "first"), open_version(versions, "second"), first=2)
    assert found.added == ("numbers-two-40", "numbers-two-41")
    assert found.removed == ("numbers-one-7", "numbers-two-20")
    assert (found.counts, found.quarantined) == ({"added": 3, "removed": 6, "changed": 0}, (1, 0))
    figures = {(one.split, one.figure): (one.before, one.after) for one in found.changes}
    assert figures["train", "documents"] == (10, 7)
    same = difference(open_version(versions, "second"), open_version(versions))
    assert not same.changes and not any(same.counts.values())


def test_a_version_is_fetched_by_hash_where_neither_checkout_nor_cache_has_it(versions: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(versions, clone, ignore=shutil.ignore_patterns("outputs", ".mmfs", "cache"))
    remote = tmp_path / "remote"
    shutil.copytree(versions / ".dvc/cache", remote)
    (clone / ".dvc/config.local").write_text(f"['remote \"local\"']\n    url = {remote}\n")
    assert open_version(clone, "first").counts() == open_version(versions, "first").counts()
    lost = listing(clone, str(open_version(clone, "second").digest))[0]
    shutil.rmtree(clone / ".mmfs")
    shutil.rmtree(clone / ".dvc/cache")
    (remote / "files/md5" / lost.md5[:2] / lost.md5[2:]).unlink()
    with pytest.raises(StageError, match=f"neither the cache nor the remote {remote} has object {lost.md5}"):
        open_version(clone, "second")


def test_a_name_that_leads_nowhere_says_what_would(versions: Path) -> None:
    with pytest.raises(StageError, match="'v9' names no run and no revision") as error:
        open_version(versions, "v9")
    assert "mmfs runs" in error.value.fix


def test_changed_documents_are_told_from_added_ones(versions: Path, tmp_path: Path) -> None:
    root = tmp_path / "repo"
    shutil.copytree(versions, root, symlinks=True)
    with (root / "data/input/numbers/one.unit").open("w") as file:
        json.dump({"documents": 7, "picture": 100}, file)
    values = load(root / "params.yaml").data.model_dump() | {"corpora": [parameters(UNITS)]}
    shutil.rmtree(root / "work", ignore_errors=True)
    run(root, DataParams.model_validate(values))
    found = difference(open_version(root, "second"), open_version(root))
    assert found.counts == {"added": 0, "removed": 0, "changed": 7}
    assert tree(root / "outputs") != tree(versions / "outputs")
