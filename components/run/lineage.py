"""The lineage record: everything needed to go back to what a run computed, and a digest that names it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.params import parse, read_mapping
from components.run.dvc_remote import content_address, remote_address
from components.run.failures import FailureClass, StageError
from components.run.filetree import write_whole
from components.run.key import device_type, stage_inputs
from components.run.pipeline import read_pipeline
from components.run.workspace import Workspace
from components.run.yamlfile import read_yaml
from components.start import Start

VERSION = 1
LIBRARIES = [
    "torch",
    "lightning",
    "deepspeed",
    "transformers",
    "diffusers",
    "tokenizers",
    "numpy",
    "scikit-learn",
    "mlflow",
    "dvc",
    "prefect",
]


class LineageRecord(BaseModel):
    """Made after a run's last stage. Digests are sha256, data digests are DVC's md5 by path; `run_id` is not part of the digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = VERSION
    run_id: str
    git_sha: str
    patch_sha256: str | None
    dvc_lock_sha256: str
    stage_keys: dict[str, str]
    data: dict[str, str]
    params_sha256: str
    requirements_sha256: str
    image_digest: str | None
    seed: int
    device: str
    libraries: dict[str, str]
    starts: dict[str, str] = {}
    """By training stage what it started from outside of the run, with its digest."""

    @property
    def digest(self) -> str:
        """Names the record's content; equal for runs that must give equal models. One without starts is as it was before there were any."""
        return hashlib.sha256(self.model_dump_json(exclude={"run_id", *self._absent}).encode()).hexdigest()

    @property
    def _absent(self) -> set[str]:
        return set() if self.starts else {"starts"}

    @property
    def promotable(self) -> bool:
        """A model of source that no commit holds cannot be promoted."""
        return self.patch_sha256 is None

    def tags(self) -> dict[str, str]:
        """What goes on the MLflow run and on model versions."""
        return {
            "mmfs.lineage": self.digest,
            "mmfs.run_id": self.run_id,
            "mmfs.git_sha": self.git_sha,
            "mmfs.patch": self.patch_sha256 or "none",
            "mmfs.dvc_lock": self.dvc_lock_sha256,
            "mmfs.params": self.params_sha256,
            "mmfs.requirements": self.requirements_sha256,
            "mmfs.data": self.data.get("data/input", "none"),
            "mmfs.device": self.device,
            **{f"mmfs.init_from.{stage}": start for stage, start in self.starts.items()},
        }

    def write(self, path: Path) -> None:
        """lineage.json, with the digest for people."""
        write_whole(path, json.dumps(self.model_dump(exclude=self._absent) | {"digest": self.digest}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read lineage.json. Raises StageError (bad_data) when it was changed, is broken or newer than this version."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            digest = values.pop("digest")
            record = cls.model_validate(values)
        except (OSError, ValueError, KeyError, AttributeError, ValidationError) as error:
            raise StageError(FailureClass.BAD_DATA, f"{path} is no lineage record: {error}".replace("\n", "; ")) from None
        if record.version > VERSION:
            raise StageError(FailureClass.BAD_DATA, f"{path} has version {record.version}, this mmfs reads up to {VERSION}", "update mmfs")
        if record.digest != digest:
            raise StageError(FailureClass.BAD_DATA, f"{path} does not match its digest", "fetch it again from the MLflow run")
        return record


def make_lineage(workspace: Workspace, stages: tuple[str, ...]) -> LineageRecord:
    """The record of a run whose `stages` have all been reproduced in its checkout."""
    paths = workspace.paths
    values = read_mapping(paths.params)
    params = parse(values)
    device = device_type()
    pipeline = read_pipeline(paths.dvc_yaml)
    inputs = {name: stage_inputs(pipeline[name], paths.root, values, device) for name in stages}
    return LineageRecord(
        run_id=workspace.run_id,
        git_sha=workspace.record.request.git_sha,
        patch_sha256=workspace.record.request.patch_sha256,
        dvc_lock_sha256=lock_digest(paths.dvc_lock, stages),
        stage_keys={name: one.key for name, one in inputs.items()},
        data={path: md5 for one in inputs.values() for path, md5 in one.deps.items() if path.startswith(("data/", "outputs/"))},
        params_sha256=workspace.record.request.params_sha256,
        requirements_sha256=hashlib.sha256(paths.requirements_lock.read_bytes()).hexdigest() if paths.requirements_lock.exists() else "",
        image_digest=os.environ.get("MMFS_IMAGE_DIGEST") or None,
        seed=int(values["seed"]),
        device=device,
        libraries=_versions(),
        starts={stage: str(start) for stage in params.training_stages if (start := params.start(stage)).is_external},
    )


def lock_digest(dvc_lock: Path, stages: tuple[str, ...]) -> str:
    """Digest of the lock's entries of these stages, whatever their order in the file."""
    locked: Mapping[str, Any] = read_yaml(dvc_lock)["stages"]
    return hashlib.sha256(json.dumps({name: locked[name] for name in stages}, sort_keys=True).encode()).hexdigest()


def verify_lineage(record: LineageRecord, root: Path, dvc_lock: Path) -> list[str]:
    """What of a record this repository can no longer go back to; empty when all is there. `dvc_lock` is the run's own."""
    problems = []
    address = remote_address(root)
    if address is not None and "://" not in address:
        lost = [path for path, md5 in record.data.items() if not Path(content_address(root, md5)).is_file()]
        problems += [f"the remote {address} no longer holds {path}" for path in lost]
    found = subprocess.run(["git", "cat-file", "-e", f"{record.git_sha}^{{commit}}"], cwd=root, capture_output=True, check=False)
    if found.returncode:
        problems.append(f"commit {record.git_sha[:12]} is not in this repository; git fetch it")
    if not dvc_lock.is_file():
        problems.append(f"{dvc_lock} is absent; fetch it from the MLflow run")
    elif lock_digest(dvc_lock, tuple(record.stage_keys)) != record.dvc_lock_sha256:
        problems.append(f"{dvc_lock} is not the run's lock")
    lock = root / "requirements.lock"
    if not lock.is_file() or hashlib.sha256(lock.read_bytes()).hexdigest() != record.requirements_sha256:
        problems.append("requirements.lock differs; install the one of the run's commit")
    problems += _lost(record.starts, root)
    here = _versions()
    for name, old in record.libraries.items():
        if here.get(name) != old:
            problems.append(f"{name} is {here.get(name, 'absent')}, the run had {old}")
    if (device := device_type()) != record.device:
        problems.append(f"the run was made on {record.device}, this is {device}: weights may differ in their last bits")
    return problems


def _lost(starts: Mapping[str, str], root: Path) -> list[str]:
    """Folders that stages started from and that are gone; their content is compared when a stage takes them."""
    known = [(stage, Start.parse(text)) for stage, text in starts.items()]
    return [
        f"{stage} started from {start.spec}, which is not here"
        for stage, start in known
        if start.kind in ("components", "weights") and not (root / start.address).is_dir()
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
