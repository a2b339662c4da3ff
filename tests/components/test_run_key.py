"""The stage key follows its inputs and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.params import ParamsError
from components.run.failures import StageError
from components.run.key import content_md5, device_type, stage_inputs
from components.run.pipeline import StageSpec, read_pipeline

STAGE = StageSpec("train", "python train.py", ("data", "train.py"), ("seed", "model.width"), ("out",))
VALUES = {"seed": 1, "model": {"width": 8, "depth": 2}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("1")
    (tmp_path / "train.py").write_text("pass")
    return tmp_path


def key(root: Path, stage: StageSpec = STAGE, values: dict = VALUES, device: str = "cpu") -> str:  # type: ignore[type-arg]
    return stage_inputs(stage, root, values, device).key


def test_equal_inputs_have_equal_keys_wherever_they_lie(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import shutil

    other = tmp_path_factory.mktemp("elsewhere") / "x"
    shutil.copytree(root, other)
    assert key(root) == key(other)
    assert key(root, values=VALUES | {"not declared": 3}) == key(root)


@pytest.mark.parametrize("change", ["data", "code", "cmd", "params", "device"])
def test_any_input_counts(root: Path, change: str) -> None:
    before = key(root)
    stage, values, device = STAGE, VALUES, "cpu"
    match change:
        case "data":
            (root / "data" / "a").rename(root / "data" / "b")
        case "code":
            (root / "train.py").write_text("pass # changed")
        case "cmd":
            stage = replace(STAGE, cmd="python train.py --more")
        case "params":
            values = {"seed": 1, "model": {"width": 9, "depth": 2}}
        case "device":
            device = "cuda:NVIDIA H100 80GB HBM3"
    assert key(root, stage, values, device) != before


def test_the_folder_digest_is_dvcs(root: Path) -> None:
    from dvc.repo import Repo
    from tiny_line import git

    (root / "data" / "deeper").mkdir()
    (root / "data" / "deeper" / "b b").write_bytes(b"\r\n\x00")
    git(root, "init", "-q")
    with Repo.init(str(root)) as repo:
        pinned = repo.add(str(root / "data"))
    assert pinned[0].outs[0].hash_info.value == content_md5(root / "data")


def test_an_absent_dependency_or_parameter_is_named(root: Path) -> None:
    with pytest.raises(StageError, match=r"train2\.py does not exist"):
        key(root, replace(STAGE, deps=("train2.py",)))
    with pytest.raises(ParamsError, match=r"model\.height"):
        key(root, replace(STAGE, params=("model.height",)))


def test_a_machine_without_gpus_is_a_cpu(tmp_path: Path) -> None:
    assert device_type({"PATH": str(tmp_path)}) == "cpu"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'NVIDIA B\\nNVIDIA A\\nNVIDIA B\\n'\n")
    tool.chmod(0o755)
    assert device_type({"PATH": str(tmp_path)}) == "cuda:NVIDIA A,NVIDIA B"
    assert device_type({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}) == "cpu"


def test_a_pipeline_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="does not exist"):
        read_pipeline(tmp_path / "dvc.yaml")
    (tmp_path / "dvc.yaml").write_text("stages: [")
    with pytest.raises(StageError, match="cannot be read"):
        read_pipeline(tmp_path / "dvc.yaml")
