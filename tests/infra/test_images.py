"""The images: built from files that exist, pinned, not run by root; the scripts inside do what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "infra" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) pairs, with continued lines joined and comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile(path: Path) -> None:
    steps = instructions(path)
    for base in [rest.split()[0] for word, rest in steps if word == "FROM"]:
        assert re.search(r":\d+\.\d+", base), f"{base} is not pinned"
    users = [rest for word, rest in steps if word == "USER"]
    assert users and users[-1] != "root"
    for arguments in [rest.split() for word, rest in steps if word == "COPY"]:
        if any(argument.startswith("--from=") for argument in arguments):
            continue
        for source in [argument for argument in arguments[:-1] if not argument.startswith("--")]:
            assert (ROOT / source).exists(), f"{path.name} copies {source}, which does not exist"


def test_there_is_an_image_for_training_flows_and_tracking() -> None:
    assert [path.name for path in DOCKERFILES] == ["flow.Dockerfile", "mlflow.Dockerfile", "train.Dockerfile"]
    assert "nvidia/cuda:" in (DOCKER / "train.Dockerfile").read_text()


@pytest.mark.parametrize("name", ["flow.lock", "mlflow.lock"])
def test_additions_agree_with_the_lock(name: str) -> None:
    lock = pins(ROOT / "requirements.lock")
    for package, version in pins(DOCKER / name).items():
        assert lock.get(package, version) == version, package


def test_checkout_fetches_the_commit(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet", str(origin)], check=True)
    (origin / "file").write_text("content")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "first"], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    environment = os.environ | {"MMFS_REPOSITORY": str(origin), "MMFS_REVISION": "HEAD"}
    done = subprocess.run([DOCKER / "checkout.sh", tmp_path / "there"], env=environment, capture_output=True, text=True, check=True)
    assert sha in done.stdout
    assert (tmp_path / "there" / "file").read_text() == "content"


def test_scripts_name_the_missing_variable(tmp_path: Path) -> None:
    bare = {"PATH": os.environ["PATH"]}
    checkout = subprocess.run([DOCKER / "checkout.sh", tmp_path], env=bare, capture_output=True, text=True, check=False)
    assert checkout.returncode != 0 and "MMFS_REPOSITORY" in checkout.stderr
    server = subprocess.run([DOCKER / "mlflow-server.sh"], env=bare, capture_output=True, text=True, check=False)
    assert server.returncode != 0 and "MLFLOW_AUTH_DATABASE_URI" in server.stderr


@pytest.mark.parametrize("script", sorted((ROOT / "infra").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse_and_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    shell = shutil.which("bash")
    assert shell and subprocess.run([shell, "-n", script], check=False).returncode == 0


def pins(path: Path) -> dict[str, str]:
    lines = [line.partition("==") for line in path.read_text().splitlines() if re.match(r"[A-Za-z]", line)]
    return {re.sub(r"\[.*\]", "", name).lower().replace("_", "-"): version for name, _, version in lines}
