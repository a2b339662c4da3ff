"""Carries spools to MLflow, from a thread that imports MLflow while the stage already works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.settings import Settings, without_secrets
from components.tracking.spool import SpoolReader

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient

MAX_METRICS_PER_CALL = 1000
MAX_LABELS_PER_CALL = 100
SYSTEM_SAMPLE_S = 5.0
_log = logging.getLogger(__name__)


class Sender:
    """One thread: opens or resumes the run, sends what is spooled every `interval_s`, goes on trying while the server is down."""

    def __init__(self, folder: Path, settings: Settings, interval_s: float = 2.0, retry_s: float = 5.0) -> None:
        self._spool = SpoolReader(folder)
        self._settings = settings
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Send the rest once the stage has ended; False when it stays on disk for a later `drain`."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        sent = not self._spool.unsent()[0]
        self._spool.close()
        return sent

    def _loop(self) -> None:
        client: MlflowClient | None = None
        monitor: SystemMetricsMonitor | None = None
        opened = False
        told = False
        while True:
            last_round = self._closing.is_set()
            delay = self._interval_s
            try:
                client = client or _client(self._settings)
                if not opened:
                    open_or_resume(client, self._spool, self._settings)
                    opened = True
                    monitor = _watch_system(self._spool, self._settings)
                if last_round and monitor is not None:
                    monitor.finish()
                    monitor = None
                send(client, self._spool)
            except Exception as error:  # the stage must never fail because its tracking does: any error is retried, and the spool stays
                delay = self._retry_s
                reason = without_secrets(str(error).partition("\n")[0]) or type(error).__name__
                self._spool.report(reason)
                if not told:
                    _log.warning("tracking is delayed (%s); records wait in %s", reason, self._spool.folder)
                    told = True
            if last_round:
                return
            self._wake.wait(delay)
            self._wake.clear()


def send(client: MlflowClient, spool: SpoolReader) -> None:
    """Send every waiting record; a failure leaves them for the next call."""
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
        elif record["op"] == "model":
            _send_model(client, run_id, spool.folder / record["path"], record["weights"])
    if records and records[-1]["op"] == "close":
        client.set_terminated(run_id, records[-1]["status"], records[-1]["time_ms"])
    if records:
        spool.mark(end)


def drain(settings: Settings) -> int:
    """Send the spools that earlier processes left behind; how many are still waiting."""
    waiting = 0
    client: MlflowClient | None = None
    for folder in sorted(settings.home.spools.iterdir()) if settings.home.spools.is_dir() else ():
        try:
            spool = SpoolReader(folder)
        except BlockingIOError:
            continue
        try:
            if spool.unsent()[0]:
                client = client or _client(settings)
                if spool.run_id is None:
                    open_or_resume(client, spool, settings)
                send(client, spool)
        except Exception as error:  # one unreachable run must not keep the others
            _log.warning("tracking records in %s still wait: %s", folder, without_secrets(str(error).partition("\n")[0]))
            waiting += 1
        finally:
            spool.close()
    return waiting


def open_or_resume(client: MlflowClient, spool: SpoolReader, settings: Settings) -> None:
    """Give the spool its run: the one it had, one opened by a process that died before it could say so, or a new one."""
    from components.tracking.mlflow_run import experiment_id, open_run, resume_run

    if spool.run_id is not None and resume_run(client, spool.run_id):
        return
    header = spool.header()
    mark = f"tags.`mmfs.spool` = '{header['mark']}'"
    found = client.search_runs([experiment_id(client, settings)], filter_string=mark, max_results=1)
    if found:
        spool.name_run(found[0].info.run_id)
    else:
        spool.name_run(open_run(client, settings, header["name"], header["tags"] | {"mmfs.spool": header["mark"]}, header["parent"]))


def _client(settings: Settings) -> MlflowClient:
    from components.tracking.mlflow_run import connect

    return connect(settings)


def _watch_system(spool: SpoolReader, settings: Settings) -> SystemMetricsMonitor:
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
    from components.tracking.dataset_input import dataset_input

    client.log_inputs(run_id, [dataset_input(record["name"], record["digest"], record["source"], record["path"], record["context"])])


def _send_model(client: MlflowClient, run_id: str, folder: Path, weights: Mapping[str, Any]) -> None:
    from components.tracking.logged_model import upload
    from components.tracking.weights import WeightsRecord

    upload(client, run_id, folder, WeightsRecord.model_validate(weights))
