"""The local servers behind `mmfs up`: Prefect's server, MLflow's server and a process worker, on loopback only."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.services import health, profile
from components.services.ports import HOST, choose_port, is_free
from components.services.process import Record, read_record, start, stop, write_record

ServiceName = Literal["prefect", "mlflow", "worker"]
SERVICES: tuple[ServiceName, ...] = ("prefect", "mlflow", "worker")
POOL = "mmfs-local"
DEFAULT_PORTS: dict[ServiceName, int] = {"prefect": 4200, "mlflow": 5000}
START_TIMEOUT_S = 180.0
PORT_ATTEMPTS = 3
LOG_TAIL_LINES = 15
Watch = Callable[["ServiceStatus"], None]


class ServiceError(RuntimeError):
    """A service did not come up; the message holds the end of its log."""


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now."""

    name: ServiceName
    state: Literal["healthy", "starting", "unhealthy", "stopped"]
    url: str | None
    pid: int | None
    log: str


@dataclass(frozen=True)
class Stack:
    """The services of one checkout. `environment` is what they are started with (see components.settings)."""

    root: Path
    environment: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Where records and logs are kept."""
        return self.root / ".mmfs" / "services"

    def up(self, ports: Mapping[ServiceName, int] | None = None, watch: Watch = lambda status: None) -> list[ServiceStatus]:
        """Start what is not running and wait until all answer; what is healthy is left alone.

        Raises PortTaken for an asked port in use, ServiceError when a service ends or stays silent.
        """
        ports = ports or {}
        with self._locked():
            for name in DEFAULT_PORTS:
                self._ensure(name, ports.get(name))
            for name in DEFAULT_PORTS:
                self._wait(name, watch, ports.get(name))
            api = self.api_url()
            if api is None:
                raise ServiceError(f"the Prefect server ended as soon as it was up; see {self._log('prefect')}")
            profile.write(self.root, api)
            health.create_pool(api, POOL)
            self._ensure("worker", None)
            self._wait("worker", watch)
        return self.status()

    def down(self) -> list[ServiceName]:
        """Stop everything that runs, the worker and its flow runs first; answers what was stopped."""
        stopped: list[ServiceName] = []
        with self._locked():
            profile.remove(self.root)
            for name in reversed(SERVICES):
                record = read_record(self._path(name))
                if record is not None and record.members():
                    stop(record)
                    stopped.append(name)
                self._path(name).unlink(missing_ok=True)
        return stopped

    def status(self) -> list[ServiceStatus]:
        """Each service as it is now."""
        return [self._status(name) for name in SERVICES]

    def url(self, name: ServiceName) -> str | None:
        """Address of a service whose process lives, else None."""
        record = read_record(self._path(name))
        return record.url if record is not None and record.is_alive() else None

    def api_url(self) -> str | None:
        """Address of the Prefect API, or None when the server is down."""
        url = self.url("prefect")
        return f"{url}/api" if url else None

    def _ensure(self, name: ServiceName, asked: int | None) -> None:
        record = read_record(self._path(name))
        if record is not None and record.is_alive() and self._answers(record):
            return
        if record is not None:
            stop(record)
        port = choose_port(DEFAULT_PORTS[name], asked) if name in DEFAULT_PORTS else None
        url = f"http://{HOST}:{port}" if port else self.api_url()
        command = self._command(name, port)
        record = start(name, command, environment=self._environment(name), folder=self.root, log=self._log(name), url=url)
        write_record(record, self._path(name))

    def _command(self, name: ServiceName, port: int | None) -> list[str]:
        python = [sys.executable, "-m"]
        match name:
            case "prefect":
                return [*python, "prefect", "server", "start", "--host", HOST, "--port", str(port)]
            case "mlflow":
                store, artifacts = f"sqlite:///{self.root / 'mlflow.db'}", str(self.root / "mlartifacts")
                places = ["--backend-store-uri", store, "--artifacts-destination", artifacts]
                return [*python, "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *places]
            case "worker":
                return [*python, "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", self._worker_name()]

    def _environment(self, name: ServiceName) -> dict[str, str]:
        environment = dict(self.environment)
        if name == "mlflow":
            environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # its job queue is for LLM judges and starts six more processes
        api = self.api_url()
        if name == "worker" and api is not None:
            environment["PREFECT_API_URL"] = api
        return environment

    def _answers(self, record: Record) -> bool:
        match record.name:
            case "prefect":
                return record.listens() and health.answers(f"{record.url}/api/health")
            case "mlflow":
                return record.listens() and health.answers(f"{record.url}/health")
            case _:
                api = self.api_url()
                return api == record.url and health.worker_is_online(f"{api}", POOL, self._worker_name(), since=record.created)

    def _wait(self, name: ServiceName, watch: Watch, asked: int | None = None) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        attempts = 1
        while (status := self._status(name)).state != "healthy":
            watch(status)
            if status.state == "stopped" and self._lost_its_port(name) and asked is None and attempts < PORT_ATTEMPTS:
                attempts += 1
                self._ensure(name, None)
            elif status.state == "stopped":
                raise ServiceError(f"{name} ended while starting; the end of {status.log}:\n{_tail(Path(status.log))}")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{name} did not answer within {START_TIMEOUT_S:.0f} s; the end of {status.log}:\n{_tail(Path(status.log))}"
                )
            time.sleep(0.25)
        watch(status)

    def _status(self, name: ServiceName) -> ServiceStatus:
        record = read_record(self._path(name))
        log = str(self._log(name))
        if record is None or not record.is_alive():
            return ServiceStatus(name, "stopped", None, None, log)
        if self._answers(record):
            return ServiceStatus(name, "healthy", record.url, record.pid, log)
        young = time.time() - record.created < START_TIMEOUT_S
        return ServiceStatus(name, "starting" if young else "unhealthy", record.url, record.pid, log)

    def _lost_its_port(self, name: ServiceName) -> bool:
        """Whether another program took the port between its choice and the server's start."""
        record = read_record(self._path(name))
        return record is not None and name in DEFAULT_PORTS and not is_free(record.port())

    def _worker_name(self) -> str:
        return f"{POOL}-worker"

    def _path(self, name: ServiceName) -> Path:
        return self.folder / f"{name}.json"

    def _log(self, name: ServiceName) -> Path:
        return self.folder / f"{name}.log"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])
    except OSError:
        return "(no log)"
