"""A model's bytes are published once per digest and fetched only when they are right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.run.failures import FailureClass, StageError
from components.settings import Settings
from components.tracking.logged_model import find
from components.tracking.mlflow_run import connect, experiment_id
from components.tracking.stage_run import StageRun
from components.tracking.weights import WeightsRecord, describe_weights, fetch_weights, publish_weights


@pytest.fixture
def settings(tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.delenv("MMFS_PARENT_RUN_ID", raising=False)
    monkeypatch.delenv("MMFS_CARRIED", raising=False)
    return Settings(root=tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    exported = tmp_path / "work" / "export"
    exported.mkdir(parents=True)
    save_file({"weight": np.arange(6, dtype=np.float32)}, exported / "model.safetensors")
    (exported / "config.json").write_text('{"preset": "smoke"}')
    (exported / "tokenizer.json").write_text("{}")
    return exported


def publish(settings: Settings, folder: Path, key: str = "a") -> WeightsRecord:
    weights = describe_weights(folder)
    run = StageRun.open(settings, "pretrain", key * 64, {})
    publish_weights(folder, weights, run, settings)
    assert run.close("FINISHED")
    return weights


def forget(settings: Settings) -> None:
    shutil.rmtree(settings.home.weights)


def test_equal_files_have_equal_digests_and_any_byte_counts(folder: Path) -> None:
    record = describe_weights(folder)
    assert record.config == {"preset": "smoke"}
    assert describe_weights(folder) == record
    (folder / "tokenizer.json").write_text("{ }")
    assert describe_weights(folder).model_digest != record.model_digest


def test_published_weights_come_back_and_nothing_is_a_pickle(settings: Settings, folder: Path) -> None:
    weights = publish(settings, folder)
    forget(settings)
    fetched = fetch_weights(weights, settings)
    assert describe_weights(fetched) == weights
    client = connect(settings)
    model = find(client, experiment_id(client, settings), weights.model_digest)
    assert model is not None
    stored = Path(model.artifact_location.removeprefix("file://"))
    names = {path.name for path in stored.rglob("*") if path.is_file()}
    assert {"MLmodel", "model.safetensors", "config.json", "tokenizer.json", "pyfunc.py", "requirements.txt"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin", ".pth"))]
    assert client.get_run(model.source_run_id).data.tags["mmfs.model_digest"] == weights.model_digest


def test_a_known_digest_is_not_uploaded_twice(settings: Settings, folder: Path) -> None:
    weights = publish(settings, folder)
    again = publish(settings, folder, key="b")
    assert again == weights
    client = connect(settings)
    assert len(client.search_logged_models([experiment_id(client, settings)])) == 1


def test_a_cached_copy_that_was_damaged_is_fetched_again(settings: Settings, folder: Path) -> None:
    weights = publish(settings, folder)
    cached = fetch_weights(weights, settings) / "model.safetensors"
    cached.unlink()
    cached.write_bytes(b"broken")
    assert describe_weights(fetch_weights(weights, settings)) == weights


def test_damaged_bytes_in_the_store_are_never_used(settings: Settings, folder: Path) -> None:
    weights = publish(settings, folder)
    forget(settings)
    client = connect(settings)
    model = find(client, experiment_id(client, settings), weights.model_digest)
    assert model is not None
    stored = next(Path(model.artifact_location.removeprefix("file://")).rglob("model.safetensors"))
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(StageError, match="is damaged") as caught:
        fetch_weights(weights, settings)
    assert caught.value.failure is FailureClass.BAD_DATA
    assert "model.safetensors" in caught.value.message
    assert not list(settings.home.weights.iterdir())


def test_weights_that_nobody_published_are_named(settings: Settings, folder: Path) -> None:
    with pytest.raises(StageError, match="no model with the digest"):
        fetch_weights(describe_weights(folder), settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "does not exist"), ("{", "no weights record"), (json.dumps({"version": 9, "model_digest": "d", "files": []}), "update mmfs")],
)
def test_a_weights_record_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "weights.json").write_text(text)
    with pytest.raises(StageError) as caught:
        WeightsRecord.read(tmp_path / "weights.json")
    assert words in caught.value.line()


def test_a_record_written_twice_is_equal(folder: Path, tmp_path: Path) -> None:
    weights = describe_weights(folder)
    for name in ("a.json", "b.json"):
        weights.write(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert WeightsRecord.read(tmp_path / "a.json") == weights
