"""The real line's data version as people look at it: its card, what saw a document, and how a document leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from components.data.index import Index
from components.data_versions import open_version
from components.params import load
from components.settings import Settings
from components.trace import TAKEDOWN_TAG, trace

pytestmark = pytest.mark.timeout(1800)


def seen_document(line: Any) -> str:
    """A document of the only kind that a finetuning of the smoke line and its pretraining both draw from."""
    return str(Index(open_version(line.root, "latest").folder).rows("train", "question")[0].id)


def test_a_trace_names_runs_steps_and_models(trained_line: Any) -> None:
    document = seen_document(trained_line)
    found = trained_line.mmfs("trace", document, "--json")
    assert found["document"] == document and not found["untraced"]
    assert {one["run_id"] for one in found["seen"]} <= {trained_line.result["run_id"]}
    steps = load(trained_line.root / "params.yaml")
    assert all(0 <= one["first_step"] <= one["last_step"] < steps.pretrain.steps for one in found["seen"] if one["stage"] == "pretrain")
    assert trained_line.mmfs("trace", "nobody", "--json") == {"document": "nobody", "seen": [], "models": [], "untraced": []}


def test_the_card_of_a_run_shows_its_documents(trained_line: Any, tmp_path: Path) -> None:
    told = trained_line.mmfs("data", "card", "latest", "-o", str(tmp_path / "card.html"), "--json")
    page = Path(told["card"]).read_text(encoding="utf-8")
    counts = trained_line.mmfs("data", "show", "latest", "--json")
    assert f"{sum(one['documents'] for one in counts['documents'])} documents" in page
    assert page.count("data:image/png") > 20


def test_a_takedown_is_recorded_and_flags_what_saw_the_document(
    trained_line: Any, child_environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "a repository"
    shutil.copytree(trained_line.root, root, symlinks=True)
    every = [str(row.id) for row in Index(open_version(root, "latest").folder).rows("train", "question")]
    document = next(one for one in every if trace(Settings(root=root), one).models)
    copy = replace(trained_line, root=root)
    models = copy.mmfs("takedown", document, "--reason", "asked for", "--json")["models"]
    assert models and json.loads((root / "takedowns.jsonl").read_text())["models"] == models
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    for address in models:
        _, name, version = address.split("/")
        assert json.loads(client.get_model_version(name, version).tags[TAKEDOWN_TAG]) == [document]
    command = [sys.executable, "-m", "flows.cli", "takedown", document, "--reason", "asked for"]
    again = subprocess.run(command, cwd=root, env=trained_line.environment, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "taken down already" in again.stderr
