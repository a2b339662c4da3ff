"""The Compose stack: every service pinned, checked, started in order, and fed by the documented variables only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "infra" / "compose.yaml"
SERVICE_KEYS = {"build", "command", "depends_on", "environment", "healthcheck", "image", "ports", "restart"} | {
    "shm_size",
    "user",
    "volumes",
    "working_dir",
}
ONE_SHOT = {"buckets"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load(FILE.read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_services_are_those_of_the_platform(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", "s3", "buckets", "mlflow", "prefect-server", "worker"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name


def test_long_running_services_have_healthchecks(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert ("healthcheck" in service) == (name not in ONE_SHOT), name


def test_services_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, condition in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert needed in services and condition == {"condition": expected}, f"{name} on {needed}"


def test_images_are_pinned_and_built_from_existing_dockerfiles(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":[^:/]*\d", service["image"]) and not service["image"].endswith(":latest"), name
        if build := service.get("build"):
            assert (FILE.parent / build["context"] / build["dockerfile"]).exists(), name
            assert service["image"].startswith("mmfs-"), name


def test_mounted_files_exist_and_volumes_are_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (FILE.parent / source).exists() if source.startswith(".") else source in compose["volumes"], f"{name}: {volume}"


def test_ports_are_on_loopback_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_secrets_come_from_the_documented_files() -> None:
    documented = {
        line.split("=")[0]
        for path in (ROOT / "infra" / "secrets").glob("*.env.example")
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    }
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text())) - {"MMFS_UID", "MMFS_GID"}
    assert used == documented


def test_no_secret_is_written_down() -> None:
    for path in (ROOT / "infra" / "secrets").glob("*.env.example"):
        values = dict(line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#"))
        assert {name for name, value in values.items() if value} <= {"MLFLOW_TRACKING_USERNAME"}, path.name
