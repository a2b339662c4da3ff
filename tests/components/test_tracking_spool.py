"""Tracking records survive kills and servers that are down, and arrive once."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from components.run.failures import FailureClass, StageError
from components.settings import Settings
from components.tracking.mlflow_run import close_run, connect, open_run, record_cached, resume_run
from components.tracking.sender import Sender, drain
from components.tracking.spool import Point, SpoolReader, SpoolWriter, append_points, read_points, read_state
from components.tracking.stage_run import StageRun, point, spool_folder

PATIENCE_S = 60.0
KEY = "k" * 64


@pytest.fixture
def settings(tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.delenv("MMFS_PARENT_RUN_ID", raising=False)
    monkeypatch.delenv("MMFS_CARRIED", raising=False)
    return Settings(root=tmp_path)


def down(settings: Settings) -> Settings:
    """The same place with a tracking server that nobody runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return settings.model_copy(update={"tracking_uri": f"http://127.0.0.1:{port}"})


def runs_of(settings: Settings):  # type: ignore[no-untyped-def]
    client = connect(settings)
    return client, client.search_runs([client.get_experiment_by_name("mmfs").experiment_id])


def only_run(settings: Settings):  # type: ignore[no-untyped-def]
    client, runs = runs_of(settings)
    assert len(runs) == 1
    return client, runs[0]


def test_points_are_read_from_where_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    append_points(path, [point(1, loss=2.0)])
    first, offset = read_points(path)
    append_points(path, [point(2, loss=1.0)])
    with path.open("a") as file:
        file.write('{"step": 3, "ti')
    second, _ = read_points(path, offset)
    assert [one["step"] for one in (*first, *second)] == [1, 2]


def test_a_resumed_stage_does_not_log_its_steps_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.add_points([point(step, loss=1.0) for step in (1, 2, 3)])
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"op": "point", "st')
    again = SpoolWriter(tmp_path)
    again.add_points([point(step, loss=1.0, lr=0.1) for step in (2, 3, 4)])
    reader = SpoolReader(tmp_path)
    records, _ = reader.unsent()
    reader.close()
    assert [(record["step"], sorted(record["metrics"])) for record in records] == [
        (1, ["loss"]), (2, ["loss"]), (3, ["loss"]), (2, ["lr"]), (3, ["lr"]), (4, ["loss", "lr"]),
    ]  # fmt: skip


def test_a_spool_has_one_sender(tmp_path: Path) -> None:
    SpoolWriter(tmp_path)
    reader = SpoolReader(tmp_path)
    with pytest.raises(BlockingIOError):
        SpoolReader(tmp_path)
    reader.close()
    SpoolReader(tmp_path).close()


def test_a_stage_run_holds_all_that_was_said(settings: Settings, tmp_path: Path) -> None:
    run = StageRun.open(settings, "pretrain", KEY, {"mmfs.device": "cpu"})
    run.log_params({"pretrain": {"steps": 5, "betas": [0.9, 0.995]}} | {f"p{n}": n for n in range(150)})
    run.log_metrics([point(step, loss=1 / step) for step in range(1, 2001)])
    run.log_summary({"loss": 0.25})
    (tmp_path / "picture.png").write_bytes(b"png")
    run.log_artifact(tmp_path / "picture.png", "pictures")
    (tmp_path / "picture.png").unlink()
    run.log_input("data/input", "0" * 32 + ".dir", "s3://bucket/files/md5/00", "data/input", "training")
    assert run.close("FINISHED")
    client, found = only_run(settings)
    assert found.info.status == "FINISHED"
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 2001
    assert found.data.metrics["loss"] == 0.25
    assert (found.data.params["pretrain.steps"], len(found.data.params)) == ("5", 152)
    assert client.list_artifacts(found.info.run_id, "pictures")[0].path == "pictures/picture.png"
    assert found.inputs.dataset_inputs[0].dataset.digest == "0" * 32 + ".dir"
    assert not list(settings.home.spools.iterdir())


def test_system_metrics_come_with_a_run_that_lasts(settings: Settings) -> None:
    run = StageRun.open(settings, "pretrain", KEY, {})
    deadline = time.monotonic() + PATIENCE_S
    while not any(found.data.metrics for found in runs_of(settings)[1]) and time.monotonic() < deadline:
        time.sleep(0.2)  # the run is opened by a thread: at first there may be none
    run.close("FINISHED")
    _, found = only_run(settings)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(found.data.metrics)


