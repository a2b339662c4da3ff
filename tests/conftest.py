"""Fixtures for the whole run: stores, servers and the trained line are costly, so each is made once and only when a test asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from loopback import alone, can_make_namespaces, loud, watched
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from components.services import health
from components.settings import quiet_environment

ROOT = Path(__file__).parents[1]
SOURCES = ("kernels", "model", "components", "flows", "params", ".dvc")
FILES = ("params.yaml", "takedowns.jsonl", "dvc.yaml", "prefect.yaml", "prefect.toml", "requirements.lock", ".gitignore", ".dvcignore")
FILES_OF_DATA = ("data/input.dvc", "data/.gitignore")
Checkout = Callable[..., Path]
READERS_OF_THE_LINE = ("browser", "integration")
DUE_IN_S = 20
PATIENCE_S = 900


class FolderScheduling(LoadScopeScheduling):
    """A folder's tests go to one process, for they share costly fixtures; those that read the trained line are one folder."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        return "line" if folder in READERS_OF_THE_LINE else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling:
    """How `make test` divides the tests between its processes."""
    return FolderScheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Processes beside each other share the cores, set before anything imports torch."""
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(processes))))


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database whose tables exist; copy it instead of paying for the migrations again."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store_uri(migrated_store: Path, tmp_path: Path) -> str:
    """A fresh MLflow store of this test."""
    shutil.copyfile(migrated_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def checkout(migrated_store: Path) -> Checkout:
    """Makes a repository of its own at a path: one commit of the present source files and of `files`, and an empty MLflow store."""

    def make(target: Path, files: Mapping[str, str] | None = None) -> Path:
        for folder in SOURCES:
            shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local"))
        for name in (*FILES, *FILES_OF_DATA):
            if (ROOT / name).exists():
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(ROOT / name, target / name)
        for name, text in (files or {}).items():
            (target / name).write_text(text, encoding="utf-8")
        shutil.copyfile(migrated_store, target / "mlflow.db")
        git(target, "init", "-q", "-b", "main")
        git(target, "add", "-A")
        git(target, "commit", "-q", "-m", "source")
        return target

    return make


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """The environment of a child process: this one's, without what would lead it elsewhere."""
    own = ("MMFS_", "MLFLOW_", "PREFECT_", "DVC_", "GIT_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(own)}, **quiet_environment()}


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]) -> Iterator[str]:
    """The address of a real Prefect server with an empty database."""
    from flows.orchestrator import api

    environment = {**child_environment, "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}
    with api(ROOT, environment) as wait:
        wait()
        yield environment["PREFECT_API_URL"]


@dataclass(frozen=True)
class TrainedLine:
    """A repository whose whole line ran once at the preset `smoke`; `result` is what `mmfs run --json` said. Tests only read it.

    `alone`: it ran where there is no network but loopback; `asked` is the file in which a call for more would have been written down.
    """

    root: Path
    environment: dict[str, str]
    result: dict[str, Any]
    alone: bool
    asked: Path

    def mmfs(self, *arguments: str) -> dict[str, Any]:
        """The JSON that a command prints; its exit status may be any."""
        done = run_mmfs(self.root, self.environment, *arguments)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture(scope="session")
def trained_line(checkout: Checkout, child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> TrainedLine:
    """The one trained run that all tests share which only read it; made when the first of them asks.

    It is what a person gets on a fresh machine: an empty Prefect home, no server, no cache, and here no network either.
    """
    folder = tmp_path_factory.mktemp("trained")
    root = checkout(folder / "a repository")
    (folder / "witness").mkdir()
    environment, asked = watched(folder / "witness", loud(folder))
    arguments = ("-m", "flows.cli", "run", "--preset", "smoke", "--json")
    enclosed = can_make_namespaces()
    command = alone(*arguments) if enclosed else [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return TrainedLine(root, child_environment, json.loads(done.stdout), enclosed, asked)


def run_mmfs(root: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the command as a user would, from the sources in `root`."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def git(folder: Path, *arguments: str) -> str:
    """Run git as a test user; its output."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class LocalStack:
    """A copy of the trained repository with the servers of `mmfs up` running; tests may start runs in it."""

    root: Path
    environment: dict[str, str]
    urls: dict[str, str]

    @property
    def api(self) -> str:
        """Address of the Prefect API."""
        return f"{self.urls['prefect']}/api"

    def mmfs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call the command in the repository."""
        return run_mmfs(self.root, self.environment, *arguments)

    def prefect(self, *arguments: str) -> str:
        """Call Prefect's own command, as a user would; its output."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def local_stack(
    trained_line: TrainedLine, child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """`mmfs up` in a copy of the trained repository, on free ports; stopped at the end of the tests."""
    root = tmp_path_factory.mktemp("stack") / "a repository"
    shutil.copytree(trained_line.root, root, symlinks=True)
    up = run_mmfs(root, child_environment, "up", "--json")
    try:
        assert up.returncode == 0, up.stderr
        urls = {service["name"]: service["url"] for service in json.loads(up.stdout) if service["url"]}
        yield LocalStack(root, child_environment, urls)
    finally:
        down = run_mmfs(root, child_environment, "down", "--json")
        assert down.returncode == 0, down.stderr


@dataclass(frozen=True)
class StackRuns:
    """Two runs with the servers up: what `mmfs run --json` said of an unchanged one, and the flow run that a due schedule started."""

    unchanged: dict[str, Any]
    scheduled: dict[str, Any]


@pytest.fixture(scope="session")
def stack_runs(local_stack: LocalStack) -> StackRuns:
    """The command runs while the schedule is waited for. The scheduled run computes one stage anew, its others are Cached."""
    due = (datetime.now(UTC) + timedelta(seconds=DUE_IN_S)).strftime("%Y-%m-%dT%H:%M:%S")
    schedule = json.dumps({"interval": 86400, "anchor_date": due, "timezone": "UTC"})
    parameters = json.dumps({"preset": "smoke", "overrides": ["tasks=[vqa]", "evaluate.bootstrap=150"]})
    deployment = local_stack.root / "due.yaml"
    deployment.write_text(
        "deployments:\n- name: due\n  entrypoint: flows.training.train\n  work_pool: {name: mmfs-local}\n"
        f"  schedules: [{schedule}]\n  parameters: {parameters}\n"
    )
    try:
        local_stack.prefect("deploy", "--prefect-file", str(deployment), "--name", "due")
    finally:
        deployment.unlink()
    unchanged = local_stack.mmfs("run", "--preset", "smoke", "--json")
    assert unchanged.returncode == 0, unchanged.stderr + unchanged.stdout
    query = {"deployments": {"name": {"any_": ["due"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    deadline = time.monotonic() + PATIENCE_S
    while not (ended := [one for one in health.call(f"{local_stack.api}/flow_runs/filter", query) if one["end_time"]]):
        assert time.monotonic() < deadline, f"no scheduled run that ended within {PATIENCE_S} s"
        time.sleep(0.5)
    return StackRuns(json.loads(unchanged.stdout), ended[0])
