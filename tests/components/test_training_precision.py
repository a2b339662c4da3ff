"""16-bit arithmetic and offloading under real DeepSpeed on gloo ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from training_world import World, train_params

from components.params import ParamsError, merge, parse, read_mapping
from components.run.failures import FailureClass

QUIET = {"NO_DROPOUT": "1"}


@pytest.fixture(scope="module")
def reference(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("reference"), train_params(ranks=1, log_every_steps=1), warm)
    assert world.attempt(**QUIET) is None
    return world


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        pytest.param({"ranks": 1, "zero_stage": 2, "offload": "optimizer"}, 1e-5, id="one-rank-optimizer-away", marks=pytest.mark.faults),
        pytest.param({"zero_stage": 3, "offload": "parameters"}, 1e-5, id="zero-3-parameters-away"),
        pytest.param({"zero_stage": 2, "precision": "bf16-mixed"}, 5e-2, id="zero-2-bfloat16"),
        pytest.param({"ranks": 1, "precision": "bf16-mixed"}, 5e-2, id="plain-bfloat16", marks=pytest.mark.faults),
    ],
)
def test_losses_are_those_of_float32_in_place(
    shape: dict[str, Any], tolerance: float, reference: World, warm: Mapping[str, str], tmp_path: Path
) -> None:
    world = World(tmp_path, train_params(log_every_steps=1, whole_parameters=0, **shape), warm)
    assert world.attempt(**QUIET) is None, world.failure
    for expected, found in zip(reference.curve, world.curve, strict=True):
        assert all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(expected, found, strict=True)), (expected, found)


def test_float16_is_refused_where_there_is_no_gpu(warm: Mapping[str, str], tmp_path: Path) -> None:
    world = World(tmp_path, train_params(precision="16-mixed"), warm)
    assert world.attempt() is not None
    assert world.failure is not None
    assert world.failure.failure is FailureClass.BAD_CONFIG
    assert "16-mixed, float16 is for GPUs" in world.failure.message


def test_parameters_are_offloaded_by_stage_3_alone() -> None:
    values = read_mapping(Path(__file__).parents[2] / "params.yaml")
    with pytest.raises(
        ParamsError, match=r"pretrain\.offload is parameters, which only zero_stage 3 shares out; set pretrain\.zero_stage=3"
    ):
        parse(merge(values, {"pretrain": {"offload": "parameters"}}))
    assert parse(merge(values, {"pretrain": {"offload": "parameters", "zero_stage": 3}})).pretrain.sharded_stage == 3
