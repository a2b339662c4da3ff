"""Carries a spool to MLflow, from a thread that imports MLflow while the stage already works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.settings import Settings
from components.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient

MAX_METRICS_PER_CALL = 1000
MAX_LABELS_PER_CALL = 100
SYSTEM_SAMPLE_S = 5.0
_log = logging.getLogger(__name__)


class Sender:
    """One thread: opens or resumes the run, sends what is spooled every `interval_s`, goes on trying while the server is down."""

    def __init__(self, spool: Spool, settings: Settings, interval_s: float = 2.0, retry_s: float = 5.0) -> None:
        self._spool = spool
        self._settings = settings
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def run_id(self, timeout_s: float) -> str | None:
        """The MLflow run's id as soon as the server has given one."""
        self._opened.wait(timeout_s)
        return self._spool.run_id

    def close(self, timeout_s: float) -> bool:
        """Send the rest; False when it stays on disk for a later `drain`."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._spool.unsent()[0]

    def _loop(self) -> None:
        client, monitor, told = None, None, False
        while True:
            last_round = self._closing.is_set()
            try:
                client = client or _client(self._settings)
                if not self._opened.is_set():
                    _open(client, self._spool, self._settings)
                    self._opened.set()
                    monitor = _watch_system(self._spool, self._settings)
                if last_round and monitor is not None:
                    monitor.finish()
                    monitor = None
                send(client, self._spool)
                delay = self._interval_s
            except Exception as error:  # the stage must never fail because its tracking does: any error is retried, and the spool stays
                if not told:
                    _log.warning("tracking is delayed (%s); records wait in %s", str(error).partition("\n")[0], self._spool.folder)
                    told = True
                delay = self._retry_s
            if last_round:
                return
            self._wake.wait(delay)
            self._wake.clear()


def send(client: MlflowClient, spool: Spool) -> None:
    """Send every waiting record in order; a failure leaves the rest for the next call."""
    from mlflow.entities import Metric, Param, RunTag

    run_id = spool.run_id
    if run_id is None:
        raise ValueError("the spool has no run yet")
    records, end = spool.unsent()
    points = [record for record in records if record["op"] == "point"]
    metrics = [Metric(name, value, point["time_ms"], point["step"]) for point in points for name, value in point["metrics"].items()]
    for start in range(0, len(metrics), MAX_METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_CALL])
    params = [Param(key, value) for key, value in _merged(records, "params").items()]
    tags = [RunTag(key, value) for key, value in _merged(records, "tags").items()]
    for start in range(0, max(len(params), len(tags)), MAX_LABELS_PER_CALL):
        chosen = slice(start, start + MAX_LABELS_PER_CALL)
        client.log_batch(run_id, params=params[chosen], tags=tags[chosen])
    for record in records:
        if record["op"] == "file":
            _send_file(client, run_id, spool.folder / record["path"], record["folder"])
        elif record["op"] == "input":
            _send_input(client, run_id, record)
    if records and records[-1]["op"] == "close":
        client.set_terminated(run_id, records[-1]["status"], records[-1]["time_ms"])
    spool.mark(end)


def drain(settings: Settings) -> int:
    """Send the spools that earlier processes left behind; how many are still waiting."""
    waiting = 0
    for folder in sorted(settings.home.spools.iterdir()) if settings.home.spools.is_dir() else ():
        try:
            spool = Spool(folder, wait=False)
        except BlockingIOError:
            continue
        try:
            if spool.unsent()[0]:
                client = _client(settings)
                if spool.run_id is None:
                    _open(client, spool, settings)
                send(client, spool)
            if spool.status == "FINISHED":
                spool.remove()
        except Exception as error:  # one unreachable run must not keep the others
            _log.warning("tracking records of %s still wait: %s", folder.name, error)
            waiting += 1
        finally:
            spool.close()
    return waiting


def _client(settings: Settings) -> MlflowClient:
    from components.tracking.mlflow_run import connect

    return connect(settings)


def _open(client: MlflowClient, spool: Spool, settings: Settings) -> None:
    from components.tracking.mlflow_run import experiment_id, open_run, resume_run

    if spool.run_id is not None and resume_run(client, spool.run_id):
        return
    header = next(record for record in spool.all_records() if record["op"] == "open")
    mark = f"tags.`mmfs.spool` = '{header['mark']}'"
    found = client.search_runs([experiment_id(client, settings)], filter_string=mark, max_results=1)
    if found:
        spool.name_run(found[0].info.run_id)
    else:
        spool.name_run(open_run(client, settings, header["name"], header["tags"] | {"mmfs.spool": header["mark"]}, header["parent"]))


def _watch_system(spool: Spool, settings: Settings) -> SystemMetricsMonitor:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(spool.run_id, sampling_interval=SYSTEM_SAMPLE_S, resume_logging=True, tracking_uri=settings.tracking_uri)
    monitor.start()
    return monitor


def _merged(records: list[dict[str, Any]], op: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for record in records:
        if record["op"] == op:
            values |= record["values"]
    return values


def _send_file(client: MlflowClient, run_id: str, path: Path, folder: str) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), artifact_path="/".join(part for part in (folder, path.name) if part))
    else:
        client.log_artifact(run_id, str(path), artifact_path=folder or None)


def _send_input(client: MlflowClient, run_id: str, record: Mapping[str, Any]) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    dataset = MetaDataset(  # type: ignore[abstract]  # MLflow leaves `profile` abstract in a class it tells users to instantiate
        resolve_dataset_source(record["source"]), name=record["name"], digest=record["digest"]
    )
    tags = [InputTag("mlflow.data.context", record["context"]), InputTag("mmfs.dvc_path", record["path"])]
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
