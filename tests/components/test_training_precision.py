"""16-bit arithmetic and offloading under real DeepSpeed on gloo ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from training_world import World, train_params

from components.training.universal_form import TAG

QUIET = {"NO_DROPOUT": "1"}


@pytest.fixture(scope="module")
def reference(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("reference"), train_params(ranks=1, log_every_steps=1), warm)
    assert world.attempt(**QUIET) is None
    return world


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        pytest.param({"ranks": 1, "zero_stage": 2, "offload": "optimizer"}, 1e-5, id="one-rank-optimizer-away"),
        pytest.param({"zero_stage": 3, "offload": "parameters"}, 1e-5, id="zero-3-parameters-away"),
        pytest.param({"zero_stage": 2, "precision": "bf16-mixed"}, 5e-2, id="zero-2-bfloat16"),
        pytest.param({"ranks": 1, "precision": "bf16-mixed"}, 5e-2, id="plain-bfloat16"),
    ],
)
def test_losses_are_those_of_float32_in_place(
    shape: dict[str, Any], tolerance: float, reference: World, warm: Mapping[str, str], tmp_path: Path
) -> None:
    world = World(tmp_path, train_params(log_every_steps=1, whole_parameters=0, **shape), warm)
    assert world.attempt(**QUIET) is None, world.failure
    for expected, found in zip(reference.curve, world.curve, strict=True):
        assert all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(expected, found, strict=True)), (expected, found)


def test_an_overflow_of_float16_is_left_out_and_its_scale_survives_a_kill(warm: Mapping[str, str], tmp_path: Path) -> None:
    """The scale begins at 65536; a gradient of infinity leaves a step out."""
    worlds = [World(tmp_path / name, train_params(precision="16-mixed", log_every_steps=1), warm) for name in ("whole", "killed")]
    assert worlds[0].attempt(EXPLODE_AT="2", **QUIET) is None, worlds[0].failure
    assert worlds[1].attempt(EXPLODE_AT="2", KILL_AT="5:1:9", **QUIET) is not None
    assert worlds[1].attempt(EXPLODE_AT="2", **QUIET) is None
    assert worlds[1].digest == worlds[0].digest
    assert [math.isfinite(row[-1]) for row in worlds[0].curve].count(False) >= 1
    newest = max((worlds[0].work / "checkpoints").glob("step-*"))
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([DynamicLossScaler, ZeroStageEnum, fragment_address]):
        kept = torch.load(min((newest / "engine" / TAG).glob("*_optim_states.pt")), weights_only=True)["optimizer_state_dict"]
    assert kept["loss_scaler"].cur_scale < 65536
