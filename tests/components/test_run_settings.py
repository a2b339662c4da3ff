from __future__ import annotations

from pathlib import Path

import pytest

from components.run.paths import Home, Paths
from components.settings import Settings, quiet, quiet_environment


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMFS_ROOT", "MMFS_WORK", "MMFS_EVENTS", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_lie_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert settings.work_root == tmp_path / ".mmfs" / "work"
    assert settings.artifact_location == f"file://{tmp_path}/mlartifacts"


def test_a_server_decides_where_artifacts_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert Settings().artifact_location is None


def test_an_empty_variable_is_an_absent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MMFS_WORK", "")
    assert Settings().tracking_uri.startswith("sqlite:")
    assert Settings().work is None


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    settings = Settings()
    assert settings.tracking_password is not None
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.child_environment())
    assert "hunter2" not in settings.model_dump_json()


def test_quiet_leaves_what_the_user_set() -> None:
    environment = {"HF_HUB_OFFLINE": "0"}
    quiet(environment)
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["DVC_NO_ANALYTICS"] == "1"
    assert set(quiet_environment()) <= set(environment)


def test_run_files_are_named_by_stage(tmp_path: Path) -> None:
    files = Home(tmp_path).run("r1")
    assert files.events("finetune@vqa").name == "finetune-vqa.jsonl"
    assert Paths(tmp_path).finetune("vqa") == tmp_path / "outputs" / "finetune" / "vqa"
