"""A training whose tracking server dies while its ranks are killed: everything arrives in order and once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from training_world import STEPS, World, train_params

from components.run.events import EventWriter
from components.settings import Settings
from components.tracking.mlflow_run import connect
from components.tracking.sender import drain
from components.tracking.stage_run import StageRun
from components.training.forward import Forwarder

PATIENCE_S = 240.0


def history(settings: Settings, name: str) -> list[int]:
    client = connect(settings)
    [run] = client.search_runs([client.get_experiment_by_name("mmfs").experiment_id])
    return [one.step for one in client.get_metric_history(run.info.run_id, name)]


def test_points_survive_the_server_and_the_ranks(
    warm: Mapping[str, str], store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MMFS_PARENT_RUN_ID", raising=False)
    monkeypatch.delenv("MMFS_CARRIED", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(root=tmp_path, tracking_uri=f"http://127.0.0.1:{port}")
    store = settings.model_copy(update={"tracking_uri": store_uri})
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri, "--port", str(port), "--workers", "1"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        run = StageRun.open(settings, "pretrain", "k" * 64, {})
        world = World(tmp_path / "work", train_params(ranks=1, accumulate=2), warm)
        world.work.mkdir()
        job = world.job()
        forwarder = Forwarder(job.points, job.journal, STEPS, run, EventWriter(None))
        assert world.attempt(KILL_AT="5:0:9") is not None
        forwarder.forward()
        deadline = time.monotonic() + PATIENCE_S
        while not (arrived := _arrived(store)) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert arrived == [3]
    finally:
        os.killpg(server.pid, 9)
        server.wait()
    assert world.attempt() is None
    forwarder.again()
    forwarder.close()
    assert not run.close("FINISHED", timeout_s=60), "nobody takes the rest"
    assert history(store, "loss") == [3]
    assert drain(store) == 0
    assert history(store, "loss") == [3, 6, 8]
    assert history(store, "grad_norm") == [1, 2, 3, 4, 5, 6, 7, 8]


def _arrived(store: Settings) -> list[int]:
    try:
        return history(store, "loss")
    except (ValueError, AttributeError):
        return []