def test_a_restarted_stage_goes_on_in_its_run(settings: Settings) -> None:
    first = StageRun.open(settings, "pretrain", KEY, {})
    first.log_metrics([point(1, loss=1.0)])
    assert first.close("KILLED")
    assert only_run(settings)[1].info.status == "KILLED"
    second = StageRun.open(settings, "pretrain", KEY, {})
    second.log_metrics([point(1, loss=9.0), point(2, loss=0.5)])
    assert second.close("FINISHED")
    client, found = only_run(settings)
    assert (found.info.status, found.data.tags["mmfs.restarts"]) == ("FINISHED", "1")
    assert [one.value for one in client.get_metric_history(found.info.run_id, "loss")] == [1.0, 0.5]


def test_steps_that_were_rolled_back_have_two_points_and_the_later_one_counts(settings: Settings) -> None:
    for attempt in range(2):  # the supervisor is killed once and does it all again
        run = StageRun.open(settings, "pretrain", KEY, {})
        if not attempt:
            run.log_metrics([Point(step=step, time_ms=1000 + step, metrics={"loss": 9.0}) for step in (1, 2, 3)])
        run.rewind(1, "rollback 1")
        for value in (5.0, 6.0):
            run.log_event(Point(step=3, time_ms=2000 + int(value), metrics={"events/rollback/number": value}))
        if attempt:
            run.log_metrics([Point(step=step, time_ms=3000 + step, metrics={"loss": 1.0}) for step in (1, 2, 3)])
        assert run.close("FINISHED" if attempt else "KILLED", PATIENCE_S)
    client, found = only_run(settings)
    history = [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, "loss")]
    assert sorted(history) == [(1, 9.0), (2, 1.0), (2, 9.0), (3, 1.0), (3, 9.0)]
    assert found.data.metrics["loss"] == 1.0
    assert len(client.get_metric_history(found.info.run_id, "events/rollback/number")) == 2, "equal points are stored once"


def test_records_wait_for_a_server_that_is_down(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    unreachable = down(settings)
    run = StageRun.open(unreachable, "pretrain", KEY, {})
    run.log_metrics([point(1, loss=1.0)])
    assert not run.close("FINISHED", timeout_s=60)
    assert drain(unreachable) == 1
    assert drain(settings) == 0
    _, found = only_run(settings)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 1.0})
    assert not list(settings.home.spools.iterdir())


def test_sending_twice_changes_nothing(settings: Settings) -> None:
    writer = SpoolWriter(spool_folder(settings, KEY, None))
    writer.add("open", name="pretrain", tags={}, parent=None, mark="m1")
    writer.add_points([point(step, loss=1.0) for step in range(5)])
    for _ in range(2):
        sender = Sender(writer.folder, settings)
        sender.start()
        assert sender.close(60)
        (writer.folder / "state.json").unlink()
    client, found = only_run(settings)
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 5
    assert read_state(writer.folder).sent == 0


def test_a_parent_never_leaves_a_running_child(settings: Settings) -> None:
    client = connect(settings)
    parent = open_run(client, settings, "run", {})
    child = open_run(client, settings, "pretrain", {}, parent)
    close_run(client, parent, "FAILED")
    assert [client.get_run(one).info.status for one in (parent, child)] == ["FAILED", "FAILED"]
    assert resume_run(client, parent)
    assert client.get_run(parent).info.status == "RUNNING"
    assert not resume_run(client, "0" * 32)


def test_a_cached_stage_names_the_run_that_computed_it(settings: Settings) -> None:
    client = connect(settings)
    original = open_run(client, settings, "prepare", {"mmfs.stage_key": KEY})
    client.set_terminated(original, "FINISHED")
    parent = open_run(client, settings, "run", {})
    cached = client.get_run(record_cached(client, settings, parent, "prepare", KEY, {"documents": 3.0}))
    assert (cached.info.status, cached.data.tags["mmfs.cached_from"], cached.data.metrics) == ("FINISHED", original, {"documents": 3.0})


def test_a_first_run_makes_its_store_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connect(Settings(root=tmp_path, tracking_uri=f"sqlite:///{tmp_path / 'new.db'}"))
    assert (tmp_path / "new.db").is_file()
    assert capsys.readouterr().err == ""


def test_a_store_that_does_not_answer_is_named_without_secrets(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = down(settings).tracking_uri.replace("http://", "http://user:hunter2@")
    with pytest.raises(StageError) as caught:
        connect(settings.model_copy(update={"tracking_uri": address}))
    assert caught.value.failure is FailureClass.INFRASTRUCTURE
    assert "hunter2" not in caught.value.line()
    assert "mmfs up" in caught.value.line()
