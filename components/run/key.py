"""The stage key: a digest of everything a stage's outs may depend on, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.params import ParamsError
from components.run.failures import FailureClass, StageError
from components.run.pipeline import StageSpec

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StageInputs:
    """All that may shape a stage's outs. `deps` holds DVC's md5 of each dependency; requirements.lock is one of them."""

    stage: str
    cmd: str
    deps: Mapping[str, str]
    params: Mapping[str, Any]
    device: str

    @property
    def key(self) -> str:
        """The stage key, a sha256."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def stage_inputs(stage: StageSpec, root: Path, values: Mapping[str, Any], device: str) -> StageInputs:
    """What the stage would read in this checkout; `values` is the parsed params.yaml. Raises StageError for an absent dependency."""
    deps = {path: content_md5(root / path) for path in sorted(stage.deps)}
    return StageInputs(stage.name, stage.cmd, deps, {name: _value(values, name) for name in sorted(stage.params)}, device)


def content_md5(path: Path) -> str:
    """DVC's hash of a file (hex) or a folder (hex + `.dir`)."""
    if path.is_file():
        return _file_md5(path)
    if not path.is_dir():
        raise StageError(FailureClass.BAD_DATA, f"{path} does not exist", "run the stage that makes it, or `dvc pull`")
    entries = [{"md5": _file_md5(file), "relpath": file.relative_to(path).as_posix()} for file in path.rglob("*") if file.is_file()]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def device_type(environment: Mapping[str, str] = os.environ) -> str:
    """What the stage computes on: `cpu`, or the distinct GPU names. Results are only bit-identical on equal devices."""
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None or environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    found = subprocess.run([program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False)
    names = sorted({line.strip() for line in found.stdout.splitlines() if line.strip()}) if found.returncode == 0 else []
    return "cuda:" + ",".join(names) if names else "cpu"


def _file_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _value(values: Mapping[str, Any], name: str) -> Any:
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise ParamsError(f"params.yaml: {name}: dvc.yaml declares this key, but it is absent")
        found = found[part]
    return found
